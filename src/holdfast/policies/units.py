"""The units that policies count in, one of which is given to each."""

from __future__ import annotations

import math
import re
from dataclasses import fields
from typing import Any

from holdfast.errors import UsageError
from holdfast.types import Progress

COUNTS = {"steps": "step", "batches": "batches", "epochs": "epoch", "samples": "samples", "tokens": "tokens"}
"""Units that are counted, and the field of the progress that counts them."""
SECONDS = {"seconds": 1, "minutes": 60, "hours": 3600, "days": 86400}
SINGULAR = {unit: "batch" if unit == "batches" else unit.removesuffix("s") for unit in (*COUNTS, *SECONDS)}
ABBREVIATED = {
    "s": "seconds", "sec": "seconds", "secs": "seconds", "m": "minutes", "min": "minutes", "mins": "minutes",
    "h": "hours", "hr": "hours", "hrs": "hours", "d": "days",
}  # fmt: skip
"""Units of time as some write them."""
_DURATION = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*")


def given(policy: Any) -> tuple[str, Any]:
    """The unit that a policy was given, and how many of it."""
    for name in _units_of(type(policy)):
        value = getattr(policy, name)
        if value is not None:
            return name, value
    raise AssertionError("checked when constructed")


def require_one(policy: Any) -> tuple[str, Any]:
    """`given`. Raises `UsageError` unless it is exactly one unit."""
    found = _all_given(policy)
    if len(found) != 1:
        units = ", ".join(_units_of(type(policy)))
        raise UsageError(
            f"{type(policy).__name__}() takes exactly one of {units}; got {found or 'none'}. Combine several policies "
            "with `|`."
        )
    return given(policy)


def require_interval(policy: Any) -> None:
    """Raises `UsageError` unless a policy was given exactly one unit, and so many of it as can be an interval."""
    require_above_zero(policy, *require_one(policy))


def require_above_zero(policy: Any, unit: str, value: Any) -> None:
    """Raises `UsageError` unless ``value`` is a number above 0, and a whole one where ``unit`` is counted."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not (whole or (unit not in COUNTS and isinstance(value, float))) or not 0 < value < math.inf:
        expected = "a whole number" if unit in COUNTS else "a number"
        raise UsageError(f"{type(policy).__name__}({unit}={value!r}): expected {expected} above 0.")


def amount(progress: Progress, unit: str, seconds: float) -> Any:
    """How many of ``unit`` the progress is; ``seconds`` is what counts as time."""
    return seconds / SECONDS[unit] if unit in SECONDS else getattr(progress, COUNTS[unit])


def every(number: float, unit: str) -> str:
    """An interval in words.

    >>> every(200, "steps"), every(1, "epochs"), every(0.05, "fraction")
    ('every 200 steps', 'every epoch', 'every 5 % of the run')
    """
    if unit == "fraction":
        return f"every {percent(number)} of the run"
    return f"every {SINGULAR[unit]}" if number == 1 else f"every {how_many(number, unit)}"


def how_many(number: float, unit: str) -> str:
    """A number of a unit in words.

    >>> how_many(1, "days"), how_many(1000000, "tokens"), how_many(2.50, "hours")
    ('1 day', '1000000 tokens', '2.5 hours')
    """
    shown = str(number) if isinstance(number, int) else f"{number:g}"
    return f"{shown} {SINGULAR[unit] if number == 1 else unit}"


def percent(fraction: float) -> str:
    """A part of the whole in words.

    >>> percent(0.07)
    '7 %'
    """
    return f"{100 * fraction:.3g} %"


def parse_duration(text: str) -> float | None:
    """Seconds of a time above 0; None if it is none.

    >>> parse_duration("24 hours"), parse_duration("1.5h"), parse_duration("soon"), parse_duration("0 s")
    (86400.0, 5400.0, None, None)
    """
    match = _DURATION.fullmatch(text)
    if match is None:
        return None
    unit = match[2].lower()
    seconds = {**SECONDS, **{SINGULAR[one]: length for one, length in SECONDS.items()}}.get(ABBREVIATED.get(unit, unit))
    value = float(match[1]) * (seconds or 0)
    return value if 0 < value < math.inf else None


def _all_given(policy: Any) -> dict[str, Any]:
    return {name: value for name in _units_of(type(policy)) if (value := getattr(policy, name)) is not None}


def _units_of(kind: type) -> tuple[str, ...]:
    """Asked at every boundary, and slow to find out."""
    if kind not in _units:
        _units[kind] = tuple(one.name for one in fields(kind))
    return _units[kind]


_units: dict[type, tuple[str, ...]] = {}
