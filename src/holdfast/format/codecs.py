"""How the standard library's value types become plain values and back: one `Codec` per type."""

from __future__ import annotations

import base64
import math
import pathlib
import re
import struct
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from fractions import Fraction
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from holdfast.errors import MisfitError

MAX_HEX_DIGITS = 1 << 16
"""The longest integer, in hex digits: reading a longer one back could take unbounded time."""

_MICROSECOND = timedelta(microseconds=1)
_HEX_INT = re.compile(r"-?0x[0-9a-f]+")
_ZONE = re.compile(r"[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*")


@dataclass(frozen=True, slots=True)
class Codec:
    """A type and its tag.

    ``encode`` turns a value into plainer values, which are encoded in turn; ``decode`` gets them
    back, decoded. ``payload`` is the type that ``decode`` insists on. Either raises `TypeError` or
    `ValueError` for what it cannot take.
    """

    cls: type
    tag: str
    encode: Callable[[Any], Any]
    decode: Callable[[Any], Any]
    payload: type = object


def encode_int(value: int) -> str:
    """An integer beyond 64 bits, in hex: decimal takes quadratic time and Python caps it."""
    if value.bit_length() > 4 * MAX_HEX_DIGITS:
        raise ValueError(f"an integer of {value.bit_length()} bits; at most {4 * MAX_HEX_DIGITS} are stored")
    return hex(value)


def decode_int(text: str) -> int:
    """The integer written by `encode_int`."""
    if len(text) > MAX_HEX_DIGITS + 3 or not _HEX_INT.fullmatch(text):
        raise ValueError("not a hexadecimal integer of bounded length")
    return int(text, 16)


_DEFAULT_NAN = struct.pack(">d", math.nan)


def encode_float(value: float) -> str:
    """A float that JSON lacks; an unusual nan keeps its bits."""
    bits = struct.pack(">d", value)
    return bits.hex() if math.isnan(value) and bits != _DEFAULT_NAN else str(value)


def decode_float(text: str) -> float:
    """The float written by `encode_float`."""
    if text in ("nan", "inf", "-inf"):
        return float(text)
    (value,) = struct.unpack(">d", bytes.fromhex(text))
    if not math.isnan(value):
        raise ValueError("neither nan nor infinite")
    return float(value)


def encode_bytes(value: bytes | bytearray) -> str:
    """Bytes as base64 text."""
    return base64.b64encode(value).decode("ascii")


def decode_bytes(text: str) -> bytes:
    """Bytes from base64 text."""
    return base64.b64decode(text, validate=True)


def encode_text(value: str) -> str:
    """Text with lone surrogates (a file name that is not UTF-8), which JSON cannot hold."""
    return encode_bytes(value.encode("utf-8", "surrogatepass"))


def _decode_text(text: str) -> str:
    return decode_bytes(text).decode("utf-8", "surrogatepass")


def expect(value: Any, *types: type) -> Any:
    """``value`` itself if its type is exactly one of ``types``; `TypeError` otherwise."""
    if type(value) not in types:
        raise TypeError(f"expected {' or '.join(kind.__name__ for kind in types)}, found {type(value).__name__}")
    return value


def _numbers(payload: list[Any], kind: type, count: int) -> list[Any]:
    if len(payload) != count:
        raise ValueError(f"expected {count} numbers, found {len(payload)}")
    return [expect(number, kind) for number in payload]


def _decode_deque(payload: dict[str, Any]) -> deque[Any]:
    return deque(expect(payload["items"], list), expect(payload["maxlen"], int, type(None)))


def _decode_slice(payload: list[Any]) -> slice:
    start, stop, step = payload
    return slice(start, stop, step)


def _encode_datetime(value: datetime) -> list[Any]:
    return [value.replace(tzinfo=None, fold=0).isoformat(), value.tzinfo, value.fold]


def _decode_datetime(payload: list[Any]) -> datetime:
    text, zone, fold = payload
    return datetime.fromisoformat(text).replace(tzinfo=_zone_or_none(zone), fold=fold)


def _encode_time(value: time) -> list[Any]:
    return [value.replace(tzinfo=None, fold=0).isoformat(), value.tzinfo, value.fold]


