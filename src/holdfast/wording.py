"""Numbers, sizes, times and texts as people read them."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

DAMAGED = "Use another checkpoint, or restore the file from a copy."
"""What to do about a file of a checkpoint that is not as it was committed."""

_UNITS = ("kB", "MB", "GB", "TB", "PB", "EB")


def printable(text: str) -> str:
    r"""``text`` with everything escaped that a terminal would act upon: a checkpoint may be anybody's.

    >>> print(printable("red: \x1b[31m"))
    red: \x1b[31m
    """
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() or one == "\n" else ascii(one)[1:-1] for one in text)


def size(count: int) -> str:
    """Bytes in decimal units.

    >>> size(999), size(1536), size(24_100_000)
    ('999 B', '1.5 kB', '24.1 MB')
    """
    if count < 1000:
        return f"{count} B"
    power = min(int(math.log10(count)) // 3, len(_UNITS))
    if round(count / 1000**power, 1) >= 1000 and power < len(_UNITS):
        power += 1
    return f"{count / 1000**power:.1f} {_UNITS[power - 1]}"


def count(number: int, noun: str) -> str:
    """A number of things.

    >>> count(1, "file"), count(2345, "tensor")
    ('1 file', '2,345 tensors')
    """
    return f"{number:,} {noun}{'s' * (number != 1)}"


def number(value: object) -> str:
    """A metric, in the digits that say something.

    >>> number(0.69314718), number(12.0), number("nan")
    ('0.6931', '12', 'nan')
    """
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def duration(seconds: float) -> str:
    """A time span, in its two largest units.

    >>> duration(0.00395), duration(4.21), duration(30), duration(185), duration(8040), duration(86400)
    ('3.95 ms', '4.21 s', '30 s', '3 min 5 s', '2 h 14 min', '1 d')
    """
    if 0 < seconds < 0.1:
        return f"{1000 * seconds:.3g} ms"
    if seconds < 60:
        return f"{seconds:.3g} s"
    whole = round(seconds)
    for unit, length, part, fraction in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= length:
            rest = whole % length // fraction
            return f"{whole // length:,} {unit}" + (f" {rest} {part}" if rest else "")
    raise AssertionError("less than a minute was dealt with")


def moment(text: str) -> datetime | None:
    """A time of a manifest; None if it is none."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def clock(text: str) -> str:
    """A time of a manifest, in UTC.

    >>> clock("2026-11-21T01:35:58.120+00:00")
    '2026-11-21 01:35:58 UTC'
    """
    found = moment(text)
    return text if found is None else f"{found.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def age(text: str, now: datetime) -> str:
    """How long before ``now``; the date if that is far away or lies ahead.

    >>> noon = datetime(2026, 11, 21, 12, tzinfo=UTC)
    >>> age("2026-11-21T11:58:00Z", noon), age("2026-11-19T12:00:00Z", noon), age("2026-01-01T12:00:00Z", noon)
    ('2 min ago', '2 d ago', '2026-01-01')
    """
    found = moment(text)
    if found is None:
        return text
    passed = now - found
    if not timedelta(seconds=-5) < passed < timedelta(days=30):
        return f"{found.astimezone(UTC):%Y-%m-%d}"
    seconds = int(passed.total_seconds())
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        if seconds >= length:
            return f"{seconds // length} {unit} ago"
    return "just now"
