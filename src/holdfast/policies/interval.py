"""Save policies that count: at every multiple, at given points, at most so often."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from holdfast.errors import UsageError
from holdfast.policies.moment import Moment
from holdfast.policies.save import SavePolicy
from holdfast.policies.units import amount, every, given, require_above_zero, require_interval, require_one
from holdfast.types import Progress


@dataclass(frozen=True, slots=True, repr=False, kw_only=True)
class _Interval(SavePolicy):
    """So many of exactly one unit."""

    steps: int | None = None
    batches: int | None = None
    epochs: int | None = None
    samples: int | None = None
    tokens: int | None = None
    seconds: float | None = None
    minutes: float | None = None
    hours: float | None = None
    days: float | None = None

    def __post_init__(self) -> None:
        require_interval(self)


@dataclass(frozen=True, slots=True, repr=False, kw_only=True)
class Every(_Interval):
    """Due whenever a multiple of the interval is crossed. Give exactly one unit.

    ``steps`` are optimizer steps; ``seconds``, ``minutes``, ``hours`` and ``days`` are training time, summed over
    restarts;
    ``fraction=0.05`` is twenty times over the run, whatever its length.

    >>> Every(steps=200) | Every(minutes=10)
    Every(steps=200) | Every(minutes=10)
    """

    fraction: float | None = None

    def __post_init__(self) -> None:
        require_interval(self)
        if self.fraction is not None and self.fraction > 1:
            raise UsageError(f"Every(fraction={self.fraction!r}): a fraction of the run lies above 0 and is at most 1.")

    def due(self, moment: Moment) -> str | None:
        unit, interval = given(self)
        if unit == "fraction":
            if moment.share is None:
                return None
            # A save from before the length was known leaves all of what is done to be looked at.
            before, now = moment.previous_share or 0.0, moment.share
        else:
            before, now = _count(moment.previous, unit), _count(moment.progress, unit)
        if _multiples(now, interval) <= _multiples(before, interval):
            return None
        return every(interval, unit)


@dataclass(frozen=True, slots=True, repr=False, kw_only=True)
class At(SavePolicy):
    """Due once at each of the given counts, or at the first boundary behind it. Give exactly one unit.

    >>> At(steps=[100, 1000, 10000])
    At(steps=[100, 1000, 10000])
    """

    steps: Sequence[int] | None = None
    batches: Sequence[int] | None = None
    epochs: Sequence[int] | None = None
    samples: Sequence[int] | None = None
    tokens: Sequence[int] | None = None

    def __post_init__(self) -> None:
        name, value = require_one(self)
        if isinstance(value, (str, bytes)) or not isinstance(value, Sequence) or not value:
            raise UsageError(f"At({name}={value!r}): expected a list of counts, such as At({name}=[100, 1000]).")
        for one in value:
            require_above_zero(self, name, one)
        object.__setattr__(self, name, tuple(sorted(set(value))))

    def due(self, moment: Moment) -> str | None:
        unit, points = given(self)
        before, now = _count(moment.previous, unit), _count(moment.progress, unit)
        passed = [point for point in points if before < point <= now]
        return f"at {unit} {', '.join(map(str, passed))}" if passed else None


@dataclass(frozen=True, slots=True, repr=False, kw_only=True)
class AtMostEvery(_Interval):
    """A limit for other policies: ``OnBest("loss") & AtMostEvery(minutes=5)``. Give exactly one unit.

    True as soon as so much has passed since the newest save, so it is no reason to save by itself.
    """

    def due(self, moment: Moment) -> str | None:
        unit, interval = given(self)
        passed = _count(moment.progress, unit) - _count(moment.saved, unit)
        return f"at most {every(interval, unit)}" if passed >= interval else None


def _count(progress: Progress, unit: str) -> Any:
    return amount(progress, unit, progress.elapsed)


def _multiples(value: float, interval: float) -> int:
    """How many multiples have been reached; 0.3 is the third multiple of 0.1, whatever its binary says."""
    return math.floor(value / interval + 1e-9)
