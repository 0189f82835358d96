"""Save policies that count: at every multiple, at given points, at most so often."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from holdfast.errors import UsageError
from holdfast.policies.moment import Moment
from holdfast.policies.save import SavePolicy
from holdfast.types import Progress

_COUNTS = {"steps": "step", "batches": "batches", "epochs": "epoch", "samples": "samples", "tokens": "tokens"}
"""Units that are counted, and the field of the progress that counts them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Every(SavePolicy):
    """Due whenever a multiple of the interval is crossed. Give exactly one unit.

    ``steps`` are optimizer steps; ``seconds``, ``minutes`` and ``hours`` are training time, summed over restarts;
    ``fraction=0.05`` is twenty times over the run, whatever its length.

    >>> Every(steps=200) | Every(minutes=10)  # doctest: +ELLIPSIS
    AnyOf(...)
    """

    steps: int | None = None
    batches: int | None = None
    epochs: int | None = None
    samples: int | None = None
    tokens: int | None = None
    seconds: float | None = None
    minutes: float | None = None
    hours: float | None = None
    fraction: float | None = None

    def __post_init__(self) -> None:
        (name, value), *_ = _only_one("Every", self, "Every(steps=200) | Every(minutes=10)").items()
        _check("Every", name, value)
        if name == "fraction" and value > 1:
            raise UsageError(f"Every(fraction={value!r}): a fraction of the run lies above 0 and is at most 1.")

    def due(self, moment: Moment) -> str | None:
        unit, interval = _given(self)
        if unit == "fraction":
            before, now = moment.previous_share, moment.share
        else:
            before, now = count(moment.previous, unit), count(moment.progress, unit)
        if before is None or now is None or _multiples(now, interval) <= _multiples(before, interval):
            return None
        return f"every {interval:g} of the run" if unit == "fraction" else f"every {interval:g} {unit}"


@dataclass(frozen=True, slots=True, kw_only=True)
class At(SavePolicy):
    """Due once at each of the given counts, or at the first boundary behind it. Give exactly one unit.

    >>> At(steps=[100, 1000, 10000])  # doctest: +ELLIPSIS
    At(...)
    """

    steps: Sequence[int] | None = None
    batches: Sequence[int] | None = None
    epochs: Sequence[int] | None = None
    samples: Sequence[int] | None = None
    tokens: Sequence[int] | None = None

    def __post_init__(self) -> None:
        (name, value), *_ = _only_one("At", self, "At(steps=[100]) | At(epochs=[1])").items()
        if isinstance(value, (str, bytes)) or not isinstance(value, Sequence) or not value:
            raise UsageError(f"At({name}={value!r}): expected a list of counts, such as At({name}=[100, 1000]).")
        for one in value:
            _check("At", name, one)
        object.__setattr__(self, name, tuple(sorted(set(value))))

    def due(self, moment: Moment) -> str | None:
        unit, points = _given(self)
        before, now = count(moment.previous, unit), count(moment.progress, unit)
        passed = [point for point in points if before < point <= now]
        return f"at {unit} {', '.join(map(str, passed))}" if passed else None


@dataclass(frozen=True, slots=True, kw_only=True)
class AtMostEvery(SavePolicy):
    """A limit for other policies: ``OnBest("loss") & AtMostEvery(minutes=5)``. Give exactly one unit.

    True as soon as so much has passed since the newest save, so it is no reason to save by itself.
    """

    steps: int | None = None
    batches: int | None = None
    epochs: int | None = None
    samples: int | None = None
    tokens: int | None = None
    seconds: float | None = None
    minutes: float | None = None
    hours: float | None = None

    def __post_init__(self) -> None:
        (name, value), *_ = _only_one("AtMostEvery", self, "AtMostEvery(minutes=5) & AtMostEvery(steps=100)").items()
        _check("AtMostEvery", name, value)

    def due(self, moment: Moment) -> str | None:
        unit, interval = _given(self)
        passed = count(moment.progress, unit) - count(moment.saved, unit)
        return f"at most every {interval:g} {unit}" if passed >= interval else None


_SECONDS = {"seconds": 1, "minutes": 60, "hours": 3600}


def count(progress: Progress, unit: str) -> float:
    """How many of ``unit`` the progress is."""
    if unit in _SECONDS:
        return progress.elapsed / _SECONDS[unit]
    value: int = getattr(progress, _COUNTS[unit])
    return value


def _multiples(value: float, interval: float) -> int:
    """How many multiples have been reached; 0.3 is the third multiple of 0.1, whatever its binary says."""
    return math.floor(value / interval + 1e-9)


def _given(policy: Any) -> tuple[str, Any]:
    return next((one.name, value) for one in fields(policy) if (value := getattr(policy, one.name)) is not None)


def _only_one(kind: str, policy: Any, example: str) -> dict[str, Any]:
    given = {one.name: value for one in fields(policy) if (value := getattr(policy, one.name)) is not None}
    if len(given) != 1:
        units = ", ".join(one.name for one in fields(policy))
        raise UsageError(
            f"{kind}() takes exactly one of {units}; got {given or 'none'}. Combine several policies: {example}."
        )
    return given


def _check(kind: str, name: str, value: object) -> None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    counted = name in _COUNTS
    if not (whole or (not counted and isinstance(value, float))) or not 0 < value < math.inf:  # type: ignore[operator]
        expected = "a whole number" if counted else "a number"
        raise UsageError(f"{kind}({name}={value!r}): expected {expected} above 0.")
