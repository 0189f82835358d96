"""The time of day, and one that does not jump."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

_JUMP_SECONDS = 60.0
"""What clocks are set by in the ordinary way is less."""


def _steady() -> float:
    """Seconds that pass also while the machine sleeps, and that nobody sets."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)


@dataclass(slots=True)
class Clock:
    """``created`` goes on steadily from the time of day at the start: no daily checkpoint is lost or kept twice because
    somebody set the clock. ``now`` is the time of day, by which a scheduler ends a job.
    """

    wall: Callable[[], float] = time.time
    steady: Callable[[], float] = _steady
    _offset: float = field(init=False)

    def __post_init__(self) -> None:
        self._offset = self.wall() - self.steady()

    def now(self) -> float:
        """Seconds since 1970 (UTC), as the machine says."""
        return self.wall()

    def created(self) -> datetime:
        """The time for the record."""
        return datetime.fromtimestamp(self.steady() + self._offset, UTC)

    def jump(self) -> float:
        """Seconds by which somebody has set the clock since the start; 0 for what is not worth a word."""
        jump = self.wall() - self.steady() - self._offset
        return jump if abs(jump) > _JUMP_SECONDS else 0.0
