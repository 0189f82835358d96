"""Whether every byte of a checkpoint is the one that was committed."""

from __future__ import annotations

import contextlib
from collections.abc import Hashable, Iterable, Iterator, Mapping

from holdfast.engine.catalog import Entry, shard_files
from holdfast.engine.parallel import STRETCH, Job, run_jobs, scratch
from holdfast.errors import CorruptError
from holdfast.format.digests import STEP, FileDigest, block_span, check_block, check_tampering, checked_steps
from holdfast.format.dtypes import stored_as
from holdfast.format.safetensors import PREFIX_SIZE, StoredTensor, header_size, parse_header
from holdfast.storage.base import Storage
from holdfast.types import Advance, FileRecord
from holdfast.wording import DAMAGED

Whole = set[tuple[Hashable, FileRecord]]
"""Files on disk that were read and found to be what a record says."""


def verify(
    storage: Storage, entry: Entry, *, tampering: bool = False, advance: Advance = lambda _: None,
    whole: Whole | None = None,
) -> None:  # fmt: skip
    """Reads every file of ``entry`` and compares it with the manifest.

    Checks block digests (XXH3, finds corruption) and that every safetensors header says what the
    manifest says; with ``tampering`` also the BLAKE3 digest of each file. Raises `CorruptError`
    that names the file and the first byte range that differs. A file that is in ``whole``, because another checkpoint
    has the same one, is not read again; those that are read are added.
    """
    headers, whole = _expected_headers(entry), set() if whole is None else whole
    for file, record in shard_files(entry.manifest).items():
        path = f"{entry.name}/{file}"
        read = storage.status(path).body, record
        if read in whole:
            advance(record.size)
        elif tampering:
            _check_whole(storage, path, record, advance)
        else:
            run_jobs([_job(storage, path, record, first) for first in range(0, len(record.blocks), STRETCH)], advance)
        whole.add(read)
        _check_header(storage, path, record, headers[file])


def bytes_to_read(entry: Entry) -> int:
    """The size of all shards, for a progress bar."""
    return sum(record.size for record in shard_files(entry.manifest).values())


def _job(storage: Storage, path: str, record: FileRecord, first: int) -> Job:
    indices = range(first, min(first + STRETCH, len(record.blocks)))
    begin, end = block_span(record, indices[0])[0], block_span(record, indices[-1])[1]

    def job() -> int:
        storage.read_into(path, begin, _checked(path, record, indices))
        return end - begin

    return job


def _checked(path: str, record: FileRecord, indices: Iterable[int]) -> Iterator[memoryview]:
    """The same memory for every step of every block: it stays in a cache of the processor."""
    for index in indices:
        begin, end = block_span(record, index)
        yield from checked_steps(record, index, _again(end - begin), where=path)


def _again(length: int) -> Iterator[memoryview]:
    memory = scratch(min(length, STEP))
    for begin in range(0, length, STEP):
        yield memory[: length - begin]


def _checked_block(storage: Storage, path: str, record: FileRecord, index: int) -> memoryview:
    """The block, valid until this thread reads the next. Raises `CorruptError` if it is not the one committed."""
    begin, end = block_span(record, index)
    block = scratch(end - begin)
    storage.read_into(path, begin, [block])
    check_block(record, index, [block], where=path)
    return block


def _check_whole(storage: Storage, path: str, record: FileRecord, advance: Advance) -> None:
    digest = FileDigest(record.block_size)
    for index in range(len(record.blocks)):
        block = _checked_block(storage, path, record, index)
        digest.update(block)
        advance(len(block))
    check_tampering(record, digest.record(record.size), where=path)


def _check_header(storage: Storage, path: str, record: FileRecord, expected: Mapping[str, StoredTensor]) -> None:
    """The file opens as what the manifest says it is, also for those who read it without the manifest."""
    prefix = _read(storage, path, PREFIX_SIZE)
    with _in_words_of(path):
        length = header_size(prefix, record.size)
    header = _read(storage, path, length)
    with _in_words_of(path):
        found = parse_header(header, record.size)
    for name, wanted in expected.items():
        if found.get(name) != wanted:
            raise CorruptError(f"{path}: its header says {found.get(name)} of {name!r}, not {wanted}. {DAMAGED}")


@contextlib.contextmanager
def _in_words_of(path: str) -> Iterator[None]:
    """What is wrong with bytes that were read names the file that they are from."""
    try:
        yield
    except CorruptError as error:
        raise CorruptError(f"{path}: {error}") from error


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
