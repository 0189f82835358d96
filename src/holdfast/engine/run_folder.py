"""The run folder and who owns it: locks, the wait for a predecessor's writer, debris, the attempt's number."""

from __future__ import annotations

import os
import re
import socket
import sys
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from holdfast.engine.catalog import Catalog
from holdfast.errors import AlreadyExistsError, CorruptError, OwnershipError, UnsupportedFormatError
from holdfast.format.manifest import FORMAT
from holdfast.format.names import CheckpointName, is_debris
from holdfast.storage.base import Storage
from holdfast.storage.local import LocalStorage
from holdfast.storage.locks import RecordLock

RUN_FILE = "holdfast.json"
TRAINER_LOCK = ".trainer.lock"
WRITER_WAIT_SECONDS = 600.0
"""How long a new attempt waits for its predecessor's writer, which may be writing many gigabytes."""
TRAINER_WAIT_SECONDS = 5.0
"""How long a new attempt tries before it is refused: a killed trainer keeps its lock while its memory is freed."""
_SMALL = 1 << 20
_ATTEMPT = re.compile(r"(\d{4,})\.json")


class RunIdentity(msgspec.Struct, frozen=True):
    """``holdfast.json``: what this folder is."""

    format: int
    run: str
    created: str


class AttemptRecord(msgspec.Struct, frozen=True, kw_only=True):
    """``attempts/0001.json``: one start of the run.

    ``rollback`` says that ``resumed_from`` was chosen deliberately: what earlier attempts committed
    after it is abandoned.
    """

    attempt: int
    host: str
    pid: int
    started: str
    resumed_from: str | None = None
    rollback: bool = False
    command: tuple[str, ...] = ()


class RunFolder:
    """One run folder, owned by this process from `open` to `close`."""

    def __init__(self, path: Path, storage: LocalStorage, lock: RecordLock) -> None:
        self.path = path
        self.storage = storage
        self._lock = lock

    @classmethod
    def open(cls, path: Path, say: Callable[[str], None]) -> RunFolder:
        """Takes the folder for this trainer, then waits, bounded and visibly, for an old writer to finish.

        Raises `OwnershipError` if another live trainer has it, `StorageError` if it cannot be used.
        Only then may anything be listed or removed: an old writer may still commit its last snapshot.
        """
        storage = LocalStorage(path)
        storage.prepare()
        lock = RecordLock(path / TRAINER_LOCK)
        if not _acquired(lock, TRAINER_WAIT_SECONDS):
            raise OwnershipError(_taken(path, lock.holder()))
        folder = cls(path, storage, lock)
        try:
            folder._await_writer(say)
            # A rename that is visible may not be durable yet; what this attempt builds on has to be.
            storage.sync()
            for name in storage.sweep(is_debris):
                say(f"removed {name}, left by a save that was interrupted")
        except BaseException:
            lock.release()
            raise
        return folder

    @property
    def writer_lock(self) -> Path:
        return self.path / ".writer.lock"

    @property
    def writer_log(self) -> Path:
        return self.path / "journal" / "writer.log"

    def _await_writer(self, say: Callable[[str], None]) -> None:
        lock = RecordLock(self.writer_lock)
        if not lock.acquire():
            say(f"waiting for the writer of the previous attempt to finish its save ({_who(lock.holder())})")
            if not _acquired(lock, WRITER_WAIT_SECONDS):
                raise OwnershipError(
                    f"{self.path}: the writer of the previous attempt ({_who(lock.holder())}) has not finished within "
                    f"{WRITER_WAIT_SECONDS:.0f} s; see {self.writer_log}. Wait for it, or end that process."
                )
        lock.release()

    def identity(self) -> RunIdentity:
        """The run's identity, made at its first start."""
        made = RunIdentity(FORMAT, self._run_of_checkpoints() or uuid.uuid4().hex, _now())
        try:
            self.storage.create(RUN_FILE, msgspec.json.encode(made))
        except AlreadyExistsError:
            return read_identity(self.storage)
        return made

    def _run_of_checkpoints(self) -> str | None:
        """Checkpoints that were copied here without the record of their run still belong to it."""
        if RUN_FILE in self.storage.list():
            return None
        entries = Catalog(self.storage).list().entries
        return entries[-1].manifest.run if entries else None

    def attempts(self) -> list[AttemptRecord]:
        """All attempts so far, oldest first."""
        return read_attempts(self.storage)

    def claim(self, *, resumed_from: str | None, rollback: bool) -> AttemptRecord:
        """Claims the next attempt number by a create-only record. Numbers of checkpoints count too."""
        used = [record.attempt for record in self.attempts()]
        names = (CheckpointName.parse(name) for name in self.storage.list())
        number = max([0, *used, *(name.attempt for name in names if name is not None)]) + 1
        record = AttemptRecord(
            attempt=number, host=socket.gethostname(), pid=os.getpid(), started=_now(),
            resumed_from=resumed_from, rollback=rollback, command=tuple(sys.argv),
        )  # fmt: skip
        self.storage.create(f"attempts/{number:04d}.json", msgspec.json.encode(record))
        return record

    def close(self) -> None:
        self._lock.release()


def _acquired(lock: RecordLock, seconds: float) -> bool:
    """Whether the lock could be taken within ``seconds``."""
    deadline = time.monotonic() + seconds
    while not lock.acquire():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def read_identity(storage: Storage) -> RunIdentity:
    """Raises `NotFoundError`, `CorruptError` or `UnsupportedFormatError`."""
    try:
        identity = msgspec.json.decode(storage.read(RUN_FILE, limit=_SMALL), type=RunIdentity)
    except msgspec.DecodeError as error:
        raise CorruptError(
            f"{storage.url}/{RUN_FILE}: {error}. Restore it from a copy, or choose another folder."
        ) from error
    if identity.format > FORMAT:
        raise UnsupportedFormatError(
            f"{storage.url}/{RUN_FILE}: has format {identity.format}; this holdfast reads {FORMAT}. Upgrade holdfast."
        )
    return identity


def trainer_of(storage: LocalStorage) -> dict[str, Any] | None:
    """Who holds the folder: pid, host and start of a live trainer; None if nobody does.

    A killed trainer's record stays behind, so the lock itself is asked, by holding it for a moment.
    """
    path = Path(storage.root) / TRAINER_LOCK
    lock = RecordLock(path)
    if not path.exists() or lock.acquire():
        lock.release()
        return None
    return lock.holder() or {}


def read_attempts(storage: LocalStorage) -> list[AttemptRecord]:
    """All readable attempt records, oldest first."""
    records = [_attempt(storage, name) for name in storage.list_files("attempts") if _ATTEMPT.fullmatch(name)]
    return sorted(records, key=lambda record: record.attempt)


def _attempt(storage: LocalStorage, name: str) -> AttemptRecord:
    try:
        return msgspec.json.decode(storage.read(f"attempts/{name}", limit=_SMALL), type=AttemptRecord)
    except msgspec.DecodeError:
        # Create-only and fsynced, so this is damage; its number must still not be used again.
        return AttemptRecord(attempt=int(name.split(".")[0]), host="unknown", pid=0, started="")


def _taken(path: Path, holder: dict[str, Any] | None) -> str:
    return (
        f"{path}: another trainer is running in this folder ({_who(holder)}). "
        "Two trainers in one folder would overwrite each other's run: end that one first, or choose another folder."
    )


def _who(holder: dict[str, Any] | None) -> str:
    if not holder:
        return "holder unknown"
    return f"pid {holder.get('pid')} on {holder.get('host')}, since {holder.get('started')}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