def _decode_time(payload: list[Any]) -> time:
    text, zone, fold = payload
    return time.fromisoformat(text).replace(tzinfo=_zone_or_none(zone), fold=fold)


def _zone_or_none(zone: object) -> tzinfo | None:
    if zone is not None and not isinstance(zone, tzinfo):
        raise TypeError("expected a time zone")
    return zone


def _encode_timezone(value: timezone) -> list[Any]:
    offset = value.utcoffset(None)
    name = value.tzname(None)
    return [offset // _MICROSECOND, None if name == timezone(offset).tzname(None) else name]


def _decode_timezone(payload: list[Any]) -> timezone:
    microseconds, name = payload
    offset = expect(microseconds, int) * _MICROSECOND
    return timezone(offset) if name is None else timezone(offset, name)


def _encode_zone(value: ZoneInfo) -> str:
    if not value.key:
        raise ValueError("a ZoneInfo without a key")
    return value.key


def _decode_zone(key: str) -> ZoneInfo:
    if not _ZONE.fullmatch(key):
        raise ValueError("not the name of a time zone")
    try:
        return ZoneInfo(key)
    except (ZoneInfoNotFoundError, OSError):  # OSError: it is the folder of some zones
        raise MisfitError(f"this machine has no time zone {key!r}; install the tzdata package") from None


def _decode_pure_path(payload: list[Any]) -> pathlib.PurePath:
    kind, text = payload
    return {"posix": pathlib.PurePosixPath, "windows": pathlib.PureWindowsPath}[kind](text)


STANDARD: tuple[Codec, ...] = (
    Codec(tuple, "$tuple", list, tuple, list),
    Codec(set, "$set", list, set, list),
    Codec(frozenset, "$frozenset", list, frozenset, list),
    Codec(deque, "$deque", lambda value: {"items": list(value), "maxlen": value.maxlen}, _decode_deque, dict),
    Codec(bytes, "$bytes", encode_bytes, decode_bytes, str),
    Codec(bytearray, "$bytearray", encode_bytes, lambda text: bytearray(decode_bytes(text)), str),
    Codec(complex, "$complex", lambda v: [v.real, v.imag], lambda p: complex(*_numbers(p, float, 2)), list),
    Codec(range, "$range", lambda v: [v.start, v.stop, v.step], lambda p: range(*_numbers(p, int, 3)), list),
    Codec(slice, "$slice", lambda v: [v.start, v.stop, v.step], _decode_slice, list),
    Codec(datetime, "$datetime", _encode_datetime, _decode_datetime, list),
    Codec(date, "$date", date.isoformat, date.fromisoformat, str),
    Codec(time, "$time", _encode_time, _decode_time, list),
    Codec(
        timedelta,
        "$timedelta",
        lambda value: [value.days, value.seconds, value.microseconds],
        lambda payload: timedelta(*_numbers(payload, int, 3)),
        list,
    ),
    Codec(timezone, "$timezone", _encode_timezone, _decode_timezone, list),
    Codec(ZoneInfo, "$zoneinfo", _encode_zone, _decode_zone, str),
    Codec(type(pathlib.Path()), "$path", str, pathlib.Path, str),
    Codec(pathlib.PurePosixPath, "$pure_path", lambda value: ["posix", str(value)], _decode_pure_path, list),
    Codec(pathlib.PureWindowsPath, "$pure_path", lambda value: ["windows", str(value)], _decode_pure_path, list),
    Codec(Decimal, "$decimal", str, Decimal, str),
    Codec(Fraction, "$fraction", lambda v: list(v.as_integer_ratio()), lambda p: Fraction(*_numbers(p, int, 2)), list),
    Codec(uuid.UUID, "$uuid", lambda value: value.hex, lambda text: uuid.UUID(hex=text), str),
)
"""The types that are recognised by being exactly of that type."""

SPELLED: tuple[Codec, ...] = (
    Codec(int, "$int", encode_int, decode_int, str),
    Codec(float, "$float", encode_float, decode_float, str),
    Codec(str, "$str", encode_text, _decode_text, str),
)
"""JSON's own types, for the values that JSON cannot spell."""
