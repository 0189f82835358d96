"""What a manifest must not contradict, checked before any of its numbers is used as a size or a name."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from holdfast.errors import CorruptError
from holdfast.format.dtypes import DTYPES
from holdfast.format.names import is_label
from holdfast.format.tiling import tiling_problem
from holdfast.storage.paths import MANIFEST_FILE
from holdfast.types import Alias, Chunk, FileRecord, ItemRecord, Json, Part, Progress, TensorRecord

REFERENCE_TAGS = ("$tensor", "$array")
"""The tags that stand in an item's tree for one of its tensors."""

MAX_BLOCK_SIZE = 64 << 20
"""The largest block a reader has to hold at once, in bytes."""

MAX_DIMENSIONS = 64
MAX_INT = 2**63 - 1

FILE_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}"
TRY_ID = r"[A-Za-z0-9][A-Za-z0-9-]{0,99}"
BLOCK_DIGEST = r"[0-9a-f]{32}"
DIGEST = r"blake3:[0-9a-f]{64}"

_is_file_name = re.compile(FILE_NAME).fullmatch
_is_try_id = re.compile(TRY_ID).fullmatch
_is_block_digest = re.compile(BLOCK_DIGEST).fullmatch
_is_digest = re.compile(DIGEST).fullmatch


def validate_name(label: str, attempt: int, ordinal: int, try_id: str, *, where: str) -> None:
    """Raise `CorruptError` unless these can stand in a directory's name; an empty label stands for the default."""
    if label and not is_label(label):
        raise CorruptError(f"{where}: label: {label!r} cannot stand in a directory's name")
    if not 1 <= attempt <= MAX_INT or not 0 <= ordinal <= MAX_INT:
        raise CorruptError(f"{where}: attempt {attempt}, ordinal {ordinal}: expected 1 or more, 0 or more")
    if not _is_try_id(try_id):
        raise CorruptError(f"{where}: try_id: {try_id!r} is not letters, digits and dashes")


def validate_progress(progress: Progress, *, where: str) -> None:
    """Raise `CorruptError` for a negative or absurd count."""
    for name in progress.__struct_fields__:
        value = getattr(progress, name)
        if not 0 <= value <= MAX_INT:
            raise CorruptError(f"{where}: progress.{name}: {value} is out of range")


Range = tuple[int, int, str, str]
"""Begin and end of the bytes of a chunk, and the item and the tensor that it is of."""


def validate_items(items: Mapping[str, ItemRecord], parts: Sequence[Part], *, where: str) -> None:
    """Raise `CorruptError`, naming ``where`` and the key, for the first contradiction.

    Files have plain names and as many blocks as their size needs; chunks tile their tensors, lie inside
    their files and do not share bytes; aliases and references lead to stored tensors.
    """
    files = _files(parts, where)
    ranges: dict[str, list[Range]] = {file: [] for file in files}
    for item, record in items.items():
        for tensor, stored in record.tensors.items():
            try:
                _check_tensor(stored, files)
            except CorruptError as error:
                raise CorruptError(f"{where}: items.{item}.tensors.{tensor}.{error}") from None
            for chunk in stored.chunks:
                ranges[chunk.file].append((chunk.begin, chunk.end, item, tensor))
        _check_aliases(record, items, f"{where}: items.{item}")
        _check_tree(record, f"{where}: items.{item}.tree")
    for file_ranges in ranges.values():
        _check_apart(file_ranges, where)


def _files(parts: Sequence[Part], where: str) -> dict[str, FileRecord]:
    files: dict[str, FileRecord] = {}
    ranks = [part.rank for part in parts]
    if len(set(ranks)) != len(ranks) or min(ranks, default=0) < 0:
        raise CorruptError(f"{where}: parts: ranks {ranks[:20]} are not distinct and non-negative")
    for part in parts:
        for file, record in part.files.items():
            key = f"{where}: parts.{part.rank}.files.{file}"
            _check_file(file, record, key)
            if file in files:
                raise CorruptError(f"{key}: another part has a file of that name")
            files[file] = record
    return files


