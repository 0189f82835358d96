"""The trainer's hold on its writer process: start it, notice its death, start another."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from holdfast.engine.arena import Arena
from holdfast.engine.messages import (
    Abandon,
    Complete,
    Drained,
    Failed,
    Filled,
    Outcome,
    Persist,
    Ready,
    Stop,
    ToWriter,
    UseArena,
    channel,
    readable,
    receive_by_trainer,
    send,
)
from holdfast.errors import SaveError, StorageError
from holdfast.format.names import is_debris
from holdfast.storage.local import LocalStorage

READY_SECONDS = 90.0
"""How long the first save waits for a writer to hold its lock."""
RESTARTS = 3
"""How many writers may die over one snapshot before its save counts as failed."""

LOOK_SECONDS = 1.0
"""How often an idle writer is looked after."""

_STREAMED = "the writer process died while the state, which is larger than the arena, streamed through it"


class WriterHandle:
    """Starts the writer for a run's ``folders`` and speaks with it.

    The writer is a subprocess that runs holdfast's own module in a session of its own, so that no signal meant for
    the trainer's group reaches it. Its output goes to ``log``: a launcher that captures the trainer's output would
    otherwise wait for the writer too.
    """

    def __init__(self, folders: Sequence[str], lock: Path, log: Path) -> None:
        self._folders, self._lock, self._log = folders, lock, log
        self._arena: Arena | None = None
        self._request: Persist | None = None
        self._answered: set[str] = set()
        """Folders for which the outcome of the request is known."""
        self._serial = self._deaths = self._drained = 0
        self._complete = False
        self._early: deque[Outcome] = deque()
        """What was heard before the snapshot was complete."""
        self._looked = 0.0
        self._ready = self._inherited = False
        self._log.parent.mkdir(exist_ok=True)
        self._start()
        _handles.add(self)

    @property
    def busy(self) -> bool:
        """Whether a snapshot that is complete is still on its way out of the arena."""
        return self._request is not None and self._complete

    @property
    def begun(self) -> bool:
        """Whether a snapshot was announced that is not complete yet."""
        return self._request is not None and not self._complete

    @property
    def pid(self) -> int:
        return self._process.pid

    def use(self, arena: Arena | None) -> None:
        """Makes ``arena`` the one that later requests refer to; None before the old one is closed."""
        self._arena = arena
        if self._ready and arena is not None:
            self._tell(UseArena(arena.size), (arena.descriptor,))

    def begin(self, request: Persist) -> None:
        """Announces a snapshot, which `filled` and `complete` go on with, or `abandon`.

        Once it is complete it survives the trainer's death. That holds only with a writer that already has its lock;
        otherwise the next attempt could list the folder before this writer commits. So this waits for it, once, at the
        first save. Raises `SaveError` if no writer can be started.
        """
        try:
            if self._process.poll() is not None:
                self._restart()
            self._await_ready()
        except SaveError:
            self._deaths = 0
            raise
        self._serial += 1
        self._request, self._answered = msgspec.structs.replace(request, serial=self._serial), set()
        self._complete, self._drained = False, 0
        self._tell(self._request)

    def filled(self, end: int) -> None:
        """The bytes of the snapshot before ``end`` are in the arena."""
        self._tell(Filled(end))

    def await_drained(self, end: int) -> None:
        """Returns when the writer needs the bytes before ``end`` no more. Raises `SaveError` if it dies before."""
        while self._drained < end:
            readable([self._connection.fileno()], 0.1)
            outcome = self._receive()
            if outcome is not None:
                self._early.append(outcome)
            elif self._process.poll() is not None and self._drained < end:
                raise SaveError(f"{_STREAMED}; see {self._log}")

    def complete(self) -> None:
        """The snapshot is whole. On return it survives the trainer's death."""
        self._complete = True
        self._tell(Complete())

    def abandon(self) -> None:
        """Takes back a snapshot that was begun and is not complete."""
        if self.begun:
            self._request = None
            self._early.clear()
            self._tell(Abandon())

    def poll(self) -> Outcome | None:
        """The next outcome of the last request, if it has come. A dead writer is replaced and asked again."""
        if self._request is None:
            self._replace_idle()
        if not self.busy:
            return None
        outcome = self._early.popleft() if self._early else self._receive()
        if outcome is None and self._process.poll() is not None:
            outcome = self._receive() or self._mend()
        return None if outcome is None else self._settled(outcome)

    def wait(self, timeout: float | None = None) -> Outcome | None:
        """`poll` until an outcome comes; None when nothing is on its way or ``timeout`` seconds have passed."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while self.busy:
            outcome = self.poll()
            if outcome is not None:
                return outcome
            if deadline is not None and time.monotonic() > deadline:
                return None
            readable([self._connection.fileno()], 0.1)
        return None

    def close(self) -> None:
        """Lets the writer finish what it has, and waits for its end."""
        _handles.discard(self)
        with contextlib.suppress(OSError):
            send(self._connection, Stop())
        if self._process.wait() != 0:
            self._clean()
        self._connection.close()

    def _clean(self) -> None:
        """A writer that died behind its last answer, while it gave back space, has no successor to go on with that."""
        for folder in self._folders:
            with contextlib.suppress(StorageError):
                LocalStorage(folder).sweep(is_debris)

    def close_in_child(self) -> None:
        """Drops what a forked child inherited: it must not keep the writer's socket alive, nor start a writer."""
        self._inherited, self._request = True, None
        self._connection.close()

    def _start(self) -> None:
        try:
            self._launch()
        except OSError as error:
            raise SaveError(
                f"cannot start the writer process: {error}. Look at the memory, at the limits on processes and open "
                f"files (ulimit -u, -n), and at {self._log}."
            ) from error

    def _launch(self) -> None:
        self._ready = False
        self._connection, theirs = channel()
        with theirs, _own_descriptor() as trainer, self._log.open("ab") as log:
            kept = (theirs.fileno(),) if trainer < 0 else (theirs.fileno(), trainer)
            arguments = [self._lock, theirs.fileno(), trainer, os.getpid(), *self._folders]
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "holdfast.engine.writer", *map(str, arguments)],
                pass_fds=kept, start_new_session=True, env=_environment(),
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    def _await_ready(self) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while not self._hears_ready():
            if self._process.poll() is not None:
                self._restart()
            if time.monotonic() > deadline:
                raise SaveError(f"the writer process did not get ready in {READY_SECONDS:.0f} s; see {self._log}")

    def _hears_ready(self) -> bool:
        if not self._ready:
            readable([self._connection.fileno()], 0.05)
            self._receive()
        return self._ready

    def _receive(self) -> Outcome | None:
        """The next outcome of this snapshot. What else there is to hear is dealt with on the way."""
        while True:
            try:
                message = receive_by_trainer(self._connection)
            except OSError:  # none yet; or the writer has died, or a program of the user's closed the descriptor
                return None
            if message is None:
                return None
            if isinstance(message, Ready):
                self._ready = True
                if self._arena is not None:
                    self._tell(UseArena(self._arena.size), (self._arena.descriptor,))
            elif message.serial == self._serial:
                if not isinstance(message, Drained):
                    return message
                self._drained = message.end

    def _settled(self, outcome: Outcome) -> Outcome | None:
        """``outcome``, unless it was known: a writer that takes over from one that died says it once more."""
        assert self._request is not None
        if outcome.folder in self._answered:
            return None
        self._answered.add(outcome.folder)
        deaths = self._deaths
        if self._answered.issuperset(self._request.names):
            self._deaths, self._request = 0, None
        if not deaths or isinstance(outcome, Failed):
            return outcome
        note = f"the writer process had died {deaths} time{'s' * (deaths > 1)} and was replaced; see {self._log}"
        return msgspec.structs.replace(outcome, notes=(*outcome.notes, note))

    def _replace_idle(self) -> None:
        """A writer that died with nothing to do is replaced soon: the next save need not wait for its start.

        Asking the kernel at every boundary would cost more than most of what a boundary does.
        """
        now = time.monotonic()
        if now < self._looked + LOOK_SECONDS:
            return
        self._looked = now
        if self._process.poll() is not None and self._deaths < RESTARTS:
            with contextlib.suppress(SaveError):
                self._restart()

    def _mend(self) -> Failed | None:
        """Another writer persists the intact arena again. If there is none, that is the outcome for the next folder."""
        request = self._request
        assert request is not None
        try:
            if request.streams:
                raise SaveError(f"{_STREAMED}; see {self._log}")
            self._restart()
            self._await_ready()
        except SaveError as error:
            folder = next(one for one in request.names if one not in self._answered)
            return Failed(ordinal=request.ordinal, folder=folder, name=request.names[folder], message=str(error))
        for message in (request, Filled(request.size), Complete()):
            self._tell(message)
        return None

    def _restart(self) -> None:
        if self._inherited:
            raise SaveError("this process is a fork of the trainer, and has no writer; only the trainer can save")
        self._deaths += 1
        if self._deaths > RESTARTS:
            raise SaveError(
                f"the writer process died {self._deaths} times over one save, last with exit code "
                f"{self._process.returncode}; see {self._log}"
            )
        self._connection.close()
        self._start()

    def _tell(self, message: ToWriter, descriptors: tuple[int, ...] = ()) -> None:
        """A writer that died meanwhile is found out, and replaced, by `poll`."""
        with contextlib.suppress(OSError):
            send(self._connection, message, descriptors)


_handles: weakref.WeakSet[WriterHandle] = weakref.WeakSet()


def _close_in_child() -> None:
    for handle in list(_handles):
        handle.close_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)


@contextlib.contextmanager
def _own_descriptor() -> Iterator[int]:
    """A descriptor of this process for the writer to watch, or -1 where the platform has none."""
    try:
        descriptor = os.pidfd_open(os.getpid())
    except (AttributeError, OSError):
        yield -1
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _environment() -> dict[str, str]:
    """The writer must find this holdfast, wherever the trainer's script found it."""
    package = str(Path(__file__).resolve().parents[2])
    inherited = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": f"{package}{os.pathsep}{inherited}" if inherited else package}
