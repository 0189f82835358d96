"""The run folder and who owns it: locks, the wait for a predecessor's writer, debris, the attempt's number."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from holdfast.engine.catalog import Catalog
from holdfast.errors import (
    AlreadyExistsError,
    CorruptError,
    HoldfastError,
    OwnershipError,
    UnsupportedFormatError,
)
from holdfast.format.manifest import FORMAT, Origin
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
    """``holdfast.json``: what this folder is. ``home`` is the run's own folder, if this is another one that it has."""

    format: int
    run: str
    created: str
    home: str = ""


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
    options: dict[str, dict[str, str]] = {}
    """Every option of the run and its savers: its ``value`` in words, and the ``source`` that it came from."""
    origins: tuple[Origin, ...] = ()
    """Checkpoints of other runs that this attempt began from."""


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
            folder.clean(storage, say)
        except BaseException:
            lock.release()
            raise
        return folder

    def clean(self, storage: LocalStorage, say: Callable[[str], None]) -> None:
        """Removes what interrupted saves have left in this folder, or in another one of the run."""
        for name in storage.sweep(is_debris):
            say(f"removed {name}, left by a save that was interrupted")

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

    def identity(self, others: Sequence[LocalStorage] = ()) -> RunIdentity:
        """The run's identity, made at its first start; ``others`` are the other folders that it saves into.

        What was lost with a disk goes on from there: if this folder is new, it takes up the run of another that has it
        for its home. Raises `OwnershipError` if one of them belongs to another run.
        """
        home = os.path.realpath(self.path)
        known = {one.url: found for one in others if (found := _identity(one)) is not None}
        mine = [one for one in known.values() if one.home == home]
        run = _run_of_checkpoints(self.storage) or (mine[0].run if mine else uuid.uuid4().hex)
        if RUN_FILE in self.storage.list():
            run = read_identity(self.storage).run
        for url, found in known.items():
            if found.run != run:
                raise OwnershipError(_foreign(url, found, self.path))
        for storage in (self.storage, *others):
            made = RunIdentity(FORMAT, run, _now(), "" if storage is self.storage else home)
            storage.prepare()
            with contextlib.suppress(AlreadyExistsError):
                storage.create(RUN_FILE, msgspec.json.encode(made))
        return read_identity(self.storage)

    def attempts(self) -> list[AttemptRecord]:
        """All attempts so far, oldest first."""
        return read_attempts(self.storage)

    def claim(
        self, *, resumed_from: str | None, rollback: bool, others: Sequence[LocalStorage] = (),
        options: dict[str, dict[str, str]] | None = None, origins: tuple[Origin, ...] = (),
    ) -> AttemptRecord:  # fmt: skip
        """Claims the next attempt number by a create-only record. Numbers of checkpoints in all folders count too."""
        used = [record.attempt for record in self.attempts()]
        names = (CheckpointName.parse(name) for storage in (self.storage, *others) for name in storage.list())
        number = max([0, *used, *(name.attempt for name in names if name is not None)]) + 1
        record = AttemptRecord(
            attempt=number, host=socket.gethostname(), pid=os.getpid(), started=_now(),
            resumed_from=resumed_from, rollback=rollback, command=tuple(sys.argv), options=options or {},
            origins=origins,
        )  # fmt: skip
        self.storage.create(f"attempts/{number:04d}.json", msgspec.json.encode(record))
        return record

    def close(self) -> None:
        self._lock.release()


def _run_of_checkpoints(storage: LocalStorage) -> str | None:
    """Checkpoints that were copied without the record of their run still belong to it."""
    entries = Catalog(storage).list().entries
    return entries[-1].manifest.run if entries else None


def _identity(storage: LocalStorage) -> RunIdentity | None:
    """What a folder that a saver is given belongs to, if to anything."""
    if RUN_FILE in storage.list():
        return read_identity(storage)
    run = _run_of_checkpoints(storage)
    return None if run is None else RunIdentity(FORMAT, run, "")


def _foreign(url: str, found: RunIdentity, path: Path) -> str:
    home = f", whose own folder is {found.home}" if found.home else ""
    return (
        f"{url}: belongs to another run ({found.run}{home}) than {path}. Give the saver another folder, or move that "
        f"one away. If it is this run, and its own folder was lost, copy {url}/{RUN_FILE} to {path}."
    )


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


def home_of(storage: LocalStorage) -> LocalStorage:
    """The run's own folder, which has its attempts and journals, if ``storage`` is another one that it saves into.

    ``storage`` itself where it is that folder, or where nobody knows.
    """
    try:
        home = read_identity(storage).home
    except HoldfastError:
        return storage
    return LocalStorage(home) if home and os.path.isdir(home) else storage


def read_attempts(storage: LocalStorage) -> list[AttemptRecord]:
    """All readable attempt records of the run that ``storage`` is a folder of, oldest first."""
    storage = home_of(storage)
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