def _check_file(file: str, record: FileRecord, key: str) -> None:
    if not _is_file_name(file) or file.lower() == MANIFEST_FILE:
        raise CorruptError(f"{key}: not a plain file name; refused, so that nothing outside the checkpoint is touched")
    size, block_size = record.size, record.block_size
    if not 1 <= block_size <= MAX_BLOCK_SIZE or not 0 <= size <= MAX_INT:
        raise CorruptError(f"{key}: size {size}, block_size {block_size}: expected at most {MAX_INT}, {MAX_BLOCK_SIZE}")
    if len(record.blocks) != -(-size // block_size):
        raise CorruptError(f"{key}: {len(record.blocks)} block digests for {size} bytes in blocks of {block_size}")
    if not _is_digest(record.digest) or not all(map(_is_block_digest, record.blocks)):
        raise CorruptError(f"{key}: a digest is not written as format 1 writes it")


def _check_tensor(tensor: TensorRecord, files: Mapping[str, FileRecord]) -> None:
    """Names no more than the field: where it is, is spelled out only for a tensor that is wrong."""
    dtype = DTYPES.get(tensor.dtype)
    if dtype is None:
        raise CorruptError(f"dtype: format 1 has no dtype {tensor.dtype!r}")
    if len(tensor.shape) > MAX_DIMENSIONS or min(tensor.shape, default=0) < 0:
        raise CorruptError(f"shape: {tensor.shape[:MAX_DIMENSIONS]} is negative or has too many dimensions")
    if math.prod(filter(None, tensor.shape)) * dtype.itemsize > MAX_INT:
        raise CorruptError(f"shape: {tensor.shape} is beyond {MAX_INT} bytes")
    problem = tiling_problem(tensor.shape, [(chunk.offsets, chunk.sizes) for chunk in tensor.chunks])
    if problem is not None:
        raise CorruptError(f"chunks: {problem}")
    for chunk in tensor.chunks:
        _check_chunk(chunk, dtype.itemsize, files)


def _check_chunk(chunk: Chunk, itemsize: int, files: Mapping[str, FileRecord]) -> None:
    file = files.get(chunk.file)
    if file is None:
        raise CorruptError(f"chunks: no part has a file {chunk.file!r}")
    if not 0 <= chunk.begin <= chunk.end <= file.size:
        raise CorruptError(f"chunks: bytes {chunk.begin} to {chunk.end} of {chunk.file}, which has {file.size}")
    expected = math.prod(chunk.sizes) * itemsize
    if chunk.end - chunk.begin != expected:
        raise CorruptError(f"chunks: {chunk.end - chunk.begin} bytes, sizes {chunk.sizes} need {expected}")


def _check_apart(ranges: list[Range], where: str) -> None:
    occupied = sorted(entry for entry in ranges if entry[0] < entry[1])
    for first, second in itertools.pairwise(occupied):
        if second[0] < first[1]:
            one, other = (f"{where}: items.{item}.tensors.{tensor}" for _, _, item, tensor in (first, second))
            raise CorruptError(f"{other}.chunks: shares bytes with another chunk ({one})")


def _check_aliases(record: ItemRecord, items: Mapping[str, ItemRecord], key: str) -> None:
    for name, alias in record.aliases.items():
        if name in record.tensors:
            raise CorruptError(f"{key}.aliases.{name}: also stored as a tensor")
        if not _is_stored(alias, items):
            raise CorruptError(f"{key}.aliases.{name}: no tensor is stored as {alias.item}/{alias.tensor}")


def _is_stored(alias: Alias, items: Mapping[str, ItemRecord]) -> bool:
    return alias.item in items and alias.tensor in items[alias.item].tensors


def _check_tree(record: ItemRecord, key: str) -> None:
    for tag, payload in references(record.tree):
        if not isinstance(payload, str) or not (payload in record.tensors or payload in record.aliases):
            raise CorruptError(f"{key}: {{{tag!r}: {str(payload)[:200]!r}}} leads to no tensor of the item")


def references(tree: Json) -> Iterator[tuple[str, Any]]:
    """The references to tensors in a tree of tagged JSON: tag and payload."""
    pending = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, dict):
            for tag in REFERENCE_TAGS:
                if tag in node:
                    yield tag, node[tag]
            pending.extend(node.values())
        elif isinstance(node, list):
            pending.extend(node)
