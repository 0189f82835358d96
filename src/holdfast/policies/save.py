"""Save policies: frozen, pure, combined by ``|``."""

from __future__ import annotations

import abc
import math
from dataclasses import dataclass, fields
from typing import Literal

from holdfast.errors import UsageError
from holdfast.policies.moment import Moment
from holdfast.types import Progress


class SavePolicy(abc.ABC):
    """Says whether a checkpoint is due at a moment, and why. Subclass it for anything that is missing."""

    __slots__ = ()

    @abc.abstractmethod
    def due(self, moment: Moment) -> str | None:
        """The reason to save now, or None."""

    def __or__(self, other: SavePolicy) -> SavePolicy:
        if not isinstance(other, SavePolicy):
            return NotImplemented
        return AnyOf((*parts(self), *parts(other)))


def parts(policy: SavePolicy) -> tuple[SavePolicy, ...]:
    """The policies that ``|`` combined."""
    return policy.policies if isinstance(policy, AnyOf) else (policy,)


@dataclass(frozen=True, slots=True)
class AnyOf(SavePolicy):
    """Due when any of ``policies`` is; the reason names all that are."""

    policies: tuple[SavePolicy, ...]

    def due(self, moment: Moment) -> str | None:
        reasons = [reason for policy in self.policies if (reason := policy.due(moment)) is not None]
        return ", ".join(reasons) or None


Unit = Literal["steps", "batches", "epochs", "samples", "minutes"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Every(SavePolicy):
    """Due whenever a multiple of the interval is crossed. Give exactly one unit.

    ``steps`` are optimizer steps; ``minutes`` are minutes of training, summed over restarts.

    >>> Every(steps=200) | Every(minutes=10)  # doctest: +ELLIPSIS
    AnyOf(...)
    """

    steps: int | None = None
    batches: int | None = None
    epochs: int | None = None
    samples: int | None = None
    minutes: float | None = None

    def __post_init__(self) -> None:
        given = {one.name: value for one in fields(self) if (value := getattr(self, one.name)) is not None}
        if len(given) != 1:
            raise UsageError(
                f"Every() takes exactly one of steps, batches, epochs, samples, minutes; got {given or 'none'}. "
                "Combine several with `|`: Every(steps=200) | Every(minutes=10)."
            )
        (name, value), *_ = given.items()
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not (whole or (name == "minutes" and isinstance(value, float))) or not 0 < value < math.inf:
            kind = "number" if name == "minutes" else "whole number"
            raise UsageError(f"Every({name}={value!r}): the interval must be a {kind} above 0.")

    @property
    def _interval(self) -> tuple[Unit, float]:
        for unit in ("steps", "batches", "epochs", "samples", "minutes"):
            value = getattr(self, unit)
            if value is not None:
                return unit, value
        raise AssertionError("one unit is given")

    def due(self, moment: Moment) -> str | None:
        unit, interval = self._interval
        before, now = _count(moment.previous, unit), _count(moment.progress, unit)
        if math.floor(now / interval) <= math.floor(before / interval):
            return None
        return f"every {interval:g} {unit}"


def _count(progress: Progress, unit: Unit) -> float:
    match unit:
        case "steps":
            return progress.step
        case "batches":
            return progress.batches
        case "epochs":
            return progress.epoch
        case "samples":
            return progress.samples
        case "minutes":
            return progress.elapsed / 60


@dataclass(frozen=True, slots=True)
class AtEnd(SavePolicy):
    """Due when the run ends. A final save is made anyway; this says so."""

    def due(self, moment: Moment) -> str | None:
        return "at end" if moment.event == "end" else None


@dataclass(frozen=True, slots=True)
class OnSignal(SavePolicy):
    """Due when the process is asked to stop: SIGTERM, SIGINT, SIGUSR1. The run saves, then exits."""

    def due(self, moment: Moment) -> str | None:
        return "on signal" if moment.event == "signal" else None


@dataclass(frozen=True, slots=True)
class OnError(SavePolicy):
    """Due when an exception ends the loop: the last boundary is saved, if nothing has changed since."""

    def due(self, moment: Moment) -> str | None:
        return "on error" if moment.event == "error" else None


def includes(policy: SavePolicy, kind: type[SavePolicy]) -> bool:
    """Whether ``policy`` is, or combines, a policy of ``kind``."""
    return any(isinstance(part, kind) for part in parts(policy))
