"""Bytes of a checkpoint back into memory, verified: all digests first, then straight into the destination."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from holdfast.engine.catalog import Entry, shard_files
from holdfast.engine.leaves import Target
from holdfast.errors import CorruptError
from holdfast.format.digests import FileDigest, block_digest
from holdfast.format.dtypes import nbytes, stored_as
from holdfast.format.safetensors import PREFIX_SIZE, StoredTensor, header_size, parse_header
from holdfast.storage.base import Storage
from holdfast.types import Chunk, FileRecord, TensorRecord, TensorSpec

Targets = Mapping[str, Mapping[str, Target]]
"""Destinations by item and tensor name."""
Advance = Callable[[int], object]
"""Told the number of bytes done, for a progress bar."""

_THREADS = 4
_WINDOW = 64
"""Blocks under way at once: bounds how far reading runs ahead of a failure."""


@dataclass(frozen=True, slots=True)
class Segment:
    """Bytes ``begin`` to ``end`` of a file and the memory they belong in."""

    begin: int
    end: int
    memory: memoryview


def verify(storage: Storage, entry: Entry, *, tampering: bool = False, advance: Advance = lambda _: None) -> None:
    """Reads every file of ``entry`` and compares it with the manifest.

    Checks block digests (XXH3, finds corruption) and that every safetensors header says what the
    manifest says; with ``tampering`` also the BLAKE3 digest of each file. Raises `CorruptError`
    that names the file and the first byte range that differs.
    """
    headers = _expected_headers(entry)
    for file, record in shard_files(entry.manifest).items():
        if tampering:
            _check_tampering(storage, entry.name, file, record, advance)
        else:
            _run(
                [_block_check(storage, entry.name, file, record, index) for index in range(len(record.blocks))], advance
            )
        _check_header(storage, entry, file, record, headers[file])


def read(storage: Storage, entry: Entry, targets: Targets, *, advance: Advance = lambda _: None) -> None:
    """Fills ``targets`` with the stored bytes, straight into their memory, and finishes them.

    Call `verify` first: what is read here replaces live memory, so damage has to be known before.
    Raises `StorageError` if the storage fails on the way.
    """
    by_file: dict[str, list[Segment]] = {}
    for item, leaves in targets.items():
        record = entry.manifest.items[item]
        for name, target in leaves.items():
            stored = _resolve(entry, item, name) if name in record.aliases else record.tensors[name]
            for chunk in stored.chunks:
                _add(by_file, storage, entry.name, stored, chunk, target)
    jobs = [
        _read_job(storage, f"{entry.name}/{file}", batch)
        for file, parts in by_file.items()
        for batch in _batches(parts)
    ]
    _run(jobs, advance)
    for leaves in targets.values():
        for target in leaves.values():
            target.finish()


def bytes_to_read(entry: Entry) -> int:
    """The size of all shards, for a progress bar."""
    return sum(record.size for record in shard_files(entry.manifest).values())


def _resolve(entry: Entry, item: str, name: str) -> TensorRecord:
    alias = entry.manifest.items[item].aliases[name]
    return entry.manifest.items[alias.item].tensors[alias.tensor]


def _run(jobs: Sequence[Callable[[], int]], advance: Advance) -> None:
    """Runs ``jobs`` on a few threads (reading and hashing release the interpreter lock) and stops at a failure."""
    if len(jobs) < 2:
        for job in jobs:
            advance(job())
        return
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="holdfast-read") as pool:
        for window in _windows(jobs):
            for done in pool.map(lambda job: job(), window):
                advance(done)


def _windows(jobs: Sequence[Callable[[], int]]) -> Iterator[Sequence[Callable[[], int]]]:
    return (jobs[begin : begin + _WINDOW] for begin in range(0, len(jobs), _WINDOW))


def _block_check(storage: Storage, name: str, file: str, record: FileRecord, index: int) -> Callable[[], int]:
    def check() -> int:
        begin = index * record.block_size
        length = min(record.block_size, record.size - begin)
        buffer = _scratch(length)
        storage.read_into(f"{name}/{file}", begin, [buffer])
        if block_digest(buffer) != record.blocks[index]:
            raise _damaged(name, file, f"bytes {begin:,} to {begin + length:,} are not the ones that were committed")
        return length

    return check


_threads = threading.local()


def _scratch(length: int) -> memoryview:
    """Memory of this thread to read a block into: fresh pages for each block would cost more than the reading."""
    if len(getattr(_threads, "buffer", b"")) < length:
        _threads.buffer = bytearray(length)
    return memoryview(_threads.buffer)[:length]


def _check_tampering(storage: Storage, name: str, file: str, record: FileRecord, advance: Advance) -> None:
    digest = FileDigest(record.block_size)
    buffer = memoryview(bytearray(min(record.block_size, record.size)))
    for begin in range(0, record.size, record.block_size):
        block = buffer[: min(record.block_size, record.size - begin)]
        storage.read_into(f"{name}/{file}", begin, [block])
        digest.update(block)
        advance(len(block))
    found = digest.record(record.size)
    for index, (want, have) in enumerate(zip(record.blocks, found.blocks, strict=True)):
        if want != have:
            raise _damaged(name, file, f"block {index} ({record.block_size:,} bytes each) is not the one committed")
    if found.digest != record.digest:
        raise _damaged(
            name, file, "its cryptographic digest differs although its checksums match: it was altered on purpose"
        )


def _damaged(name: str, file: str, what: str) -> CorruptError:
    return CorruptError(f"{name}/{file}: {what}. Use another checkpoint, or restore the file from a copy.")


def _check_header(
    storage: Storage, entry: Entry, file: str, record: FileRecord, expected: dict[str, StoredTensor]
) -> None:
    """The file opens as what the manifest says it is, also for those who read it without the manifest."""
    path = f"{entry.name}/{file}"
    length = header_size(_read(storage, path, PREFIX_SIZE), record.size)
    found = parse_header(_read(storage, path, length), record.size)
    for name, wanted in expected.items():
        if found.get(name) != wanted:
            raise _damaged(entry.name, file, f"its header says {found.get(name)} of {name!r}, not {wanted}")


def _read(storage: Storage, path: str, length: int) -> bytes:
    buffer = bytearray(length)
    storage.read_into(path, 0, [memoryview(buffer)])
    return bytes(buffer)


def _expected_headers(entry: Entry) -> dict[str, dict[str, StoredTensor]]:
    """What each file's header has to say of the tensors that lie in it whole."""
    expected: dict[str, dict[str, StoredTensor]] = {file: {} for file in shard_files(entry.manifest)}
    for item in entry.manifest.items.values():
        for name, tensor in item.tensors.items():
            if len(tensor.chunks) == 1:
                chunk = tensor.chunks[0]
                expected[chunk.file][name] = (*stored_as(tensor.spec), chunk.begin, chunk.end)
    return expected


