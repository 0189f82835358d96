"""The resume proves itself: what replayed steps log is compared with what they logged before the crash."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from holdfast import wording
from holdfast.engine.journal import read_journal
from holdfast.storage.base import Storage
from holdfast.types import Json

At = tuple[int, int, int]


class Line(msgspec.Struct):
    """What a journal's line has to be for a comparison with it."""

    at: At
    n: int
    log: dict[str, list[Any]] = {}


@dataclass(slots=True)
class Replay:
    """What earlier attempts recorded after the checkpoint, and how the replay compares so far.

    Keys are (epoch, loop, batch); a record holds the values logged since the boundary before, by
    name in order of occurrence, the digest of the indices, and the digest of the random state before ``iter()``.
    """

    step: int
    expected: dict[At, dict[str, Json]] = field(default_factory=dict)
    compared: int = 0
    difference: str | None = None
    largest_deviation: float = 0.0
    values: int = 0
    orders: int = 0

    @property
    def total(self) -> int:
        return self.compared + sum(map(_is_batch, self.expected.values()))

    @property
    def done(self) -> bool:
        return not self.expected

    def check(self, at: At, record: dict[str, Json]) -> None:
        """Compares one record with what was recorded there before."""
        expected = self.expected.pop(at, None)
        if expected is None:
            return
        self.compared += _is_batch(expected)
        for key in ("index", "rng"):
            if key not in expected or key not in record:
                continue
            self.orders += 1
            if expected[key] != record[key]:
                name = {"index": "the order of the samples", "rng": "the random state before iter()"}[key]
                self._differs(f"{name} at {_place(at)}")
        self._check_log(at, expected.get("log", {}), record.get("log", {}))

    def _check_log(self, at: At, expected: dict[str, list[Json]], found: dict[str, list[Json]]) -> None:
        for name in expected.keys() | found.keys():
            before, now = expected.get(name, []), found.get(name, [])
            if len(before) != len(now):
                counts = f"{len(before)} times before and {len(now)} times now"
                self._differs(f"{name!r} was logged {counts} at {_place(at)}")
            for occurrence, (old, new) in enumerate(zip(before, now, strict=False)):
                self.values += 1
                if old != new:
                    self.largest_deviation = max(self.largest_deviation, _deviation(old, new))
                    self._differs(f"{name!r} (occurrence {occurrence}) at {_place(at)} was {old} and is {new}")

    def _differs(self, what: str) -> None:
        if self.difference is None:
            self.difference = what

    def _agreement(self) -> str:
        if self.values:
            return f", identical ({wording.count(self.values, 'logged value')})"
        if self.orders:
            return ", the same samples in the same order; no values were logged that could differ: use run.log()"
        return ", but nothing was logged in them, so nothing shows whether they are the same: use run.log()"

    def report(self) -> str:
        """One sentence for people."""
        head = f"resumed at step {self.step}: {self.compared} of {self.total} replayed batches compared"
        if self.compared == 0 and self.difference is None:
            return head
        if self.difference is None:
            return head + self._agreement()
        deviation = f"; largest relative deviation {self.largest_deviation:.3g}" if self.largest_deviation else ""
        return f"{head}, first difference: {self.difference}{deviation}"


def expect(storage: Storage, attempts: Iterable[int], after: tuple[At, int], step: int) -> Replay:
    """What ``attempts``, oldest first, recorded beyond the boundary of the checkpoint; later attempts count more.

    ``after`` is the checkpoint's key and its number of batches in the whole run.
    """
    replay = Replay(step)
    for attempt in attempts:
        for record in read_journal(storage, attempt):
            line = _line(record) if record.get("t") in ("batch", "tail") else None
            if line is not None and line.n >= after[1] and line.at > after[0]:
                replay.expected[line.at] = record
    return replay


def _is_batch(record: dict[str, Json]) -> bool:
    """What follows an epoch's last batch has a record too."""
    return record.get("t") == "batch"


def _line(record: dict[str, Any]) -> Line | None:
    """None for a line that is damaged: the journal has no digest, and a resume does without it."""
    try:
        return msgspec.convert(record, Line)
    except msgspec.ValidationError:
        return None


def _deviation(old: Json, new: Json) -> float:
    if not isinstance(old, (int, float)) or not isinstance(new, (int, float)):
        return 0.0
    return abs(new - old) / max(abs(old), abs(new))


def _place(at: At) -> str:
    return f"epoch {at[0]}, loop {max(at[1], 0)}, batch {at[2]}"
