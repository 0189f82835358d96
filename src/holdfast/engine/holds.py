"""Readers hold what they read: as long as one does, neither retention nor ``holdfast prune`` deletes it.

A hold is a file ``readers/<checkpoint>-<id>`` with a record lock on it, which dies with its process.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Callable, Iterable, Iterator

from holdfast.engine import turns
from holdfast.engine.pins import pinned
from holdfast.engine.turns import require_checkpoint, share, turn, who
from holdfast.errors import CorruptError, NotFoundError, StorageError
from holdfast.format.names import CheckpointName
from holdfast.storage.failures import reported
from holdfast.storage.local import LocalStorage
from holdfast.storage.locks import RecordLock
from holdfast.storage.paths import fresh_id

READERS = "readers"
_LOOK_WAIT_SECONDS = 0.2
_HOLD = re.compile(r"(?P<name>.+)-[0-9a-f]{8}")


@contextlib.contextmanager
def hold(storage: LocalStorage, name: str) -> Iterator[None]:
    """While this is open, `delete_unless_held` leaves the checkpoint ``name`` alone. Others may hold it too.

    It ends with this process, however that ends, and is not inherited by forked children. Raises `NotFoundError` if the
    checkpoint is not there any more, `StorageError` if the folder cannot be written to or offers no record locks,
    `CorruptError` if something is in the way that holdfast has not made.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     storage, name = LocalStorage(folder), "step-00000500.a0001.n0003"
    ...     storage.begin(name, "7f3a").commit(b"{}")
    ...     with hold(storage, name):
    ...         print(delete_unless_held(storage, name))
    ...     print(delete_unless_held(storage, name))
    step-00000500.a0001.n0003 was not deleted: it is held by pid ... on ...
    None
    """
    require_checkpoint(storage, name)
    if CheckpointName.parse(name) is None:
        yield  # a copy under a name of its own, which no retention touches
        return
    lock = _take(storage, name)
    try:
        yield
    finally:
        _let_go(lock)


def delete_unless_held(storage: LocalStorage, name: str, *, missing_ok: bool = True) -> str | None:
    """Deletes the checkpoint ``name``, or returns a sentence that says why not: who holds it, or what is in the way.

    One that was pinned since somebody decided to delete it stays, too. Waits for at most `DELETER_WAIT_SECONDS`.
    Raises `StorageError` if the deletion fails, or a lock cannot be opened, and `NotFoundError` for one that is not
    there any more, unless ``missing_ok``.
    """
    found = set_aside_unless_held(storage, name, missing_ok=missing_ok)
    if isinstance(found, str):
        return found
    found()
    return None


def set_aside_unless_held(
    storage: LocalStorage, name: str, *, missing_ok: bool = True
) -> str | Callable[[], None]:  # fmt: skip
    """Like `delete_unless_held`, but what takes time with the size is left to the call that it returns."""
    # Not skipped where no reader has ever been: the first one may just have seen that the checkpoint is there.
    with turn(storage, turns.DELETER_WAIT_SECONDS) as obstacle:
        if obstacle:
            return f"{name} was not deleted: {obstacle}"
        try:
            readers = _living(_fresh_holds(storage).get(name, ()))
        except CorruptError as error:
            return f"{name} was not deleted, as it is not known who holds it: {error}"
        if readers:
            return f"{name} was not deleted: it is held by {readers}"
        if name in pinned(storage):
            return f"{name} was not deleted: it is pinned"
        if not missing_ok and not os.path.lexists(os.path.join(storage.root, name)):
            raise NotFoundError(f"{storage.url}: the checkpoint {name} is not there any more.")
        return storage.set_aside(name)


def held(storage: LocalStorage) -> dict[str, str]:
    """The names of checkpoints that are held, each with by whom: ``"held by pid 12 on node7"``.

    Hardly waits, and so is only for plans and for people; `delete_unless_held` asks again. Where the locks cannot be
    asked, as on a read-only mount, the holds of dead readers count too. Raises like `LocalStorage.list_files`.
    """
    holds = _holds(storage)
    if not holds:
        return {}
    with contextlib.suppress(StorageError), turn(storage, _LOOK_WAIT_SECONDS) as obstacle:
        if not obstacle:
            living = {name: _living(paths) for name, paths in holds.items()}
            return {name: f"held by {readers}" for name, readers in living.items() if readers}
    return dict.fromkeys(holds, "perhaps held by a reader")


def _take(storage: LocalStorage, name: str) -> RecordLock:
    with turn(storage, turns.READER_WAIT_SECONDS) as obstacle:
        if obstacle:
            raise StorageError(errno.ETIMEDOUT, f"{name} cannot be held: {obstacle}")
        require_checkpoint(storage, name)
        lock = RecordLock(os.path.join(_made_folder(storage), f"{name}-{fresh_id()}"))
        if not lock.acquire():
            raise StorageError(errno.EAGAIN, f"{name} cannot be held: {who(lock)} has {lock.path}. Try it again.")
        share(lock.path, storage)
        return lock


def _let_go(lock: RecordLock) -> None:
    """In a forked child, which does not have the lock, this leaves the parent's hold alone."""
    if lock.held:
        lock.release()
        with contextlib.suppress(OSError):
            os.unlink(lock.path)


def _made_folder(storage: LocalStorage) -> str:
    storage.list_files(READERS)  # raises for a link in its place, which could lead anywhere
    folder = os.path.join(storage.root, READERS)
    with reported("create the folder", folder), contextlib.suppress(FileExistsError):
        os.mkdir(folder)
        share(folder, storage)
    return folder


def _holds(storage: LocalStorage) -> dict[str, list[str]]:
    """The files of all holds, those of readers that died included, by checkpoint."""
    found: dict[str, list[str]] = {}
    for file in storage.list_files(READERS):
        match = _HOLD.fullmatch(file)
        if match is not None and CheckpointName.parse(match["name"]) is not None:
            found.setdefault(match["name"], []).append(os.path.join(storage.root, READERS, file))
    return found


def _fresh_holds(storage: LocalStorage) -> dict[str, list[str]]:
    """A network file system may show a folder as it was seconds ago, but not after it was changed from here."""
    probe = os.path.join(storage.root, READERS, f".look-{fresh_id()}")
    holds = _holds(storage)
    try:
        os.mkdir(probe)
        os.rmdir(probe)
    except OSError:
        return holds
    return _holds(storage)


def _living(paths: Iterable[str]) -> str:
    """Those who hold one of ``paths``, for people; empty if nobody does. What dead readers left is removed."""
    return ", ".join(filter(None, map(_reader, paths)))


def _reader(path: str) -> str | None:
    lock = RecordLock(path)
    if lock.acquire():
        _let_go(lock)
        return None
    return who(lock)
