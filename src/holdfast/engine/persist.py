"""From the arena to a committed checkpoint: hash, write, fsync, commit, then delete what may go."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import msgspec

from holdfast.engine.messages import Committed, Failed, SaveRequest, ShardRequest
from holdfast.errors import AlreadyExistsError, HoldfastError, StorageError
from holdfast.format.digests import BLOCK_SIZE, FileDigest
from holdfast.format.manifest import MANIFEST_LIMIT, Manifest, open_manifest, seal
from holdfast.storage.base import Storage, Try
from holdfast.storage.paths import MANIFEST_FILE
from holdfast.types import FileRecord, Part


def persist(storage: Storage, request: SaveRequest, arena: memoryview) -> Committed | Failed:
    """Commits ``request``, whole or not at all; never raises for what a storage can do wrong.

    A device that reports an I/O error may have dropped the dirty pages, and a second fsync of the same
    file would then succeed without them: the bytes are written once more to a fresh try, and only once.
    """
    started = time.monotonic()
    notes: list[str] = []
    lost: StorageError | None = None
    for last in (False, True):
        try:
            manifest, size = _commit(storage, request, arena, _try_id(request))
        except AlreadyExistsError as error:
            if lost is not None:
                # Ours, and visible, but its folder's fsync failed: a second one would succeed without saying anything.
                return _failure(request, lost, notes)
            return _committed_before(storage, request, error, notes)
        except HoldfastError as error:
            if not last and isinstance(error, StorageError) and error.errno == errno.EIO:
                lost = error
                notes.append(f"{error} Writing it once more to fresh files.")
                continue
            return _failure(request, error, notes)
        deleted = _delete(storage, request.delete, notes)
        return Committed(
            ordinal=request.manifest.ordinal, name=request.name, digest=manifest.digest, size=size,
            seconds=time.monotonic() - started, deleted=deleted, notes=tuple(notes),
        )  # fmt: skip
    raise AssertionError("the loop returns in its second round")


def _try_id(request: SaveRequest) -> str:
    """Unique for every try: a writer that died in the midst of this request left its own try behind."""
    return f"{request.manifest.try_id}-{os.urandom(4).hex()}"


def _failure(request: SaveRequest, error: HoldfastError, notes: list[str]) -> Failed:
    ordinal = request.manifest.ordinal
    return Failed(ordinal=ordinal, name=request.name, message=str(error), notes=tuple(notes))


def _commit(storage: Storage, request: SaveRequest, arena: memoryview, try_id: str) -> tuple[Manifest, int]:
    attempt = storage.begin(request.name, try_id)
    try:
        files = {shard.file: _write_shard(attempt, shard, arena) for shard in request.shards}
        draft = msgspec.structs.replace(request.manifest, try_id=try_id, parts=(Part(rank=0, files=files),))
        data = seal(draft)
        attempt.commit(data)
    except BaseException:
        attempt.abandon()
        raise
    sealed = open_manifest(data, where=request.name)
    return sealed, len(data) + sum(record.size for record in files.values())


def _write_shard(attempt: Try, shard: ShardRequest, arena: memoryview) -> FileRecord:
    digest = FileDigest()
    image = arena[shard.offset : shard.offset + shard.padded_size]
    with ThreadPoolExecutor(1, thread_name_prefix="holdfast-digest") as hasher:
        pending: list[Future[None]] = []

        def blocks() -> Iterator[memoryview]:
            for begin in range(0, shard.size, BLOCK_SIZE):
                block = image[begin : begin + BLOCK_SIZE]
                pending.append(hasher.submit(digest.update, block[: shard.size - begin]))
                yield block

        attempt.write(shard.file, blocks(), shard.size)
        for done in pending:
            done.result()
    return digest.record(shard.size)


def _committed_before(
    storage: Storage, request: SaveRequest, error: AlreadyExistsError, notes: list[str]
) -> Committed | Failed:
    """A writer that died between its commit and its reply leaves the checkpoint that its successor is asked for."""
    wanted = request.manifest
    try:
        data = storage.read(f"{request.name}/{MANIFEST_FILE}", limit=MANIFEST_LIMIT)
        found = open_manifest(data, where=request.name)
        # Its rename may have become visible without becoming durable.
        storage.sync()
    except HoldfastError as unreadable:
        return _failure(request, unreadable, [*notes, str(error)])
    if (found.run, found.attempt, found.ordinal) != (wanted.run, wanted.attempt, wanted.ordinal):
        return _failure(request, error, notes)
    size = len(data) + sum(record.size for part in found.parts for record in part.files.values())
    deleted = _delete(storage, request.delete, notes)
    return Committed(
        ordinal=wanted.ordinal, name=request.name, digest=found.digest, size=size, seconds=0.0,
        deleted=deleted, notes=tuple(notes),
    )  # fmt: skip


def _delete(storage: Storage, names: tuple[str, ...], notes: list[str]) -> tuple[str, ...]:
    deleted: list[str] = []
    for name in names:
        try:
            storage.delete(name)
        except StorageError as error:
            notes.append(f"could not delete {name}: {error}")
        else:
            deleted.append(name)
    return tuple(deleted)
