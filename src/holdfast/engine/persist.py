"""From the arena to a committed checkpoint: hash, write, fsync, commit, then set aside what may go."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import msgspec

from holdfast.engine.arrival import Arrived
from holdfast.engine.holds import set_aside_unless_held
from holdfast.engine.linking import Links
from holdfast.engine.messages import CommitRequest, Committed, Failed, Outcome, ShardRequest
from holdfast.engine.sharing import left_with_one
from holdfast.errors import AlreadyExistsError, CorruptError, HoldfastError, StorageError
from holdfast.format.digests import BLOCK_SIZE, FileDigest, block_digest, content_hash
from holdfast.format.manifest import MANIFEST_LIMIT, Manifest, check_digest, open_manifest, seal
from holdfast.format.names import HASH, CheckpointName, unhashed
from holdfast.storage.base import Storage, Try
from holdfast.storage.local import LocalStorage
from holdfast.storage.paths import MANIFEST_FILE
from holdfast.types import FileRecord, Part

Removals = list[Callable[[], None]]
"""What is left of a deletion once its checkpoint is out of the way: giving back the space, which takes its time."""

Persisting = Generator[None, None, Outcome]
"""A checkpoint in the making. It pauses once all of it is written, to be committed when it goes on; closed instead,
nothing of it is left. One that fails before that does not pause."""


def persisting(
    storage: LocalStorage, commit: CommitRequest, shards: Shards, removals: Removals, links: Links | None = None
) -> Persisting:
    """Makes the checkpoint ``commit``, whole or not at all; never raises for what a storage can do wrong.

    What may go for it is out of the way then; giving back its space is added to ``removals``, so that nobody who waits
    for this checkpoint waits for that too. ``links`` knows what was found out in the folder before.

    A device that reports an I/O error may have dropped the dirty pages, and a second fsync of the same
    file would then succeed without them: the bytes are written once more to a fresh try, and only once.
    """
    started = time.monotonic()
    task = _Task(storage, commit, shards, links or Links(storage), removals)
    lost: str | None = None  # not the error itself: with its traceback it would hold on to the arena
    for last in (False, True):
        try:
            manifest, size, linked = yield from _commit(task)
        except AlreadyExistsError as error:
            if lost is not None:
                # Ours, and visible, but its folder's fsync failed: a second one would succeed without saying anything.
                return _timed(refused(commit, lost, task.notes), started)
            return _timed(_committed_before(task, error), started)
        except _OtherBytes as error:
            return _timed(refused(commit, str(error), task.notes, again=True), started)
        except HoldfastError as error:
            again = not last and shards.arrival.repeatable
            if again and isinstance(error, StorageError) and error.errno == errno.EIO:
                lost = str(error)
                task.notes.append(f"{lost} Writing it once more to fresh files.")
                continue
            return _timed(refused(commit, str(error), task.notes), started)
        return _timed(_committed(task, manifest, size, linked), started)
    raise AssertionError("the loop returns in its second round")


@dataclass(frozen=True, slots=True)
class _Task:
    """A checkpoint to be made, and what was noted on the way."""

    storage: LocalStorage
    commit: CommitRequest
    shards: Shards
    links: Links
    removals: Removals
    notes: list[str] = field(default_factory=list)


class _OtherBytes(CorruptError):
    """A shard of the snapshot is not what it was known to be."""


def _timed(outcome: Outcome, started: float) -> Outcome:
    """With how long the writer was busy for it, whatever for: writing, deleting, failing."""
    return msgspec.structs.replace(outcome, seconds=time.monotonic() - started)


def _committed(task: _Task, manifest: Manifest, size: int, linked: int = 0) -> Committed:
    """Only now may others go for it."""
    task.notes.extend(_left_with_one(task))
    deleted = _set_aside(task)
    return Committed(
        ordinal=manifest.ordinal, folder=task.commit.folder, name=str(manifest.name), digest=manifest.digest, size=size,
        linked=linked, digests=task.shards.frozen_digests(manifest), deleted=deleted, notes=tuple(task.notes),
    )  # fmt: skip


def _left_with_one(task: _Task) -> list[str]:
    try:
        return left_with_one(task.links.catalog, task.commit.delete)
    except HoldfastError as error:
        return [f"whether the only other copy of a shared file goes with a deletion is not known: {error}"]


def refused(commit: CommitRequest, message: str, notes: Iterable[str] = (), *, again: bool = False) -> Failed:
    """The outcome of a commit that did not come about; with ``again``, one of the next boundary can."""
    manifest = commit.manifest
    return Failed(
        ordinal=manifest.ordinal,
        folder=commit.folder,
        name=unhashed(str(manifest.name)),
        message=message,
        again=again,
        notes=tuple(notes),
    )


def _commit(task: _Task) -> Generator[None, None, tuple[Manifest, int, int]]:
    """The manifest, how many bytes there are with it, and how many of them were linked."""
    commit, shards = task.commit, task.shards
    # Unique for every try: a writer that died in the midst of this request left its own try behind.
    try_id = f"{commit.manifest.try_id}-{os.urandom(4).hex()}"
    attempt = task.storage.begin(unhashed(str(commit.manifest.name)), try_id)
    try:
        found = {file: task.links.link(attempt, commit, shards.request(file), task.notes) for file in commit.files}
        linked = {file: record for file, record in found.items() if record is not None}
        for file in commit.files:
            if file not in linked:
                attempt.reserve(file, shards.request(file).size)
        files = {file: linked[file] if file in linked else shards.write(attempt, file) for file in commit.files}
        if commit.read_back:
            for file, record in files.items():
                try:
                    _read_back(attempt, file, record)
                except HoldfastError:
                    if file in linked:
                        task.notes.append(task.links.reject(file))
                    raise
        yield
        hashed = _labelled(commit.manifest, content_hash(commit.manifest.items, files))
        whole = msgspec.structs.replace(hashed, try_id=try_id, parts=(Part(rank=0, files=files),))
        data = seal(whole)
        attempt.commit(data, name=str(hashed.name), read_back=commit.read_back)
    except BaseException:
        attempt.abandon()
        raise
    sealed = msgspec.structs.replace(whole, digest=check_digest(data, where=str(hashed.name)))
    return sealed, len(data) + _size(files.values()), _size(linked.values())


def _size(records: Iterable[FileRecord]) -> int:
    return sum(record.size for record in records)


def _labelled(manifest: Manifest, content: str) -> Manifest:
    """``manifest`` with the content hash in its label, where the label has a place for it."""
    return msgspec.structs.replace(manifest, label=manifest.label.replace(HASH, content))


class Shards:
    """The files' images in the arena. What one checkpoint has digested, the others of the same snapshot use again."""

    def __init__(self, shards: Iterable[ShardRequest], arena: memoryview, arrival: Arrived | None = None) -> None:
        self.arrival = arrival or Arrived()
        self._shards = {one.file: one for one in shards}
        self._arena = arena
        self._records: dict[str, FileRecord] = {}

    def request(self, file: str) -> ShardRequest:
        """What was asked for of ``file``."""
        return self._shards[file]

    def frozen_digests(self, manifest: Manifest) -> dict[str, str]:
        """Of the frozen files in ``manifest``, by name."""
        files = {file: record for part in manifest.parts for file, record in part.files.items()}
        return {file: one.digest for file, one in files.items() if file in self._shards and self._shards[file].frozen}

    def write(self, attempt: Try, file: str) -> FileRecord:
        """Writes ``file``, and digests it on the way if that was not done yet."""
        shard = self._shards[file]
        # What comes once more through a small arena is digested once more: it may have changed meanwhile.
        if file not in self._records or not self.arrival.repeatable:
            self._records[file] = self._write_digested(attempt, shard)
        else:
            attempt.write(file, self._blocks(shard), shard.size)
        if shard.known not in ("", self._records[file].digest):
            raise _OtherBytes(f"{file}: {_CHANGED}")
        return self._records[file]

    def _blocks(self, shard: ShardRequest) -> Iterator[memoryview]:
        """Each block once it has arrived; it may be overwritten when the next one is asked for."""
        # What lies before is of no concern to this checkpoint: nobody may wait for it to be written.
        self.arrival.release(shard.offset)
        for begin in range(0, shard.size, BLOCK_SIZE):
            end = min(begin + BLOCK_SIZE, shard.padded_size)
            self.arrival.await_bytes(shard.offset + end)
            at = self.arrival.locate(shard.offset + begin)
            yield self._arena[at : at + end - begin]
            self.arrival.release(shard.offset + end)

    def _write_digested(self, attempt: Try, shard: ShardRequest) -> FileRecord:
        with ThreadPoolExecutor(1, thread_name_prefix="holdfast-digest") as hasher:
            digests = _Digests(hasher)

            def digested() -> Iterator[memoryview]:
                left = shard.size
                for block in self._blocks(shard):
                    digests.take(block[:left], now=self.arrival.whole or not self.arrival.repeatable)
                    yield block
                    left -= len(block)
                    if not self.arrival.repeatable:
                        digests.finish()

            attempt.write(shard.file, digested(), shard.size)
            digests.finish()
        return digests.file.record(shard.size)


