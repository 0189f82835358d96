"""The names inside a run folder, and which checkpoint is the newest.

Newest is the highest (attempt, ordinal): never the modification time, never a pointer file.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

from holdfast.storage.paths import partial_name as partial_name

RUN_FILE = "holdfast.json"
ATTEMPTS = "attempts"
JOURNAL = "journal"
TRAINER_LOCK = ".trainer.lock"
WRITER_LOCK = ".writer.lock"

_NAME = re.compile(r"step-([0-9]{8,18})\.a([0-9]{4,18})\.n([0-9]{4,18})")
_SMALL_FILE = re.compile(r"holdfast\.json|[0-9]{4,18}\.json")
_DEBRIS = re.compile(r"(?P<partial>.+)\.partial-[A-Za-z0-9-]+|\.deleting-(?P<deleting>.+)-[A-Za-z0-9]+")


@functools.total_ordering
@dataclass(frozen=True, slots=True)
class CheckpointName:
    """The name of a checkpoint directory; ordered oldest to newest.

    >>> str(CheckpointName(step=500, attempt=1, ordinal=3))
    'step-00000500.a0001.n0003'
    >>> CheckpointName(step=500, attempt=1, ordinal=3) < CheckpointName(step=120, attempt=2, ordinal=1)
    True
    """

    step: int
    attempt: int
    ordinal: int

    def __str__(self) -> str:
        return f"step-{self.step:08d}.a{self.attempt:04d}.n{self.ordinal:04d}"

    def __lt__(self, other: CheckpointName) -> bool:
        return self._order < other._order

    @property
    def _order(self) -> tuple[int, int, int]:
        return self.attempt, self.ordinal, self.step

    @classmethod
    def parse(cls, text: str) -> CheckpointName | None:
        """The name that ``text`` spells, or None if it is not exactly a checkpoint's name.

        >>> CheckpointName.parse("step-00000500.a0001.n0003").step
        500
        """
        match = _NAME.fullmatch(text)
        if match is None:
            return None
        name = cls(*(int(digits) for digits in match.groups()))
        return name if str(name) == text else None


def is_debris(name: str) -> bool:
    """Whether the name is a try that was never committed, or a deletion that was not finished.

    Only names built from holdfast's own ones count: what is called so may be removed unasked.

    >>> is_debris("step-00000500.a0001.n0003.partial-9f3c"), is_debris("my.partial-notes")
    (True, False)
    """
    match = _DEBRIS.fullmatch(name)
    if match is None:
        return False
    whole = match["partial"] or match["deleting"]
    return CheckpointName.parse(whole) is not None or _SMALL_FILE.fullmatch(whole) is not None


def attempt_file(attempt: int) -> str:
    """The create-only record of an attempt, relative to the run folder.

    >>> attempt_file(1)
    'attempts/0001.json'
    """
    return f"{ATTEMPTS}/{attempt:04d}.json"


def journal_file(attempt: int) -> str:
    """The flight recorder of an attempt, relative to the run folder.

    >>> journal_file(12)
    'journal/0012.jsonl'
    """
    return f"{JOURNAL}/{attempt:04d}.jsonl"
