"""Keep policies for the long run: the best ones, and one at every mark."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from holdfast.errors import UsageError
from holdfast.policies.best import Mode, check_metric
from holdfast.policies.keep import KeepPolicy, Kept
from holdfast.policies.keep_newest import check_count
from holdfast.policies.units import amount, every, given, require_interval


@dataclass(frozen=True, slots=True, repr=False)
class KeepBest(KeepPolicy):
    """The ``count`` best by ``metric``, as it was when they were saved; ``mode`` says whether less or more is better.

    A metric stays what it was until it is logged again, so of several checkpoints with the very same value only the
    first counts. Those without the metric, or whose value is no number (NaN), are never among the best.

    >>> KeepBest("val_loss", 2)
    KeepBest(metric='val_loss', count=2)
    """

    metric: str
    count: int = 1
    mode: Mode = field(default="min", kw_only=True)

    def __post_init__(self) -> None:
        check_metric("KeepBest", self.metric, self.mode)
        _check_no_mode(self.metric, self.count)
        check_count("KeepBest", self.count)

    def reasons(self, checkpoints: Sequence[Kept]) -> Mapping[str, str]:
        first: dict[float, str] = {}
        for one in checkpoints:
            value = one.metrics.get(self.metric, math.nan)
            if not math.isnan(value):
                first.setdefault(value, one.name)
        best = sorted(first, reverse=self.mode == "max")[: self.count]
        rank = f"best {self.count}" if self.count > 1 else "best"
        return {first[value]: f"{rank} by {self.metric} ({value:.6g})" for value in best}


@dataclass(frozen=True, slots=True, repr=False, kw_only=True)
class KeepEvery(KeepPolicy):
    """The first at or behind each mark: every so many steps or epochs, hours or days. Give exactly one unit.

    ``minutes``, ``hours`` and ``days`` are of the clock (UTC), so ``KeepEvery(days=1)`` keeps the first of each day.

    >>> KeepEvery(steps=10_000)
    KeepEvery(steps=10000)
    """

    steps: int | None = None
    batches: int | None = None
    epochs: int | None = None
    minutes: float | None = None
    hours: float | None = None
    days: float | None = None

    def __post_init__(self) -> None:
        require_interval(self)

    def reasons(self, checkpoints: Sequence[Kept]) -> Mapping[str, str]:
        unit, interval = given(self)
        kept: dict[str, str] = {}
        # A clock that was ahead for a while must not hide the marks of all the time until then.
        passed = {0}
        for one in checkpoints:
            mark = math.floor(amount(one.progress, unit, one.created) / interval)
            if mark not in passed and not one.on_error:
                passed.add(mark)
                kept[one.name] = every(interval, unit)
        return kept


def _check_no_mode(metric: str, count: object) -> None:
    if count in ("min", "max"):
        raise UsageError(
            f"KeepBest({metric!r}, {count!r}): the second argument is how many to keep; give mode={count!r} by name."
        )
