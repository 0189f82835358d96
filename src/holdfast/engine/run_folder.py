"""The run folder and who owns it: locks, the wait for a predecessor's writer, debris, the attempt's number."""

from __future__ import annotations

import os
import re
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from holdfast.engine.identity import SMALL_LIMIT, home_of, now, read_identity, who
from holdfast.errors import HoldfastError, OwnershipError
from holdfast.format.manifest import Origin
from holdfast.format.names import TRAINER_LOCK, WRITER_LOCK, CheckpointName, is_debris
from holdfast.storage.local import LocalStorage
from holdfast.storage.locks import RecordLock

WRITER_WAIT_SECONDS = 600.0
"""How long a new attempt waits for its predecessor's writer, which may be writing many gigabytes."""
TRAINER_WAIT_SECONDS = 5.0
"""How long a new attempt tries before it is refused: a killed trainer keeps its lock while its memory is freed."""
_ATTEMPT = re.compile(r"(\d{4,})\.json")


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
    folders: tuple[str, ...] = ()
    """Other folders that it saves into, as paths from the run's own: they stay right when all are moved together."""
    damaged: tuple[str, ...] = ()
    """Checkpoints, as such paths, that it found to hold other bytes than were committed."""


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
            raise OwnershipError(
                f"{path}: another trainer is running in this folder ({who(lock.holder())}). Two trainers in one folder "
                "would overwrite each other's run: end that one first, or choose another folder."
            )
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
        return self.path / WRITER_LOCK

    @property
    def writer_log(self) -> Path:
        return self.path / "journal" / "writer.log"

    def _await_writer(self, say: Callable[[str], None]) -> None:
        lock = RecordLock(self.writer_lock)
        if not lock.acquire():
            say(f"waiting for the writer of the previous attempt to finish its save ({who(lock.holder())})")
            if not _acquired(lock, WRITER_WAIT_SECONDS):
                raise OwnershipError(
                    f"{self.path}: the writer of the previous attempt ({who(lock.holder())}) has not finished within "
                    f"{WRITER_WAIT_SECONDS:.0f} s; see {self.writer_log}. Wait for it, or end that process."
                )
        lock.release()

    def attempts(self) -> list[AttemptRecord]:
        """All attempts so far, oldest first."""
        return read_attempts(self.storage)

    def claim(
        self, *, resumed_from: str | None, rollback: bool, others: Sequence[LocalStorage] = (),
        options: dict[str, dict[str, str]] | None = None, origins: tuple[Origin, ...] = (),
        damaged: Sequence[tuple[LocalStorage, str]] = (),
    ) -> AttemptRecord:  # fmt: skip
        """Claims the next attempt number by a create-only record. Numbers of checkpoints in all folders count too."""
        used = [record.attempt for record in self.attempts()]
        names = (CheckpointName.parse(name) for storage in (self.storage, *others) for name in storage.list())
        number = max([0, *used, *(name.attempt for name in names if name is not None)]) + 1
        record = AttemptRecord(
            attempt=number, host=socket.gethostname(), pid=os.getpid(), started=now(),
            resumed_from=resumed_from, rollback=rollback, command=tuple(sys.argv), options=options or {},
            origins=origins, folders=tuple(_from_here(self.storage, one) for one in others),
            damaged=tuple(f"{_from_here(self.storage, one)}/{name}" for one, name in damaged),
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


def read_attempts(storage: LocalStorage) -> list[AttemptRecord]:
    """All readable attempt records of the run that ``storage`` is a folder of, oldest first."""
    storage = home_of(storage)
    records = [_attempt(storage, name) for name in storage.list_files("attempts") if _ATTEMPT.fullmatch(name)]
    return sorted(records, key=lambda record: record.attempt)


def read_folders(storage: LocalStorage, attempts: Sequence[AttemptRecord]) -> list[LocalStorage]:
    """The folders that the newest of ``attempts`` saves into, with the run's own first, which has its ``attempts``.

    Those that are gone, or belong to another run by now, are left out.
    """
    home = home_of(storage)
    root, paths = os.path.realpath(home.root), attempts[-1].folders if attempts else ()
    others = (LocalStorage(os.path.join(root, path)) for path in paths)
    return [home, *(one for one in others if _is_of_one_run(home, one))]


def _is_of_one_run(home: LocalStorage, other: LocalStorage) -> bool:
    try:
        return read_identity(home).run == read_identity(other).run
    except (HoldfastError, ValueError):  # the latter for a path that is none
        return False


def _from_here(storage: LocalStorage, other: LocalStorage) -> str:
    return os.path.relpath(os.path.realpath(other.root), os.path.realpath(storage.root))


def _attempt(storage: LocalStorage, name: str) -> AttemptRecord:
    try:
        return msgspec.json.decode(storage.read(f"attempts/{name}", limit=SMALL_LIMIT), type=AttemptRecord)
    except msgspec.DecodeError:
        # Create-only and fsynced, so this is damage; its number must still not be used again.
        return AttemptRecord(attempt=int(name.split(".")[0]), host="unknown", pid=0, started="")
