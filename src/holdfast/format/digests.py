"""Digests of files, block by block: XXH3-128 against accidents, BLAKE3 against tampering.

A file is cut into blocks of `BLOCK_SIZE` bytes, the last one shorter. Blocks belong to files, not
to tensors, so one pass over the file's bytes makes and checks them all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import msgspec
import xxhash
from blake3 import blake3

from holdfast.errors import CorruptError
from holdfast.types import FileRecord, ItemRecord
from holdfast.wording import DAMAGED

BLOCK_SIZE = 4 << 20
"""Bytes per block of the files that holdfast writes."""

STEP = 512 << 10
"""Bytes that a core's second cache takes beside what else is in it."""

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


def block_span(record: FileRecord, index: int) -> tuple[int, int]:
    """The byte range of the block number ``index`` of the file.

    >>> block_span(FileRecord(size=10, block_size=8, blocks=("", ""), digest=""), 1)
    (8, 10)
    """
    begin = index * record.block_size
    return begin, min(begin + record.block_size, record.size)


def check_block(record: FileRecord, index: int, pieces: Iterable[Buffer], *, where: str) -> None:
    """Raise `CorruptError` unless ``pieces`` together are the block number ``index`` of the file at ``where``."""
    for _ in checked_steps(record, index, map(memoryview, pieces), where=where):
        pass


def checked_steps(record: FileRecord, index: int, pieces: Iterable[memoryview], *, where: str) -> Iterator[memoryview]:
    """Hands out ``pieces`` in steps that lie in a cache of the processor, and digests each when the next is asked for.

    Whoever reads the block into them has filled it then. Raises `CorruptError` behind the last one unless all together
    are the block number ``index`` of the file at ``where``.
    """
    digest = xxhash.xxh3_128()
    for piece in pieces:
        for begin in range(0, len(piece), STEP):
            step = piece[begin : begin + STEP]
            yield step
            digest.update(step)
    if digest.hexdigest() != record.blocks[index]:
        begin, end = block_span(record, index)
        raise CorruptError(f"{where}: bytes {begin:,} to {end:,} are not the ones that were committed. {DAMAGED}")


def check_tampering(record: FileRecord, found: FileRecord, *, where: str) -> None:
    """Raise `CorruptError` unless the cryptographic digest ``found`` of the file at ``where`` is the recorded one."""
    if found.digest != record.digest:
        raise CorruptError(
            f"{where}: its cryptographic digest differs although its checksums match: it was altered on purpose. "
            f"{DAMAGED}"
        )


def content_hash(items: Mapping[str, ItemRecord], files: Mapping[str, FileRecord]) -> str:
    """What a checkpoint holds, in 12 hex digits: equal for equal state, whenever and under whatever name it was saved.

    The beginning of the BLAKE3 digest of the items and the files' digests as JSON with sorted keys.
    """
    digests = {name: record.digest for name, record in files.items()}
    return blake3(msgspec.json.encode([items, digests], order="sorted")).hexdigest()[:12]
