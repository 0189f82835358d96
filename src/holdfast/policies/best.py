"""Saving what is better than all before."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from holdfast.errors import UsageError
from holdfast.policies.moment import Moment
from holdfast.policies.save import SavePolicy
from holdfast.types import Json

Mode = Literal["min", "max"]


@dataclass(frozen=True, slots=True, repr=False)
class OnBest(SavePolicy):
    """Due when ``metric`` was logged and is better, by more than ``improvement``, than it was at the last such save.

    ``mode`` says whether less or more is better. Values that are no numbers (NaN) are never better. The best value is
    part of the checkpoint, so a restart or a moved folder does not forget it.

    >>> OnBest("accuracy", mode="max")
    OnBest(metric='accuracy', mode='max')
    """

    metric: str
    mode: Mode = "min"
    improvement: float = field(default=0.0, kw_only=True)

    def __post_init__(self) -> None:
        check_metric("OnBest", self.metric, self.mode)
        if not 0 <= self.improvement < math.inf:
            raise UsageError(f"OnBest(improvement={self.improvement!r}): expected a number of at least 0.")

    def due(self, moment: Moment) -> str | None:
        value, best = moment.logged.get(self.metric), moment.memory.get(self._key)
        if value is None or math.isnan(value):
            return None
        if isinstance(best, (int, float)) and not self._better(value, best):
            return None
        return f"best {self.metric} ({value:.6g})"

    def remember(self, moment: Moment) -> Mapping[str, Json]:
        return {self._key: moment.logged[self.metric]} if self.due(moment) is not None else {}

    def insists(self, moment: Moment) -> bool:
        return self.due(moment) is not None

    @property
    def _key(self) -> str:
        return f"best {self.metric} {self.mode}"

    def _better(self, value: float, best: float) -> bool:
        gain = best - value if self.mode == "min" else value - best
        return gain > self.improvement


def check_metric(kind: str, metric: object, mode: object) -> None:
    """Raises `UsageError` for a metric or mode that cannot be one."""
    if not isinstance(metric, str) or not metric:
        raise UsageError(f"{kind}({metric!r}): expected the name of a metric, as it is given to run.log().")
    if mode not in ("min", "max"):
        raise UsageError(f'{kind}({metric!r}, mode={mode!r}): expected "min" or "max".')