def _add(
    by_file: dict[str, list[Segment]], storage: Storage, name: str, stored: TensorRecord, chunk: Chunk, target: Target
) -> None:
    memory = target.buffer()
    if nbytes(TensorSpec(stored.dtype, chunk.sizes)) == 0:
        return
    place = _contiguous_place(stored, chunk)
    if place is None:
        _scatter(storage, name, stored, chunk, memory)
        return
    by_file.setdefault(chunk.file, []).append(Segment(chunk.begin, chunk.end, memory[place[0] : place[1]]))


def _contiguous_place(stored: TensorRecord, chunk: Chunk) -> tuple[int, int] | None:
    """Where the chunk lies in the tensor's own bytes, if it is one stretch: whole rows of the first axis."""
    if chunk.sizes[1:] != stored.shape[1:]:
        return None
    row = nbytes(TensorSpec(stored.dtype, stored.shape[1:]))
    begin = chunk.offsets[0] * row if chunk.offsets else 0
    return begin, begin + chunk.end - chunk.begin


def _scatter(storage: Storage, name: str, stored: TensorRecord, chunk: Chunk, memory: memoryview) -> None:
    """A chunk that is not one stretch of the tensor goes through a buffer of its own."""
    import numpy as np

    element = np.dtype(f"V{nbytes(TensorSpec(stored.dtype, ()))}")
    buffer = memoryview(bytearray(chunk.end - chunk.begin))
    storage.read_into(f"{name}/{chunk.file}", chunk.begin, [buffer])
    place = tuple(slice(offset, offset + size) for offset, size in zip(chunk.offsets, chunk.sizes, strict=True))
    whole = np.frombuffer(memory, dtype=element).reshape(stored.shape)
    whole[place] = np.frombuffer(buffer, dtype=element).reshape(chunk.sizes)


_BATCH_BYTES = 16 << 20
_BATCH_SEGMENTS = 512
"""Below the kernel's limit of 1024 buffers a call."""


def _batches(segments: list[Segment]) -> Iterator[list[Segment]]:
    """Neighbouring segments together, so that many small tensors cost few calls; large ones cut for the threads."""
    batch: list[Segment] = []
    size = 0
    for segment in _cut(sorted(segments, key=lambda one: one.begin)):
        apart = bool(batch) and segment.begin != batch[-1].end
        if batch and (apart or size >= _BATCH_BYTES or len(batch) >= _BATCH_SEGMENTS):
            yield batch
            batch, size = [], 0
        batch.append(segment)
        size += segment.end - segment.begin
    if batch:
        yield batch


def _cut(segments: list[Segment]) -> Iterator[Segment]:
    for segment in segments:
        for begin in range(segment.begin, segment.end, _BATCH_BYTES):
            end = min(begin + _BATCH_BYTES, segment.end)
            yield Segment(begin, end, segment.memory[begin - segment.begin : end - segment.begin])


def _read_job(storage: Storage, path: str, batch: list[Segment]) -> Callable[[], int]:
    def job() -> int:
        storage.read_into(path, batch[0].begin, [segment.memory for segment in batch])
        return batch[-1].end - batch[0].begin

    return job