class _Digests:
    """Digests the blocks of a file in the background, in order: ``hasher`` has one thread."""

    def __init__(self, hasher: ThreadPoolExecutor) -> None:
        self.file = FileDigest()
        self._hasher = hasher
        self._blocks: list[memoryview] = []
        self._pending: list[Future[None]] = []

    def take(self, block: memoryview, *, now: bool) -> None:
        """The next block; those that are not digested ``now`` are with a later one."""
        self._blocks.append(block)
        if now:
            self._start()

    def finish(self) -> None:
        """All that were taken are digested then."""
        self._start()
        for one in self._pending:
            one.result()
        self._pending.clear()

    def _start(self) -> None:
        self._pending += [self._hasher.submit(self.file.update, one) for one in self._blocks]
        self._blocks.clear()


def _read_back(attempt: Try, file: str, record: FileRecord) -> None:
    """Raises `StorageError` unless the medium holds what was written, all of it."""
    end = 0
    for index, block in enumerate(attempt.read_back(file, block_size=record.block_size)):
        begin, end = end, end + len(block)
        if end > record.size or block_digest(block) != record.blocks[index]:
            raise _spoilt(file, f"bytes {begin:,} to {end:,} are not the ones that were written")
    if end != record.size:
        raise _spoilt(file, f"there are {end:,} bytes, where {record.size:,} were written")


