"""The writer process: ``python -P -m holdfast.engine.writer LOCK SOCKET TRAINER PID FOLDER...``.

It takes snapshots out of the shared arena and commits them. It outlives its trainer: killed right after a
snapshot was complete, the trainer's checkpoint is still committed. It watches the trainer by a descriptor of
the process itself, never by the end of the socket: forked loader workers keep inherited sockets open for
seconds after the trainer is gone.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import socket
import sys
import time
import traceback

import msgspec

from holdfast.engine.arrival import Abandoned, Arriving, Heard
from holdfast.engine.identity import read_identity
from holdfast.engine.linking import Links
from holdfast.engine.messages import (
    CommitRequest,
    Drained,
    Outcome,
    Persist,
    Ready,
    SaveRequest,
    Stop,
    ToTrainer,
    UseArena,
    readable,
    receive_by_writer,
    send,
    shortened,
)
from holdfast.engine.persist import Removals, Shards, persisting, refused
from holdfast.errors import HoldfastError, NotFoundError, StorageError
from holdfast.format.names import is_debris
from holdfast.storage.local import LocalStorage
from holdfast.storage.locks import RecordLock

_IGNORED = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGPIPE")
_LOCK_WAIT_SECONDS = 60.0
_POLL_SECONDS = 0.05


class Trainer:
    """The process that is served: alive or not."""

    def __init__(self, descriptor: int, pid: int) -> None:
        self.descriptor = descriptor if descriptor >= 0 else None
        self._pid = pid

    def alive(self) -> bool:
        """A process descriptor turns readable when its process ends; without one, the parent changes."""
        if self.descriptor is None:
            return os.getppid() == self._pid
        return not readable([self.descriptor], 0)


class _Checkpoint:
    """One of the checkpoints of a snapshot, in the making; ``outcome`` is None until it has come to its end."""

    def __init__(self, commit: CommitRequest, shards: Shards, links: dict[str, Links]) -> None:
        storage = LocalStorage(commit.folder)
        obstacle = _obstacle(storage, commit.manifest.run)
        self.removals: Removals = []
        self.outcome: Outcome | None = None if obstacle is None else refused(commit, obstacle)
        known = links.setdefault(commit.folder, Links(storage))
        self.making = persisting(storage, commit, shards, self.removals, known)

    def go_on(self) -> None:
        """Writes all of it, or commits what is written."""
        if self.outcome is None:
            try:
                next(self.making)
            except StopIteration as end:
                self.outcome = end.value


class Writer:
    """Serves one trainer: maps the arena it is given, commits what it is asked for, and answers."""

    def __init__(self, connection: socket.socket, trainer: Trainer) -> None:
        self._connection = connection
        self._trainer = trainer
        self._arena: mmap.mmap | None = None
        self._links: dict[str, Links] = {}

    def serve(self) -> None:
        """Works until it is told to stop, or the trainer is gone and all it had asked for is done."""
        self._answer(Ready(os.getpid()))
        message, descriptors = self._next()
        while message is not None and not isinstance(message, Stop):
            heard = None
            if isinstance(message, UseArena):
                self._map(descriptors[0], message.size)
            elif isinstance(message, Persist):
                heard = self._persist(message)
            # Anything else is about a snapshot that has failed already.
            message, descriptors = heard or self._next()

    def _next(self) -> Heard:
        connection, trainer = self._connection.fileno(), self._trainer.descriptor
        watched, seconds = ([connection], _POLL_SECONDS) if trainer is None else ([connection, trainer], None)
        while True:
            readable(watched, seconds)
            gone = not self._trainer.alive()
            # Looked for after the death: what a dying trainer sent last is to be done before its death counts.
            if self._is_heard():
                # A trainer that died without reading an answer resets the connection, once.
                with contextlib.suppress(ConnectionResetError):
                    return receive_by_writer(self._connection)
            elif gone:
                return None, []

    def _is_heard(self) -> bool:
        """Whether a message, or the end of the connection, is there to be received."""
        return bool(readable([self._connection.fileno()], 0))

    def _map(self, descriptor: int, size: int) -> None:
        if self._arena is not None:
            self._arena.close()
        self._arena = mmap.mmap(descriptor, size)
        os.close(descriptor)

    def _persist(self, message: Persist) -> Heard | None:
        """Makes the checkpoints of a snapshot. What was heard instead of its end, if it was taken back."""
        assert self._arena is not None, "an arena is sent before the first request"
        with memoryview(self._arena) as arena:
            arrival = Arriving(message, self._next, self._is_heard, self._answer)
            making: list[_Checkpoint] = []
            try:
                request = _read_request(arena[message.offset : message.offset + message.length], arrival)
                shards = Shards(request.shards, arena, arrival)
                making += [_Checkpoint(commit, shards, self._links) for commit in request.commits]
                self._make(making, arrival, message)
            except Abandoned as ended:
                _log(f"{', '.join(message.names.values())} was taken back")
                return ended.heard
            finally:
                for one in making:
                    one.making.close()
        return None

    def _make(self, making: list[_Checkpoint], arrival: Arriving, message: Persist) -> None:
        """One after the other, each with its own outcome: a full disk is no obstacle to one in another folder.

        All are written before any is committed only if the snapshot streams: then it is complete that late.
        """
        for one in making:
            one.go_on()
            if message.streams:
                arrival.next_round()
            else:
                self._finish(one, arrival, message.serial)
        for one in making if message.streams else ():
            self._finish(one, arrival, message.serial)

    def _finish(self, one: _Checkpoint, arrival: Arriving, serial: int) -> None:
        while one.outcome is None:
            arrival.await_whole()
            one.go_on()
        self._answer(msgspec.structs.replace(shortened(one.outcome), serial=serial))
        _give_back(one.removals)

    def _answer(self, message: ToTrainer) -> None:
        """A trainer that is gone hears nothing; its checkpoint counts all the same."""
        if not isinstance(message, Drained):
            _log(str(message))
        with contextlib.suppress(OSError):
            send(self._connection, message)


def _read_request(data: memoryview, arrival: Arriving) -> SaveRequest:
    try:
        return msgspec.json.decode(data, type=SaveRequest)
    except msgspec.DecodeError:
        # The next snapshot may lie over it already, if this one was taken back: then that is heard now.
        arrival.await_whole()
        raise


def _obstacle(storage: LocalStorage, run: str) -> str | None:
    """A folder that was removed, or started anew by another trainer, takes no checkpoint of this run any more."""
    try:
        found = read_identity(storage).run
    except NotFoundError:
        found = ""
    except HoldfastError as error:
        return str(error)
    if found == run:
        return None
    what = "holds another run now" if found else "is gone"
    return f"{storage.url} {what}: nothing of this run can be saved there. Put it back, or end this training."


def _give_back(removals: Removals) -> None:
    """The space of what is deleted. What cannot be removed is debris, which the next attempt tries again."""
    for remove in removals:
        try:
            remove()
        except StorageError as error:
            _log(str(error))


def _take_lock(path: str, trainer: Trainer) -> RecordLock:
    """Holds the writer's lock, or exits: while another writer works on this folder, none may start."""
    lock = RecordLock(path)
    deadline = time.monotonic() + _LOCK_WAIT_SECONDS
    while not lock.acquire():
        if not trainer.alive() or time.monotonic() > deadline:
            _log(f"no lock on {path}: held by {lock.holder()}")
            raise SystemExit(1)
        time.sleep(_POLL_SECONDS)
    return lock


def _sweep(folders: list[str]) -> None:
    """Removes what a writer left that died while its trainer lives on: no later start might come to do it.

    Only while the trainer lives, which keeps every other one out: the next trainer's files are no debris.
    """
    for folder in folders:
        for name in LocalStorage(folder).sweep(is_debris):
            _log(f"removed {name}, left by a writer that died")


def _log(text: str) -> None:
    print(f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} writer {os.getpid()}: {text}", flush=True)


def main(arguments: list[str]) -> None:
    for name in _IGNORED:
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    lock_path, connection, trainer_descriptor, trainer_pid, *folders = arguments
    trainer = Trainer(int(trainer_descriptor), int(trainer_pid))
    lock = _take_lock(lock_path, trainer)
    try:
        if trainer.alive():
            _sweep(folders)
        Writer(socket.socket(fileno=int(connection)), trainer).serve()
    except BaseException:
        _log(traceback.format_exc())
        raise
    finally:
        lock.release()


if __name__ == "__main__":
    main(sys.argv[1:])
