"""Taking turns in a folder: only one process at a time takes or gives up a hold, pins, or deletes a checkpoint.

That is the one that has the record lock on ``.readers.lock``: nothing is deleted that somebody was just promised.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator

from holdfast.errors import NotFoundError
from holdfast.storage.local import LocalStorage
from holdfast.storage.locks import RecordLock
from holdfast.storage.paths import MANIFEST_FILE

READERS_LOCK = ".readers.lock"
READER_WAIT_SECONDS = 60.0
"""How long a reader waits for its turn, which takes somebody else long on a slow storage only."""
DELETER_WAIT_SECONDS = 10.0
"""How long a deletion waits for its turn, which a process that is stopped at a bad moment keeps."""
_PAUSE_SECONDS = 0.005
_threads: dict[int, threading.Lock] = {}


@contextlib.contextmanager
def turn(storage: LocalStorage, seconds: float) -> Iterator[str]:
    """Until this is left, nobody else takes a hold or deletes; if it is not our turn within ``seconds``, says why."""
    path = os.path.join(storage.root, READERS_LOCK)
    deadline = time.monotonic() + seconds
    threads, lock = _lock_of_process(), RecordLock(path)
    with contextlib.ExitStack() as stack:
        if not threads.acquire(timeout=seconds):
            yield f"another thread of this process had {path} for {seconds:g} s."
            return
        stack.callback(threads.release)
        stack.callback(lock.release)
        yield "" if _acquired(lock, storage, deadline) else _busy(lock, seconds)


def _lock_of_process() -> threading.Lock:
    """The system would grant a record lock to two threads at once, and take it from both when one gives it back.

    One for each process: a child forked during another thread's turn would wait for that thread, which it lacks.
    """
    return _threads.setdefault(os.getpid(), threading.Lock())


def _acquired(lock: RecordLock, storage: LocalStorage, deadline: float) -> bool:
    fresh = not os.path.lexists(lock.path)
    while not lock.acquire():
        if time.monotonic() > deadline:
            return False
        time.sleep(_PAUSE_SECONDS)
    if fresh:
        share(lock.path, storage)
    return True


def _busy(lock: RecordLock, seconds: float) -> str:
    return f"{who(lock)} had {lock.path} for {seconds:g} s. If that process is stopped, let it go on, or end it."


def require_checkpoint(storage: LocalStorage, name: str) -> None:
    """Raises `NotFoundError` unless the checkpoint is there.

    Opened and not only listed: a network file system may still list what was deleted from another machine.
    """
    try:
        storage.read_into(f"{name}/{MANIFEST_FILE}", 0, [])
    except NotFoundError as error:
        raise NotFoundError(f"{storage.url}: the checkpoint {name} is not there any more.") from error


def share(path: str, storage: LocalStorage) -> None:
    """Whoever may write to the run folder may ask for this lock: a colleague's reader must not end all retention."""
    with contextlib.suppress(OSError):
        rights = os.stat(storage.root).st_mode & 0o777
        os.chmod(path, rights if os.path.isdir(path) else rights & 0o666)


def who(lock: RecordLock) -> str:
    holder = lock.holder() or {}
    return f"pid {holder.get('pid', 'unknown')} on {holder.get('host', 'an unknown host')}"