def _spoilt(file: str, what: str) -> StorageError:
    advice = "Do not trust this disk: check it, and save somewhere else."
    return StorageError(errno.EIO, f"{file}: read back from the medium, {what}. {advice}")


def _committed_before(task: _Task, error: AlreadyExistsError) -> Outcome:
    """A writer that died between its commit and its reply leaves the checkpoint that its successor is asked for."""
    wanted, storage = task.commit.manifest, task.storage
    try:
        name = _name_of(storage, wanted)
        data = storage.read(f"{name}/{MANIFEST_FILE}", limit=MANIFEST_LIMIT)
        found = open_manifest(data, where=name)
        # Its rename may have become visible without becoming durable.
        storage.sync()
    except HoldfastError as unreadable:
        return refused(task.commit, str(unreadable), [*task.notes, str(error)])
    if (found.run, found.attempt, found.ordinal) != (wanted.run, wanted.attempt, wanted.ordinal):
        return refused(task.commit, str(error), task.notes)
    return _committed(task, found, len(data) + sum(_size(part.files.values()) for part in found.parts))


def _name_of(storage: Storage, wanted: Manifest) -> str:
    """The name, content hash included, under which there is a checkpoint of this attempt and ordinal."""
    parsed = (CheckpointName.parse(name) for name in storage.list())
    same = (str(one) for one in parsed if one is not None and one.order == wanted.name.order)
    return next(same, str(wanted.name))


def _set_aside(task: _Task) -> tuple[str, ...]:
    """Those that could be set aside; one that a reader holds goes after a later save."""
    gone: list[str] = []
    for name in task.commit.delete:
        try:
            found = set_aside_unless_held(task.storage, name)
        except StorageError as error:
            found = f"could not delete {name}: {error}"
        if isinstance(found, str):
            task.notes.append(found)
        else:
            gone.append(name)
            task.removals.append(found)
    return tuple(gone)


_CHANGED = (
    "the snapshot holds other bytes of it than it was known to. Nothing of it is kept; the next save copies and reads "
    "all of them."
)
