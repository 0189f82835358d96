"""The names inside a run folder, and which checkpoint is the newest.

Newest is the highest (attempt, ordinal): never the modification time, never a pointer file.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

from holdfast.storage.paths import partial_name as partial_name

RUN_FILE = "holdfast.json"
TRAINER_LOCK = ".trainer.lock"
WRITER_LOCK = ".writer.lock"

LABEL = r"[A-Za-z0-9][A-Za-z0-9._=+,-]{0,149}"
"""What a checkpoint's name may begin with: short enough to leave room for what a try or a deletion adds."""

HASH = "{hash}"
"""Stands in a label for the content hash until all is written and it is known."""

UNHASHED = "hash-pending"
"""Stands for the content hash, in as many characters, in the name of a try and in what is told of it."""

_NAME = re.compile(rf"(?P<label>{LABEL})\.a(?P<attempt>[0-9]{{4,18}})\.n(?P<ordinal>[0-9]{{4,18}})")
_is_label = re.compile(LABEL).fullmatch
_SMALL_FILE = re.compile(r"holdfast\.json|[0-9]{4,18}\.json")
_DEBRIS = re.compile(r"(?P<partial>.+)\.partial-[A-Za-z0-9-]+|\.deleting-(?P<deleting>.+)-[A-Za-z0-9]+")


def default_label(step: int) -> str:
    """The label of a checkpoint whose saver has no template for names.

    >>> default_label(500)
    'step-00000500'
    """
    return f"step-{step:08d}"


def unhashed(name: str) -> str:
    """A label or a name before its content hash is known.

    >>> unhashed("epoch-2-{hash}")
    'epoch-2-hash-pending'
    """
    return name.replace(HASH, UNHASHED)


def is_label(text: str) -> bool:
    """Whether ``text`` may stand at the beginning of a checkpoint's name."""
    return _is_label(text) is not None


@functools.total_ordering
@dataclass(frozen=True, slots=True)
class CheckpointName:
    """The name of a checkpoint directory; ordered oldest to newest.

    ``label`` is for people; which checkpoint it is, and how new, the attempt and the ordinal say.

    >>> str(CheckpointName("step-00000500", attempt=1, ordinal=3))
    'step-00000500.a0001.n0003'
    >>> CheckpointName("epoch-2", attempt=1, ordinal=3) < CheckpointName("epoch-1", attempt=2, ordinal=1)
    True
    """

    label: str
    attempt: int
    ordinal: int

    def __str__(self) -> str:
        return f"{self.label}.a{self.attempt:04d}.n{self.ordinal:04d}"

    def __lt__(self, other: CheckpointName) -> bool:
        return (self.order, self.label) < (other.order, other.label)

    @property
    def order(self) -> tuple[int, int]:
        """Newest is highest."""
        return self.attempt, self.ordinal

    @classmethod
    def parse(cls, text: str) -> CheckpointName | None:
        """The name that ``text`` spells, or None if it is not exactly a checkpoint's name.

        >>> CheckpointName.parse("step-00000500.a0001.n0003").ordinal
        3
        """
        match = _NAME.fullmatch(text)
        if match is None:
            return None
        name = cls(match["label"], int(match["attempt"]), int(match["ordinal"]))
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
