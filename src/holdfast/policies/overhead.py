"""An interval that bounds what it costs."""

from __future__ import annotations

import math
from dataclasses import dataclass

from holdfast.errors import UsageError
from holdfast.policies.moment import Moment
from holdfast.policies.save import Choice, SavePolicy
from holdfast.policies.units import percent
from holdfast.wording import duration


@dataclass(frozen=True, slots=True, repr=False)
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
    Overhead(fraction=0.01)
    """

    fraction: float
    mean_time_between_failures: float | None = None

    def __post_init__(self) -> None:
        _require("fraction", self.fraction, 1, "a part of the training time, above 0 and below 1, such as 0.01")
        if self.mean_time_between_failures is not None:
            expected = "seconds above 0, such as 6 * 3600"
            _require("mean_time_between_failures", self.mean_time_between_failures, math.inf, expected)

    def due(self, moment: Moment) -> str | None:
        # What a save costs is known when it is written: one that is asked for before that would come too early.
        if moment.costs.writing or moment.event not in ("boundary", "epoch_end"):
            return None
        seconds = self._seconds(moment)
        if moment.since_save < seconds:
            return None
        return f"overhead {percent(self.fraction)} (every {duration(seconds)})"

    def choice(self, moment: Moment) -> Choice:
        """The interval that holds now, and why it is that long."""
        costs, bound = moment.costs, moment.costs.training / self.fraction
        best, seconds = self._best(moment), self._seconds(moment)
        if best > max(bound, costs.persist):
            failures = f"with a failure every {duration(self.mean_time_between_failures or 0.0)}"
            why = f"{failures}, {self._cost(moment)} pays off every {duration(best)}"
            why += ", and so often the rest of the run is divided evenly" if seconds < best else ""
        elif costs.persist > bound:
            why = f"it takes {duration(costs.persist)} to write a save"
        else:
            why = f"{self._cost(moment)} has to be at most {percent(self.fraction)} of the time"
        return Choice(seconds, why)

    def _seconds(self, moment: Moment) -> float:
        shortest, best = max(moment.costs.training / self.fraction, moment.costs.persist), self._best(moment)
        return max(_divided(best, moment), shortest) if best > shortest else shortest

    def _best(self, moment: Moment) -> float:
        """The interval of Young and Daly; 0 where nobody said how often the run fails."""
        return young_daly(moment.costs.training, self.mean_time_between_failures or 0.0)

    def _cost(self, moment: Moment) -> str:
        costs = moment.costs
        what = "a save" if costs.measured else "a save, not measured yet,"
        slowed = f" and slows it by {duration(costs.slowdown)}" if costs.slowdown else ""
        return f"{what} stops training for {duration(costs.blocking)}{slowed}, which"


def young_daly(cost: float, mean_time_between_failures: float) -> float:
    """The interval that loses the least time where a save takes ``cost`` away from training; all in seconds.

    >>> round(young_daly(0.5, 24 * 3600))
    294
    """
    return math.sqrt(2 * cost * mean_time_between_failures)


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
