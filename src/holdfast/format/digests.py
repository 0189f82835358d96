"""Digests of files, block by block: XXH3-128 against accidents, BLAKE3 against tampering.

A file is cut into blocks of `BLOCK_SIZE` bytes, the last one shorter. Blocks belong to files, not
to tensors, so one pass over the file's bytes makes and checks them all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec
import xxhash
from blake3 import blake3

from holdfast.errors import CorruptError
from holdfast.types import FileRecord, ItemRecord

BLOCK_SIZE = 4 << 20
"""Bytes per block of the files that holdfast writes."""

Buffer = bytes | bytearray | memoryview
"""Bytes; a memoryview of single bytes (format ``"B"``)."""


def block_digest(data: Buffer) -> str:
    """The XXH3-128 digest of one block, 32 hex digits.

    >>> block_digest(b"")
    '99aa06d3014798d86001c324468d497f'
    """
    return xxhash.xxh3_128_hexdigest(data)


class FileDigest:
    """Digests a file while it is written: `update` once per block in order, then `record`.

    >>> digest = FileDigest()
    >>> digest.update(b"weights")
    >>> digest.record(7).digest[:16]
    'blake3:00c58fd98'
    """

    def __init__(self, block_size: int = BLOCK_SIZE) -> None:
        self._block_size = block_size
        self._size = 0
        self._blocks: list[str] = []
        self._digest = blake3()

    def update(self, block: Buffer) -> None:
        """Take the next block: exactly `block_size` bytes, except the file's last one."""
        length = len(block)
        if self._size % self._block_size or not 0 < length <= self._block_size:
            raise ValueError(f"a block of {length} bytes after {self._size}: only the last may be short")
        self._size += length
        self._blocks.append(block_digest(block))
        self._digest.update(blake3(block).digest())

    def record(self, size: int) -> FileRecord:
        """The record of the whole file; `ValueError` if the blocks were not ``size`` bytes together."""
        if size != self._size:
            raise ValueError(f"digested {self._size} bytes of a file of {size}")
        return FileRecord(
            size=size,
            block_size=self._block_size,
            blocks=tuple(self._blocks),
            digest="blake3:" + self._digest.hexdigest(),
        )


def block_spans(record: FileRecord) -> Iterator[tuple[int, int]]:
    """The byte range of each block of the file, in order."""
    for begin in range(0, record.size, record.block_size):
        yield begin, min(begin + record.block_size, record.size)


def check_block(record: FileRecord, index: int, data: Buffer, *, where: str) -> None:
    """Raise `CorruptError` unless ``data`` is the block number ``index`` of the file at ``where``."""
    if block_digest(data) != record.blocks[index]:
        begin = index * record.block_size
        end = min(begin + record.block_size, record.size)
        raise CorruptError(
            f"{where}: bytes {begin} to {end} are not the ones that were saved (block {index} of {len(record.blocks)})"
        )


def check_record(expected: FileRecord, found: FileRecord, *, where: str) -> None:
    """Raise `CorruptError` unless the digests of the file at ``where`` are the recorded ones."""
    if found.size != expected.size:
        raise CorruptError(f"{where}: {found.size} bytes, the manifest says {expected.size}")
    for index, (ours, theirs) in enumerate(zip(found.blocks, expected.blocks, strict=True)):
        if ours != theirs:
            raise CorruptError(f"{where}: block {index} of {len(expected.blocks)} is not the one that was saved")
    if found.digest != expected.digest:
        raise CorruptError(f"{where}: its BLAKE3 digest is {found.digest}, the manifest says {expected.digest}")


def content_hash(items: Mapping[str, ItemRecord], files: Mapping[str, FileRecord]) -> str:
    """What a checkpoint holds, in 12 hex digits: equal for equal state, whenever and under whatever name it was saved.

    The beginning of the BLAKE3 digest of the items and the files' digests as JSON with sorted keys.
    """
    digests = {name: record.digest for name, record in files.items()}
    return blake3(msgspec.json.encode([items, digests], order="sorted")).hexdigest()[:12]
