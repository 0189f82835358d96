"""Bytes of a checkpoint back into memory in one pass: straight to where they belong, each block checked on arrival."""

from __future__ import annotations

import ctypes
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from holdfast.engine.catalog import Entry, shard_files
from holdfast.engine.leaves import Remote, Target
from holdfast.engine.parallel import STRETCH, Job, run_jobs, scratch
from holdfast.format.digests import block_span, checked_steps
from holdfast.format.dtypes import nbytes
from holdfast.garbage import no_collection
from holdfast.storage.base import Storage
from holdfast.types import Advance, Chunk, FileRecord, ItemRecord, TensorRecord, TensorSpec

Targets = Mapping[str, Mapping[str, Target]]
"""Destinations by item and tensor name."""

_PIECES = 32
"""Pieces of one block that are read straight to their places. More, smaller ones are copied there from a whole block:
that costs less than what the kernel and the digest do for each piece."""


class Segment(msgspec.Struct, frozen=True, gc=False):
    """Bytes ``begin`` to ``end`` of a file and the memory they belong in."""

    begin: int
    end: int
    memory: memoryview | Remote


Block = tuple[int, list[Segment]]
"""The number of a block in its file, and the parts of segments that lie in it."""


def read(storage: Storage, entry: Entry, targets: Targets, *, advance: Advance = lambda _: None) -> None:
    """Fills ``targets`` with the stored bytes, straight into their memory, and finishes them.

    Reads only the blocks that hold something of them, and checks the digest (XXH3-128) of each on its way. Raises
    `CorruptError` that names the file and the byte range of a block that is not the one that was committed, or
    `StorageError`; then some targets have been filled and none is finished.
    """
    with no_collection():
        plan = _planned(entry, targets)
        records = shard_files(entry.manifest)
        cold = {file for file in plan.segments if _is_cold(storage, f"{entry.name}/{file}")}
        jobs = [
            _job(storage, f"{entry.name}/{file}", records[file], stretch, direct=file in cold)
            for file, segments in plan.segments.items()
            for stretch in _stretches(_by_block(records[file], segments))
        ]
    run_jobs(jobs, advance, waiting=bool(cold))
    for place in plan.scattered:
        place()
    for leaves in targets.values():
        for target in leaves.values():
            target.finish()


def _is_cold(storage: Storage, path: str) -> bool:
    """Whether to read past the page cache. Not where other processes of this machine read the same: it serves them."""
    return os.environ.get("LOCAL_WORLD_SIZE", "1") == "1" and not storage.is_cached(path)


def _planned(entry: Entry, targets: Targets) -> _Plan:
    plan = _Plan()
    for item, leaves in targets.items():
        for name, target in leaves.items():
            plan.add(_resolve(entry.manifest.items, item, name), target)
    return plan


def bytes_of(entry: Entry, targets: Targets) -> int:
    """How much `read` will read for ``targets``, for a progress bar: whole blocks."""
    records, blocks = shard_files(entry.manifest), set[tuple[str, int]]()
    for item, leaves in targets.items():
        for name in leaves:
            for chunk in _resolve(entry.manifest.items, item, name).chunks:
                for index in _blocks(records[chunk.file], chunk):
                    blocks.add((chunk.file, index))
    spans = (block_span(records[file], index) for file, index in blocks)
    return sum(end - begin for begin, end in spans)


def _resolve(items: Mapping[str, ItemRecord], item: str, name: str) -> TensorRecord:
    alias = items[item].aliases.get(name)
    return items[item].tensors[name] if alias is None else items[alias.item].tensors[alias.tensor]


@dataclass(slots=True)
class _Plan:
    """The segments to be read by file, and what is to be done with them behind that."""

    segments: dict[str, list[Segment]] = field(default_factory=dict)
    scattered: list[Callable[[], None]] = field(default_factory=list)

    def add(self, stored: TensorRecord, target: Target) -> None:
        memory = target.buffer()
        rows = all(chunk.sizes[1:] == stored.shape[1:] for chunk in stored.chunks)
        if rows or isinstance(memory, memoryview):
            self._add(stored, memory)
        else:  # a device's memory takes stretches of bytes only
            whole = memoryview(bytearray(len(memory)))
            self._add(stored, whole)
            self.scattered.append(lambda: memory.__setitem__(slice(None), whole))

    def _add(self, stored: TensorRecord, memory: memoryview | Remote) -> None:
        for chunk in stored.chunks:
            if chunk.begin != chunk.end:
                place = memory if chunk.sizes == stored.shape else self._place(stored, chunk, memory)
                self.segments.setdefault(chunk.file, []).append(Segment(chunk.begin, chunk.end, place))

    def _place(self, stored: TensorRecord, chunk: Chunk, memory: memoryview | Remote) -> memoryview | Remote:
        """The chunk's part of the tensor, if that is one stretch: whole rows of the first axis. Else new memory."""
        if chunk.sizes[1:] == stored.shape[1:]:
            row = nbytes(TensorSpec(stored.dtype, stored.shape[1:]))
            begin = chunk.offsets[0] * row
            return memory[begin : begin + chunk.end - chunk.begin]
        assert isinstance(memory, memoryview)
        buffer = memoryview(bytearray(chunk.end - chunk.begin))
        self.scattered.append(lambda: _scatter(stored, chunk, buffer, memory))
        return buffer


