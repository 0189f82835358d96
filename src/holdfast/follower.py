"""Checkpoints as they are committed, for a program beside the training: an evaluator, an exporter."""

from __future__ import annotations

import contextlib
import os
import sys
import time
import warnings
from collections.abc import Generator
from contextlib import ExitStack

from holdfast.checkpoint import Checkpoint
from holdfast.engine.catalog import Broken, Catalog, Entry
from holdfast.engine.holds import hold
from holdfast.engine.identity import home_of, read_identity, trainer_of
from holdfast.engine.journal import journal_path, read_journal
from holdfast.engine.lineage import usable
from holdfast.engine.place import check_path, find_run
from holdfast.engine.run_folder import read_attempts
from holdfast.errors import CorruptError, HoldfastWarning, NotFoundError, StorageError, UsageError
from holdfast.format.names import RUN_FILE, CheckpointName
from holdfast.storage.local import LocalStorage

_START = (0, 0)
_FINISHED = "finished"
"""The kind of line in the newest attempt's journal that says that the run has come to its end."""


def follow(
    folder: str | os.PathLike[str],
    *,
    after: str | None = None,
    latest: bool = False,
    poll_seconds: float = 1.0,
    timeout: float | None = None,
) -> Generator[Checkpoint, None, None]:
    """The checkpoints of the run in ``folder``, oldest first, and then each new one soon after it is committed.

    Begins behind the one named ``after``, whether or not that is still there. With ``latest`` goes on to the newest
    each time, and skips those between. Each is held, as by `Checkpoint.hold`, until the next is asked for or the
    iterator is closed: it is not deleted while it is read. Passed over are those deleted before, those that a rollback
    abandoned, and broken ones, with a `HoldfastWarning` that names them. If the folder cannot be written to, a
    `HoldfastWarning` says that nothing is held.

    Ends when the run has finished and all were handed out, or when there was none for ``timeout`` seconds. A run that
    was killed has not finished: its next attempt is waited for. The folder need not be there yet. If another run takes
    its place, that one is followed from its start.

    Raises `UsageError` for arguments that mean nothing, and what `latest` raises for a folder that cannot be read.

    >>> import tempfile, torch
    >>> from holdfast import Every, Run, follow
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with Run(folder, state={"model": torch.nn.Linear(2, 1)}, save=Every(batches=2)) as run:
    ...         for batch in run.batches([torch.ones(1, 2)] * 4):
    ...             run.wait()
    ...     for checkpoint in follow(folder, timeout=0):
    ...         print(checkpoint.progress.batches, checkpoint.load_into(model=torch.nn.Linear(2, 1)).size)
    2 12
    4 12
    """
    if not poll_seconds > 0:
        raise UsageError(f"follow(poll_seconds={poll_seconds!r}): expected seconds above 0.")
    if timeout is not None and not timeout >= 0:
        raise UsageError(f"follow(timeout={timeout!r}): expected seconds, 0 or more, or None to wait for ever.")
    check_path(folder)
    position = _START if after is None else _position(after)
    return _follow(_Trail(folder, position, latest), poll_seconds, float("inf") if timeout is None else timeout)


def _position(after: str) -> tuple[int, int]:
    name = CheckpointName.parse(after)
    if name is None:
        raise UsageError(f"follow(after={after!r}): is not a checkpoint's name, such as step-00000500.a0001.n0003.")
    return name.attempt, name.ordinal


def _follow(trail: _Trail, poll_seconds: float, timeout: float) -> Generator[Checkpoint, None, None]:
    asked = time.monotonic()
    while True:
        over = trail.is_over()  # asked first, so that what the run committed before its end is found after that
        with ExitStack() as held:
            checkpoint = trail.next(held)
            if checkpoint is not None:
                yield checkpoint
                asked = time.monotonic()
                continue
        left = asked + timeout - time.monotonic()
        if over or left <= 0:
            return
        time.sleep(min(poll_seconds, left))


