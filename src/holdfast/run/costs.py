"""What saves cost the training, measured while it goes on."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from holdfast.policies.moment import Costs

_WINDOW = 32
"""Batches by which it is known how long one takes while nothing is being written."""
_SLOWEST = 8.0
"""How many times longer than usual a batch may have taken because of a save; more than that has another cause."""
_COPY_RATE, _WRITE_RATE = 1e9, 3e8
"""Bytes a second, on the safe side, by which the cost of the first save is estimated."""
_FIXED_SECONDS = 0.01


@dataclass(slots=True)
class SaveCost:
    """What one save has cost so far, in seconds.

    While it is ``writing``, it counts as slow as the saver's save before, whose figures are ``usual_persist`` and
    ``usual_slowdown``: one that seemed to cost nothing would call for the next at once. One that ``failed``, perhaps
    in its first moment, counts so too: the next one before a deadline has to begin as early as ever.
    """

    blocking: float = 0.0
    persist: float = 0.0
    extra: float = 0.0
    measured: bool = False
    writing: bool = False
    failed: bool = False
    usual_persist: float = 0.0
    usual_slowdown: float = 0.0

    def follow(self, before: SaveCost) -> None:
        """Begins to be written, by a saver whose save before was that one."""
        seen = before.seen(0.0)
        self.writing = True
        self.usual_persist = max(self.usual_persist, seen.persist)
        self.usual_slowdown = max(self.usual_slowdown, seen.slowdown)

    def seen(self, batch: float) -> Costs:
        """As policies see it, with the time that a ``batch`` takes."""
        persist, slowdown = self.persist, self._slowdown
        if self.writing or self.failed:
            persist, slowdown = max(persist, self.usual_persist), max(slowdown, self.usual_slowdown)
        return Costs(
            blocking=self.blocking, slowdown=slowdown, persist=persist, batch=batch, measured=self.measured,
            writing=self.writing,
        )  # fmt: skip

    @property
    def _slowdown(self) -> float:
        """Training cannot have been slowed down for longer than the writing took."""
        return min(max(self.extra, 0.0), self.persist)


def estimate(size: int) -> SaveCost:
    """The cost of a first save of ``size`` bytes, before any is known.

    >>> round(estimate(2 * 10**9).blocking, 2)
    2.01
    """
    return SaveCost(blocking=size / _COPY_RATE + _FIXED_SECONDS, persist=size / _WRITE_RATE + _FIXED_SECONDS)


@dataclass(slots=True)
class CostMeter:
    """Measures the newest save: how long it stops training, and how much longer batches take while it is written.

    What a ``batch`` takes otherwise, in seconds, is the median of the last ones during which nothing was written.
    """

    clock: Callable[[], float] = time.monotonic
    batch: float = 0.0
    newest: SaveCost = field(default_factory=SaveCost)
    _quiet: deque[float] = field(default_factory=lambda: deque(maxlen=_WINDOW))
    _last: float | None = None
    _stopped: float = 0.0
    _open: SaveCost | None = None

    @contextmanager
    def stopping(self) -> Iterator[SaveCost]:
        """Around what training waits for, of one save; the part inside of another one belongs to that one's save."""
        if self._open is not None:
            yield self._open
            return
        begin, cost = self.clock(), SaveCost(measured=True)
        self._open = cost
        try:
            yield cost
        finally:
            cost.blocking = self.clock() - begin
            self._stopped += cost.blocking
            self._open = None

    def taken(self, cost: SaveCost) -> None:
        """A snapshot that costs so much was handed over: it is the newest save from now on."""
        self.newest = cost

    def written(self, seconds: float) -> None:
        """The writer took so long for one of the newest save's checkpoints."""
        self.newest.persist += seconds

    def done(self) -> None:
        """Nothing is being written any more."""
        self.newest.writing = False

    def boundary(self, *, batch: bool, writing: bool) -> None:
        """A boundary: behind a ``batch``, or at another place. ``writing``: until now a save was being written."""
        now = self.clock()
        if batch and self._last is not None:
            self._note(now - self._last - self._stopped, writing)
        self._last, self._stopped = now, 0.0

    def _note(self, seconds: float, writing: bool) -> None:
        if not writing:
            self._quiet.append(seconds)
            self.batch = sorted(self._quiet)[len(self._quiet) // 2]
        elif self._quiet:
            self.newest.extra += min(seconds, _SLOWEST * self.batch) - self.batch
