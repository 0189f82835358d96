"""An interval that bounds what it costs."""

from __future__ import annotations

import math
from dataclasses import dataclass

from holdfast.errors import UsageError
from holdfast.policies.moment import Moment
from holdfast.policies.save import Choice, SavePolicy


@dataclass(frozen=True, slots=True)
class Overhead(SavePolicy):
    """Saves as often as it can while saving takes at most ``fraction`` of the training time.

    What a save has cost, the time that training stood still and the time that it was slowed down while the save was
    being written, has to be earned before the next one: after a save of 0.3 s, ``Overhead(0.01)`` waits until 30 s
    have passed. So the bound holds whatever happens to the cost of saves and steps, over any number of saves and
    the intervals behind them. Never is a save due before the one before it could be written. Joined to others by
    ``&``, it holds them back.

    With ``mean_time_between_failures``, in seconds, the interval is the one that loses the least time to saves and to
    work repeated after failures, √(2 × cost × mean time between failures) (J. W. Young, Communications of the ACM 17
    (9), 1974; J. T. Daly, Future Generation Computer Systems 22, 2006), if that is longer. It is then shortened to
    divide what is left of the run into equal parts, but never below the bound.

    >>> Overhead(0.01)
    Overhead(fraction=0.01, mean_time_between_failures=None)
    """

    fraction: float
    mean_time_between_failures: float | None = None

    def __post_init__(self) -> None:
        _require("fraction", self.fraction, 1, "a part of the training time, above 0 and below 1, such as 0.01")
        if self.mean_time_between_failures is not None:
            expected = "seconds above 0, such as 6 * 3600"
            _require("mean_time_between_failures", self.mean_time_between_failures, math.inf, expected)

    def due(self, moment: Moment) -> str | None:
        chosen = self.choice(moment)
        # What a save costs is known when it is written: one that is asked for before that would come too early.
        if moment.costs.writing or moment.event not in ("boundary", "epoch_end"):
            return None
        if moment.since_save < chosen.seconds:
            return None
        return f"overhead {self.fraction:.3g} (every {chosen.seconds:.3g} s)"

    def choice(self, moment: Moment) -> Choice:
        """The interval that holds now, and why it is that long."""
        costs, bound = moment.costs, moment.costs.training / self.fraction
        shortest, because = bound, f"{self._cost(moment)} has to be at most {self.fraction:.3g} of the time"
        if costs.persist > bound:
            shortest, because = costs.persist, f"it takes {costs.persist:.3g} s to write a save"
        if self.mean_time_between_failures is None:
            return Choice(shortest, because)
        best = math.sqrt(2 * costs.training * self.mean_time_between_failures)
        if best <= shortest:
            return Choice(shortest, because)
        why = f"with a failure every {self.mean_time_between_failures:.3g} s, {self._cost(moment)} pays off so often"
        return Choice(max(_divided(best, moment), shortest), why)

    def _cost(self, moment: Moment) -> str:
        costs = moment.costs
        what = "a save" if costs.measured else "a save, not measured yet,"
        slowed = f" and slows it by {costs.slowdown:.3g} s" if costs.slowdown else ""
        return f"{what} stops training for {costs.blocking:.3g} s{slowed}, which"


def _divided(interval: float, moment: Moment) -> float:
    """The interval shortened so that a whole number of them reaches the end of the run, where that is known."""
    if moment.left is None or moment.since_save + moment.left <= 0:
        return interval
    rest = moment.since_save + moment.left
    return rest / math.ceil(rest / interval)


def _require(name: str, value: object, below: float, expected: str) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 0 < value < below:  # type: ignore[operator]  # a number by now
        raise UsageError(f"Overhead({name}={value!r}): expected {expected}.")
