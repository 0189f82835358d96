"""Keep policies that count back from the newest checkpoint: how many, how long, how large."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from holdfast.errors import UsageError
from holdfast.policies.keep import KeepPolicy, Kept
from holdfast.policies.units import SECONDS, given, how_many, require_interval

_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
          "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}  # fmt: skip
SIZES = "bytes, or a number of kB, MB, GB, TB, KiB, MiB, GiB or TiB"
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*")


@dataclass(frozen=True, slots=True, repr=False)
class KeepLast(KeepPolicy):
    """The newest ``count`` stay. Checkpoints saved on an error come on top: they never push out good ones."""

    count: int

    def __post_init__(self) -> None:
        check_count("KeepLast", self.count)

    def reasons(self, checkpoints: Sequence[Kept]) -> Mapping[str, str]:
        regular = [one.name for one in checkpoints if not one.on_error][-self.count :]
        return _with_errors(checkpoints, dict.fromkeys(regular, f"last {self.count}"))


@dataclass(frozen=True, slots=True, repr=False, kw_only=True)
class KeepWithin(KeepPolicy):
    """What is not older than so much, seen from the newest checkpoint. Give exactly one unit.

    >>> KeepWithin(hours=6)
    KeepWithin(hours=6)
    """

    minutes: float | None = None
    hours: float | None = None
    days: float | None = None

    def __post_init__(self) -> None:
        require_interval(self)

    def reasons(self, checkpoints: Sequence[Kept]) -> Mapping[str, str]:
        if not checkpoints:
            return {}
        unit, value = given(self)
        kept, latest = dict[str, str](), math.inf
        for one in reversed(checkpoints):
            # None is younger than the one behind it, whatever a clock said: else one from the future stays for ever.
            latest = min(latest, one.created)
            if latest >= checkpoints[-1].created - value * SECONDS[unit]:
                kept[one.name] = f"within {how_many(value, unit)}"
        return kept


@dataclass(frozen=True, slots=True, repr=False)
class KeepSize(KeepPolicy):
    """The newest whose sizes together are within ``limit``, bytes or a text such as ``"50 GiB"``. Always at least one.

    >>> KeepSize("1.5 MiB").bytes
    1572864
    """

    limit: int | str

    def __post_init__(self) -> None:
        if parse_size(self.limit) is None:
            raise UsageError(f'KeepSize({self.limit!r}): expected {SIZES}, as in "50 GiB".')

    @property
    def bytes(self) -> int:
        size = parse_size(self.limit)
        assert size is not None, "checked when constructed"
        return size

    def reasons(self, checkpoints: Sequence[Kept]) -> Mapping[str, str]:
        regular = [one for one in checkpoints if not one.on_error]
        limit = f"{self.limit} B" if isinstance(self.limit, int) else self.limit
        return _with_errors(checkpoints, dict.fromkeys(self._fitting(regular), f"within {limit}"))

    def _fitting(self, checkpoints: Sequence[Kept]) -> Iterator[str]:
        total = 0
        for index, one in enumerate(reversed(checkpoints)):
            total += one.size
            if index and total > self.bytes:
                return
            yield one.name


def parse_size(value: object) -> int | None:
    """Bytes of a size above 0; None if it is none.

    >>> parse_size("2 GB"), parse_size("lots")
    (2000000000, None)
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return value if value > 0 else None
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    factor = _UNITS.get(match[2].upper()) if match else None
    size = float(match[1]) * factor if match and factor else 0.0
    return int(size) or None if size < math.inf else None


def check_count(kind: str, count: object) -> None:
    """Raises `UsageError` for anything but a whole number above 0."""
    if type(count) is not int or count < 1:
        raise UsageError(f"{kind}({count!r}): keep at least 1 checkpoint, as a whole number.")


def _with_errors(checkpoints: Sequence[Kept], kept: dict[str, str]) -> dict[str, str]:
    """Adds those saved on an error that are newer than any of them: the others have served."""
    oldest = next((index for index, one in enumerate(checkpoints) if one.name in kept), 0)
    recent = (one.name for one in checkpoints[oldest:] if one.on_error)
    return kept | dict.fromkeys(recent, "saved on an error")