def _scatter(stored: TensorRecord, chunk: Chunk, buffer: memoryview, memory: memoryview) -> None:
    import numpy as np

    element = np.dtype(f"V{nbytes(TensorSpec(stored.dtype, ()))}")
    place = tuple(slice(offset, offset + size) for offset, size in zip(chunk.offsets, chunk.sizes, strict=True))
    whole = np.frombuffer(memory, dtype=element).reshape(stored.shape)
    whole[place] = np.frombuffer(buffer, dtype=element).reshape(chunk.sizes)


def _by_block(record: FileRecord, segments: list[Segment]) -> Iterator[Block]:
    """The blocks of a file that hold something of ``segments``, each with the parts of those that lie in it."""
    blocks: dict[int, list[Segment]] = {}
    for segment in sorted(_distinct(segments), key=lambda one: one.begin):
        indices = _blocks(record, segment)
        for index in indices:
            part = segment if len(indices) == 1 else _within(segment, *block_span(record, index))
            blocks.setdefault(index, []).append(part)
    yield from blocks.items()


def _stretches(blocks: Iterable[Block]) -> Iterator[list[Block]]:
    """Blocks that follow one another in a file, a few at a time."""
    stretch: list[Block] = []
    for block in blocks:
        if stretch and (len(stretch) == STRETCH or block[0] != stretch[-1][0] + 1):
            yield stretch
            stretch = []
        stretch.append(block)
    if stretch:
        yield stretch


def _distinct(segments: list[Segment]) -> list[Segment]:
    """Tied tensors are the same bytes in the same place, and are read once."""
    if len({one.begin for one in segments}) == len(segments):
        return segments
    return list({(one.begin, _address(one.memory)): one for one in segments}.values())


def _address(memory: memoryview | Remote) -> int:
    if not isinstance(memory, memoryview):
        return id(memory)  # tied tensors of a device are read twice: nothing is wrong with that
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


def _blocks(record: FileRecord, part: Segment | Chunk) -> range:
    """The numbers of the blocks that hold something of ``part``."""
    if part.begin == part.end:
        return range(0)
    return range(part.begin // record.block_size, -(-part.end // record.block_size))


def _within(segment: Segment, begin: int, end: int) -> Segment:
    first, last = max(begin, segment.begin), min(end, segment.end)
    return Segment(first, last, segment.memory[first - segment.begin : last - segment.begin])


def _job(storage: Storage, path: str, record: FileRecord, stretch: Sequence[Block], *, direct: bool) -> Job:
    begin, end = block_span(record, stretch[0][0])[0], block_span(record, stretch[-1][0])[1]

    def job() -> int:
        storage.read_into(path, begin, _places(path, record, stretch), direct=direct)
        return end - begin

    return job


def _places(path: str, record: FileRecord, stretch: Iterable[Block]) -> Iterator[memoryview]:
    """Where the bytes of these blocks go; each block is checked when all of it has been read."""
    for index, parts in stretch:
        begin, end = block_span(record, index)
        whole = _block_for(parts, end - begin)
        pieces = _pieces(begin, end, parts) if whole is None else [whole]
        yield from checked_steps(record, index, pieces, where=path)
        if whole is not None:
            for part in parts:
                part.memory[:] = whole[part.begin - begin : part.end - begin]


def _block_for(parts: Sequence[Segment], length: int) -> memoryview | None:
    """Memory for the whole block, which is then copied to where its parts belong; None if they are read there."""
    remote = next((one.memory for one in parts if not isinstance(one.memory, memoryview)), None)
    if remote is not None:
        return remote.scratch(length)
    return scratch(length) if len(parts) > _PIECES or _overlap(parts) else None


def _overlap(parts: Sequence[Segment]) -> bool:
    """Whether bytes are wanted twice: tensors that were tied when they were saved, and are not here."""
    return any(one.end > other.begin for one, other in itertools.pairwise(parts))


def _pieces(begin: int, end: int, parts: Sequence[Segment]) -> Iterator[memoryview]:
    """The block as memory to read into, in order; what nobody wants of it goes to scratch memory."""
    unwanted = scratch(end - begin)
    at = begin
    for part in parts:
        if part.begin > at:
            yield unwanted[at - begin : part.begin - begin]
        assert isinstance(part.memory, memoryview)
        yield part.memory
        at = part.end
    if at < end:
        yield unwanted[at - begin :]
