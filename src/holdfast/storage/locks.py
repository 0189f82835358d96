"""Who owns a run folder: a lock that dies with its process and is not inherited by its children."""

from __future__ import annotations

import contextlib
import datetime
import functools
import json
import os
import socket
import threading
from typing import Any

from holdfast.storage import platform
from holdfast.storage.failures import reported

_RECORD_LIMIT = 4096
_mutex = threading.RLock()
"""Two threads that ask at once would otherwise give each other's locks away, by closing what they opened to ask."""
_held: dict[tuple[int, int], RecordLock] = {}
"""The locks of this process by device and inode: the system would grant each of them to it again."""


class RecordLock:
    """A POSIX record lock (``fcntl``) on the file ``path``, which is made if need be and never removed.

    The system releases it when the process ends, however it ends. Forked children do not have it, unlike one
    by ``flock``, which loader workers would keep for seconds after the trainer is gone. But closing **any**
    descriptor of the file in this process gives the lock away, so nothing else may open it.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     lock = RecordLock(f"{folder}/trainer.lock")
    ...     lock.acquire(), RecordLock(f"{folder}/trainer.lock").acquire()
    ...     lock.release()
    (True, False)
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.path.abspath(path)
        self._descriptor: int | None = None

    @property
    def held(self) -> bool:
        """Whether this object has the lock, in this process."""
        return self._descriptor is not None

    def acquire(self) -> bool:
        """Takes the lock without waiting; False if another process, or another `RecordLock` of this one, has it.

        Raises `StorageError` if the file cannot be opened for writing, or its file system offers no record locks.
        """
        _forget_locks_in_children()
        with _mutex:
            if self.held:
                return True
            if _held_here(self.path) is not None:
                return False
            with reported("lock", self.path):
                return self._take(os.open(self.path, platform.LOCK, 0o666))

    def _take(self, descriptor: int) -> bool:
        try:
            taken = platform.try_lock(descriptor)
        except OSError:
            os.close(descriptor)
            raise
        if not taken:
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        _held[_identity(os.fstat(descriptor))] = self
        self._write_record(_record())
        return True

    def _write_record(self, record: dict[str, Any] | None) -> None:
        """Best effort: a full disk must not keep a run from starting, and the record is for people."""
        assert self._descriptor is not None
        with contextlib.suppress(OSError):
            os.ftruncate(self._descriptor, 0)
            if record is not None:
                os.lseek(self._descriptor, 0, os.SEEK_SET)
                os.write(self._descriptor, json.dumps(record).encode())

    def release(self) -> None:
        """Gives the lock back; nothing to do without it."""
        with _mutex:
            if self._descriptor is None:
                return
            self._write_record(None)
            del _held[_identity(os.fstat(self._descriptor))]
            os.close(self._descriptor)
            self._descriptor = None

    def holder(self) -> dict[str, Any] | None:
        """What the holder wrote: ``host``, ``pid`` and ``started`` (UTC); None if nothing can be read.

        A holder that was killed leaves its record behind; only `acquire` tells whether the lock is free.
        """
        owner = _held_here(self.path)
        with contextlib.suppress(OSError, ValueError):
            record = json.loads(owner._read_record() if owner else _read_file(self.path))
            return record if isinstance(record, dict) else None
        return None

    def _read_record(self) -> bytes:
        assert self._descriptor is not None
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        return os.read(self._descriptor, _RECORD_LIMIT)

    def _forget(self) -> None:
        """In a forked child: the descriptor goes, which leaves the parent's lock alone."""
        if self._descriptor is not None:
            with contextlib.suppress(OSError):
                os.close(self._descriptor)
            self._descriptor = None


def _record() -> dict[str, Any]:
    started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {"host": socket.gethostname(), "pid": os.getpid(), "started": started}


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _held_here(path: str) -> RecordLock | None:
    """The lock of this process on ``path``, found without opening the file."""
    try:
        return _held.get(_identity(os.stat(path)))
    except OSError:
        return None


def _read_file(path: str) -> bytes:
    descriptor = os.open(path, platform.READ)
    try:
        return os.read(descriptor, _RECORD_LIMIT)
    finally:
        os.close(descriptor)


@functools.cache
def _forget_locks_in_children() -> None:
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_forget_locks)


def _forget_locks() -> None:
    global _mutex
    _mutex = threading.RLock()  # a thread that was not forked may have had it
    for lock in _held.values():
        lock._forget()
    _held.clear()
