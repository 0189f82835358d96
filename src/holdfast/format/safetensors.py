"""The layout of a shard: a safetensors file whose data begins at a multiple of 4096 bytes.

The file is 8 bytes of header length (little-endian), the JSON header padded with spaces, and the
tensors one behind the other. safetensors allows neither holes nor trailing bytes, so tensors are
ordered by element size, largest first: each then starts at a multiple of its own element size.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from holdfast.errors import CorruptError, UsageError
from holdfast.format.dtypes import lookup, stored_as
from holdfast.types import TensorSpec

ALIGNMENT = 4096
"""Where the data begins: a multiple of this, so that O_DIRECT can write it from page-aligned memory."""

PREFIX_SIZE = 8
"""Bytes of the little-endian header length at the start of the file."""

MAX_HEADER = 100_000_000
"""The largest header that the safetensors package accepts, in bytes."""

HEADER_LIMIT = PREFIX_SIZE + MAX_HEADER
"""The most bytes at the start of a file that can come before its data."""

METADATA_KEY = "__metadata__"

_DTYPES_BY_SIZE: dict[int, str] = {
    1: "BOOL U8 I8 F8_E4M3 F8_E5M2 F8_E8M0 F8_E4M3FNUZ F8_E5M2FNUZ",
    2: "U16 I16 F16 BF16",
    4: "U32 I32 F32",
    8: "U64 I64 F64 C64",
}

ITEM_SIZES: dict[str, int] = {name: size for size, names in _DTYPES_BY_SIZE.items() for name in names.split()}
"""Bytes per element of the safetensors dtypes that `parse_header` accepts."""

StoredTensor = tuple[str, tuple[int, ...], int, int]
"""Safetensors dtype, stored shape, and the byte range from the start of the file."""


@dataclass(frozen=True, slots=True)
class Layout:
    """A planned file: its first bytes, each tensor's byte range from the start of the file, its size."""

    header: bytes
    ranges: dict[str, tuple[int, int]]
    size: int


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


def layout(tensors: Sequence[tuple[str, TensorSpec]], metadata: Mapping[str, str] | None = None) -> Layout:
    """Plan a safetensors file of these tensors; `UsageError` for a name that cannot stand in one.

    >>> plan = layout([("bias", TensorSpec("float32", (3,))), ("steps", TensorSpec("int64", ()))])
    >>> plan.ranges
    {'steps': (4096, 4104), 'bias': (4104, 4116)}
    """
    _check_names([name for name, _ in tensors])
    entries: dict[str, Any] = {METADATA_KEY: dict(metadata)} if metadata else {}
    relative: dict[str, tuple[int, int]] = {}
    end = 0
    for itemsize, name, spec in _by_item_size(tensors):
        begin, end = end, end + math.prod(spec.shape) * itemsize
        dtype, shape = stored_as(spec)
        entries[name] = _Entry(dtype, shape, (begin, end))
        relative[name] = (begin, end)
    header = _padded(_encoded(entries))
    start = len(header)
    return Layout(header, {name: (start + a, start + b) for name, (a, b) in relative.items()}, start + end)


def header_size(prefix: bytes, file_size: int) -> int:
    """How many bytes at the start of the file come before its data, read from its first 8 bytes.

    Raises `CorruptError` if that is more than the file, or than safetensors allows.
    """
    if len(prefix) < PREFIX_SIZE or file_size < PREFIX_SIZE:
        raise CorruptError(f"not a safetensors file: {file_size} bytes, too short for a header")
    length = int.from_bytes(prefix[:PREFIX_SIZE], "little")
    if length > min(MAX_HEADER, file_size - PREFIX_SIZE):
        raise CorruptError(f"not a safetensors file: a header of {length} bytes in a file of {file_size}")
    return PREFIX_SIZE + length


def parse_header(prefix: bytes, file_size: int) -> dict[str, StoredTensor]:
    """The tensors of a safetensors file of ``file_size`` bytes that starts with ``prefix``.

    ``prefix`` holds at least the whole header (`header_size` bytes). Raises `CorruptError` for
    anything but tensors that fill the data without hole or overlap.
    """
    start = header_size(prefix, file_size)
    if len(prefix) < start:
        raise CorruptError(f"the safetensors header is cut off: {len(prefix)} of {start} bytes")
    entries = _entries(bytes(prefix[PREFIX_SIZE:start]))
    tensors = {name: _stored(name, entry, start) for name, entry in entries.items()}
    _check_filled(tensors, start, file_size)
    return tensors


def _check_names(names: list[str]) -> None:
    if len(set(names)) != len(names):
        repeated = next(name for name in names if names.count(name) > 1)
        raise UsageError(f"two tensors of one file are both called {repeated!r}; give each its own name")
    if METADATA_KEY in names:
        raise UsageError(f"a tensor cannot be called {METADATA_KEY!r}: safetensors keeps that name for itself")


def _by_item_size(tensors: Sequence[tuple[str, TensorSpec]]) -> list[tuple[int, str, TensorSpec]]:
    sized = [(lookup(spec.dtype).itemsize, name, spec) for name, spec in tensors]
    return sorted(sized, key=lambda entry: -entry[0])


def _encoded(entries: dict[str, Any]) -> bytes:
    try:
        text = msgspec.json.encode(entries)
    except UnicodeEncodeError as error:
        raise UsageError(f"a tensor name is not valid Unicode text: {error.object!r}") from None
    if len(text) > MAX_HEADER - ALIGNMENT:
        raise UsageError(f"the header of {len(entries)} tensors takes {len(text)} bytes, allowed are {MAX_HEADER}")
    return text


def _padded(text: bytes) -> bytes:
    size = PREFIX_SIZE + len(text)
    padding = -size % ALIGNMENT
    return (len(text) + padding).to_bytes(PREFIX_SIZE, "little") + text + b" " * padding


def _entries(text: bytes) -> dict[str, _Entry]:
    try:
        if not text.startswith(b"{"):
            raise ValueError("it does not start with '{'")
        document = json.loads(text.decode("utf-8"), object_pairs_hook=_unique)
        msgspec.convert(document.pop(METADATA_KEY, {}), dict[str, str])
        return msgspec.convert(document, dict[str, _Entry])
    except (ValueError, RecursionError, msgspec.ValidationError) as error:
        raise CorruptError(f"the safetensors header cannot be read: {error}") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice")
    return found


def _stored(name: str, entry: _Entry, start: int) -> StoredTensor:
    begin, end = entry.data_offsets
    itemsize = ITEM_SIZES.get(entry.dtype)
    if itemsize is None:
        raise CorruptError(f"safetensors header: tensor {name!r} has the unknown dtype {entry.dtype!r}")
    if min(entry.shape, default=0) < 0 or not 0 <= begin <= end:
        raise CorruptError(f"safetensors header: tensor {name!r} has a negative size or offset")
    if end - begin != math.prod(entry.shape) * itemsize:
        raise CorruptError(f"safetensors header: tensor {name!r} has {end - begin} bytes, expected another number")
    return entry.dtype, entry.shape, start + begin, start + end


def _check_filled(tensors: dict[str, StoredTensor], start: int, file_size: int) -> None:
    position = start
    for name, (_, _, begin, end) in sorted(tensors.items(), key=lambda entry: entry[1][2:]):
        if begin != position:
            raise CorruptError(f"safetensors header: tensor {name!r} begins at {begin}, expected {position}")
        position = end
    if position != file_size:
        raise CorruptError(f"safetensors header: its tensors end at {position}, the file at {file_size}")