class _Trail:
    """Where a follower is in a run folder, which may come, go and be replaced meanwhile."""

    def __init__(self, folder: str | os.PathLike[str], position: tuple[int, int], latest: bool) -> None:
        self._storage = self._home = LocalStorage(folder)
        self._position = position
        self._latest = latest
        self._run: str | None = None
        self._passed_over: set[str] = set()
        self._waiting = False
        self._warned_unprotected = False
        self._journal: tuple[int, int] | None = None
        self._judged: tuple[tuple[int, int] | None, bool] = None, False

    # ---- the next checkpoint

    def next(self, held: ExitStack) -> Checkpoint | None:
        """The next checkpoint there is, with its hold in ``held``; None if there is none yet."""
        try:
            find_run(self._storage.root)
            self._recognize()
            found = self._new()
        except NotFoundError as error:
            if not self._waiting:
                _say(f"waiting for a run: {error}")
            self._waiting = True
            return None
        self._waiting = False
        for entry in reversed(found) if self._latest else found:
            if self._hold(entry.name, held):
                self._position = entry.order
                return Checkpoint(self._storage, entry)
        return None

    def _recognize(self) -> None:
        """Another run in the same folder begins again with low numbers."""
        if RUN_FILE not in self._storage.list():
            return
        run, self._home = read_identity(self._storage).run, home_of(self._storage)
        if self._run not in (None, run):
            _say(f"{self._storage.root}: holds another run now, which is followed from its start")
            self._position, self._passed_over, self._judged = _START, set(), (None, False)
        self._run = run

    def _new(self) -> list[Entry]:
        """What can be handed out, oldest first. Manifests are read only if there are names not seen before."""
        if not any(map(self._is_unseen, self._storage.list())):
            return []
        listing = Catalog(self._storage).list()
        for broken in listing.broken:
            self._warn_of(broken)
        found = usable(self._storage, listing.entries)
        self._passed_over |= {one.name for one in listing.entries} - {one.name for one in found}
        return [one for one in found if self._is_unseen(one.name)]

    def _is_unseen(self, text: str) -> bool:
        name = CheckpointName.parse(text)
        return name is not None and (name.attempt, name.ordinal) > self._position and text not in self._passed_over

    def _hold(self, name: str, held: ExitStack) -> bool:
        """False if it was deleted meanwhile. What cannot be held is handed out all the same."""
        try:
            held.enter_context(hold(self._storage, name))
        except NotFoundError:
            return False
        except (StorageError, CorruptError) as error:
            self._warn_unprotected(error)
        return True

    # ---- the end

    def is_over(self) -> bool:
        """Whether the newest attempt came to the run's end.

        The journal may be long, so it is read only once it stands still and nobody trains; and, as a crashed run may
        stand for days, not again until it grows or there is another attempt.
        """
        now = self._newest_journal()
        moved, self._journal = now != self._journal, now
        if now is None or moved:
            return False
        if self._judged[0] != now and not self._is_training():
            self._judged = now, any(line.get("t") == _FINISHED for line in read_journal(self._home, now[0]))
        return self._judged == (now, True)

    def _newest_journal(self) -> tuple[int, int] | None:
        """The newest attempt, and the size of its journal."""
        with contextlib.suppress(NotFoundError):
            attempts = read_attempts(self._home)
            if attempts:
                newest = attempts[-1].attempt
                return newest, self._home.size(journal_path(newest))
        return None

    def _is_training(self) -> bool:
        try:
            return trainer_of(self._home) is not None
        except StorageError:
            return False  # on a read-only mount the lock cannot be asked; that the journal stands still has to do

    # ---- what is said

    def _warn_of(self, broken: Broken) -> None:
        if self._is_unseen(broken.name):
            message = f"{self._storage.root}: skipped a broken checkpoint: {broken.error}"
            self._passed_over.add(broken.name)
            warnings.warn(message, HoldfastWarning, stacklevel=5)

    def _warn_unprotected(self, error: Exception) -> None:
        if not self._warned_unprotected:
            message = f"{self._storage.root}: its checkpoints may be deleted while they are read: {error}"
            self._warned_unprotected = True
            warnings.warn(message, HoldfastWarning, stacklevel=5)


def _say(message: str) -> None:
    # A launcher that has closed its end of the pipe must not end the evaluation.
    with contextlib.suppress(OSError, ValueError):
        print(f"holdfast: {message}", file=sys.stderr, flush=True)
