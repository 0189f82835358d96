"""What the measurements say: medians, how far they spread, and ratios.

A ratio is formed within each repetition, where both sides met the same machine, before the median is taken.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from suite import figures
from suite.contenders import HOLDFAST, NAMES
from suite.records import MACHINE, Results

ByRepetition = dict[int, float]

LIMITS = {
    figures.STALL: figures.COPY_WARM,
    figures.CALL: figures.COPY_WARM,
    figures.OVERHEAD: figures.COPY_WARM,
    figures.FIRST_STALL: figures.COPY_COLD,
    figures.FIRST_OVERHEAD: figures.COPY_COLD,
    figures.BESIDE: figures.RAW_WRITE,
    figures.DURABLE: figures.RAW_WRITE,
    figures.DONE: figures.RAW_WRITE,
    figures.WARM: figures.READ_WARM,
    figures.COLD: figures.RAW_READ,
}
"""What of the machine each figure is held against."""
BYTES = {
    figures.WRITTEN: figures.CHANGED,
    figures.DISK: figures.SIZE,
    figures.SAVING_MEMORY: figures.SIZE,
    figures.LOADING_MEMORY: figures.SIZE,
}
"""And of the state."""


@dataclass(frozen=True)
class Spread:
    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread | None:
        found = list(values)
        return cls(statistics.median(found), min(found), max(found)) if found else None


class Summary:
    """Of one run of the suite."""

    def __init__(self, results: Results) -> None:
        self.results = results
        self._measured = {(one.workload, one.contender, one.repetition): one for one in results.measurements}
        self.contenders = [name for name in NAMES if any(one.contender == name for one in results.measurements)]

    def values(self, workload: str, contender: str, figure: str) -> ByRepetition:
        """The median of what one process measured, by repetition."""
        found = {}
        for repetition in range(self.results.repetitions):
            measured = self._measured.get((workload, contender, repetition))
            if measured is not None and measured.figures.get(figure):
                found[repetition] = statistics.median(measured.figures[figure])
        return found

    def spread(self, workload: str, contender: str, figure: str) -> Spread | None:
        return Spread.of(self.values(workload, contender, figure).values())

    def limit(self, workload: str, contender: str, figure: str) -> ByRepetition:
        """What ``figure`` could be at best; nothing where there is no such thing."""
        if figure in LIMITS:
            return self.values(workload, MACHINE, LIMITS[figure])
        if figure in BYTES:
            return self.values(workload, contender, BYTES[figure])
        if figure in (figures.FIRST_BATCH, figures.FIRST_STEP):
            start, read = self.values(workload, MACHINE, figure), self.values(workload, MACHINE, figures.RAW_READ)
            return {one: start[one] + read[one] for one in start.keys() & read.keys()}
        return {}

    def to_limit(self, workload: str, contender: str, figure: str) -> Spread | None:
        return quotient(self.values(workload, contender, figure), self.limit(workload, contender, figure))

    def best_peer(self, workload: str, figure: str, among: Callable[[str], bool] = lambda name: True) -> str | None:
        """The one of the least median, where that is more than nothing."""
        spreads = {name: self.spread(workload, name, figure) for name in self.contenders if name != HOLDFAST}
        medians = {
            name: one.median for name, one in spreads.items() if one is not None and one.median > 0 and among(name)
        }
        return min(medians, key=medians.__getitem__) if medians else None

    def to_peer(self, workload: str, figure: str, peer: str) -> Spread | None:
        return quotient(self.values(workload, HOLDFAST, figure), self.values(workload, peer, figure))

    def cannot(self, workload: str) -> dict[str, str]:
        """Who could not run, or could not do all that was asked, and why."""
        failed = [one for one in self.results.measurements if one.workload == workload and one.cannot]
        return {one.contender: one.cannot for one in failed}

    def notes(self) -> list[str]:
        return sorted({note for one in self.results.measurements for note in one.notes})


def quotient(above: ByRepetition, below: ByRepetition) -> Spread | None:
    """By repetition; those that have only one side, or nothing to divide by, are left out."""
    return Spread.of(above[one] / below[one] for one in above if below.get(one, 0) > 0)
