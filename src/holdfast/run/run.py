"""`Run`: one training job, bound to a folder."""

from __future__ import annotations

import atexit
import functools
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from holdfast.engine.catalog import Catalog
from holdfast.engine.checkpointer import Checkpointer
from holdfast.engine.journal import Journal
from holdfast.engine.run_folder import AttemptRecord, RunFolder
from holdfast.engine.writer_handle import WriterHandle
from holdfast.errors import HoldfastError, PlatformError, UsageError
from holdfast.format.values import encode
from holdfast.policies.event import OnSignal
from holdfast.policies.save import includes
from holdfast.run import loops
from holdfast.run.items import Items
from holdfast.run.loops import Count, Loop, Options
from holdfast.run.progress_bar import progressing
from holdfast.run.recorder import Recorder
from holdfast.run.replay import Replay, expect
from holdfast.run.resumption import Resumption, config_changes
from holdfast.run.saver import KeepOption, SaveOption, Saver, choose_saver
from holdfast.run.saves import Saves
from holdfast.run.selection import Selection, select
from holdfast.run.session import Session
from holdfast.run.settings import Settings, overridden, settings
from holdfast.run.signals import StopSignals
from holdfast.run.voice import Event, Voice
from holdfast.types import Progress

_open: dict[Path, Run] = {}
"""The runs of this process by folder: a notebook cell that is run again replaces its run instead of being refused."""


class Run:
    """Keeps the training job in ``folder`` alive: saves ``state``, and resumes it when the same script starts again.

    ``state`` names everything that must survive: modules, optimizers, schedulers, anything with ``state_dict`` and
    ``load_state_dict``, tensors, arrays, and dicts and lists of these and of plain values. ``save`` and ``keep`` are
    policies, callables or phrases (default: every 10 minutes, at the end, on a signal, on an error; the last 3), or
    ``savers`` holds one `Saver` of both. ``config`` is stored, and values that changed are named on a resume.
    ``start_from`` is another run's folder or checkpoint, used while this run has none of its own, or the name of one
    of its own checkpoints to go back to, which abandons the later ones.

    Raises `UsageError` for arguments that cannot mean anything, `OwnershipError` if another live trainer has the
    folder, `MisfitError` (with nothing changed) if the newest checkpoint does not fit ``state``, `CorruptError` if
    there are checkpoints but none can be loaded, `StorageError` if the folder cannot be used.

    Guarantees: a killed run that is started again ends with the same bits as one that was not, where hardware and
    kernels are deterministic, within the limits of ``docs/exactness.md``; nothing here draws from any random generator.

    >>> import tempfile, torch
    >>> model = torch.nn.Linear(2, 1)
    >>> with tempfile.TemporaryDirectory() as folder, Run(f"{folder}/run", state={"model": model}) as run:
    ...     for epoch in run.epochs(2):
    ...         for batch in run.batches([torch.ones(1, 2)] * 3):
    ...             run.log(output=model(batch).sum())
    ...     run.progress.batches
    6
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        state: Mapping[str, Any],
        *,
        savers: Sequence[Saver] | None = None,
        save: SaveOption | None = None,
        keep: KeepOption | None = None,
        config: Mapping[str, Any] | None = None,
        start_from: str | os.PathLike[str] | None = None,
    ) -> None:
        _require_platform()
        self.folder = _local(folder)
        saver = choose_saver(savers, save, keep)
        items = Items(state)
        stored_config = encode(_checked_config(config), "config") if config is not None else None
        made = settings(items.optimizers, items.schedulers)
        previous = _open.pop(self.folder, None)
        if previous is not None:
            previous._close()
        self.values: dict[str, Any] = {}
        self._voice = Voice()
        self._pid = os.getpid()
        self._closed = False
        with ExitStack() as undo:
            self._house = RunFolder.open(self.folder, self._announce)
            undo.callback(self._house.close)
            source = None if start_from is None else str(start_from)
            self._start(saver, items, stored_config, config, source, made, undo)
            undo.pop_all()
        _open[self.folder] = self
        self._watch_exit()

    def _start(
        self, saver: Saver, items: Items, stored_config: Any, config: Mapping[str, Any] | None, start_from: str | None,
        made: Settings, undo: ExitStack,
    ) -> None:  # fmt: skip
        house, voice = self._house, self._voice
        self.id = house.identity().run
        catalog, attempts = Catalog(house.storage), house.attempts()
        chosen = select(catalog, attempts, start_from, voice, progressing)
        resumption = self._resumption(chosen, items)
        self.resumed_from = chosen.entry.name if chosen.entry is not None else None
        own = resumption is not None and resumption.own
        self._attempt = house.claim(resumed_from=self.resumed_from, rollback=chosen.rollback)
        voice.attach(Journal(house.storage, self._attempt.attempt))
        undo.callback(voice.close)
        changes = config_changes(resumption.entry.manifest.config, config) if resumption is not None else []
        replay = self._replay(resumption, attempts) if own and not chosen.rollback and not changes else None
        writer = WriterHandle(self.folder, house.writer_lock, house.writer_log)
        undo.callback(writer.close)
        saves = Saves(
            saver, Checkpointer(writer), catalog, voice, self.id, self._attempt.attempt, stored_config,
            chosen.entry if own else None, chosen.abandoned.union(chosen.skipped),
        )  # fmt: skip
        if resumption is not None:
            self.values.update(resumption.values)
            self._tell(resumption, changes, made)
        elif attempts:
            voice.say(
                "from_start",
                f"{self.folder}: no checkpoint was committed by {len(attempts)} earlier attempt"
                f"{'s' * (len(attempts) > 1)}; starting from the beginning",
            )
        self._session = Session(
            items=items, saves=saves, recorder=Recorder(voice, replay), voice=voice,
            signals=StopSignals() if includes(saver.save, OnSignal) else None, resumption=resumption,
            values=self.values, progressing=progressing, settings=made,
        )  # fmt: skip
        voice.flush()

    def _resumption(self, chosen: Selection, items: Items) -> Resumption | None:
        if chosen.entry is None or chosen.storage is None:
            return None
        own = chosen.storage is self._house.storage
        return Resumption.of(chosen.storage, chosen.entry, items, own)

    def _replay(self, resumption: Resumption | None, attempts: list[AttemptRecord]) -> Replay | None:
        if resumption is None:
            return None
        later = [one.attempt for one in attempts if one.attempt >= resumption.entry.manifest.attempt]
        progress = resumption.progress
        replay = expect(self._house.storage, later, (resumption.position.at, progress.batches), progress.step)
        return replay if replay.expected else None

    def _tell(self, resumption: Resumption, changes: list[str], made: Settings) -> None:
        progress, name = resumption.progress, resumption.entry.name
        if not resumption.own:
            self._voice.say(
                "started_from", f"{self.folder}: starts from {name} of run {resumption.entry.manifest.run}", name=name
            )
        else:
            where = f"epoch {progress.epoch}, batch {progress.batch}, step {progress.step}"
            self._voice.say("resumed", f"{self.folder}: resumed from {name} ({where})", name=name, step=progress.step)
        if changes:
            self._voice.say(
                "config_changed", f"config changed since the checkpoint: {'; '.join(changes)} (restored state is not)"
            )
        for message in overridden(resumption.stored.settings, made, resumption.entry.manifest.learning_rates):
            self._voice.warn("settings_changed", message)

    def _announce(self, message: str) -> None:
        self._voice.say("folder", f"{self.folder}: {message}")

    @property
    def _live(self) -> Session:
        """The session, for calls that mean nothing after the end."""
        self._session.require_open()
        return self._session

    # Loops.

    def epochs(self, total: int) -> Loop:
        """The epochs that are left of ``total``, by number.

        After the last one the final checkpoint is durable, or a `HoldfastWarning` said why not, and `wait` and `close`
        raise.
        """
        _require_count("epochs", total)
        return Loop(lambda: loops.epochs(self._live, total), lambda: max(0, total - self.progress.epoch))

    def batches(
        self,
        *loaders: Iterable[Any],
        limit: int | None = None,
        enumerate: bool = False,
        train: bool = True,
        exact: bool = True,
        samples: Count | None = None,
        tokens: Count | None = None,
    ) -> Loop:
        """The batches that are left of this epoch; a boundary after each. With several loaders, tuples of one of each.

        ``limit`` ends the loop after so many batches of the epoch; ``enumerate`` hands out ``(index, batch)``, the
        index counting batches before a restart too. ``train=False`` marks a validation loop: it is no place to save,
        and a resume runs it whole. ``exact=False`` accepts another order of the samples after a resume. ``samples`` and
        ``tokens`` count those of a batch; samples default to its number of indices or leading dimension.

        Raises `DataOrderError` while iterating if, on a resume, the data is not the data of the run.
        """
        if not loaders:
            raise UsageError("run.batches() takes at least one loader.")
        if limit is not None:
            _require_count("batches(limit=…)", limit)
        options = Options(limit=limit, enumerate=enumerate, train=train, exact=exact, samples=samples, tokens=tokens)
        return Loop(
            lambda: loops.batches(self._live, loaders, options),
            lambda: self._session.left_of_loop(_length(loaders, limit)),
        )

    def steps(
        self, loader: Iterable[Any], total: int, *, samples: Count | None = None, tokens: Count | None = None
    ) -> Loop:
        """Batches of pass after pass over ``loader``, until ``total`` have been handed out in the whole run."""
        _require_count("steps", total)
        options = Options(samples=samples, tokens=tokens)
        start = functools.partial(loops.steps, loader=loader, total=total, options=options)
        return Loop(lambda: start(self._live), lambda: max(0, total - self.progress.batches))

    def log(self, **metrics: Any) -> None:
        """Records numbers or one-element tensors of this batch. Tensors are detached and copied; no device waits."""
        self._live.recorder.log(metrics)

    # Saving.

    def save(self) -> None:
        """Asks for a checkpoint at the next safe boundary; outside of a loop, returns when the snapshot is complete."""
        self._live.save()

    def wait(self) -> None:
        """Returns when the last snapshot is durable. Raises `SaveError` if that failed."""
        self._session.saves.wait()
        self._session.saves.raise_failure()

    @property
    def progress(self) -> Progress:
        """How far the run is: completed epochs, batches of this epoch, optimizer steps, samples, seconds."""
        return self._session.progress

    @property
    def on_event(self) -> Callable[[Event], object] | None:
        """Called with an `Event` for everything that happens: ``saved``, ``save_failed``, ``resumed`` and others."""
        return self._voice.on_event

    @on_event.setter
    def on_event(self, callback: Callable[[Event], object] | None) -> None:
        self._voice.on_event = callback

    # By hand.

    def resume(self) -> Progress | None:
        """For loops written by hand: restores the state and returns where to go on, or None for a fresh start."""
        self._live.begin("hand")
        return self.progress if self.resumed_from is not None else None

    def batch_start(self, *, epoch: int) -> None:
        """For loops written by hand: call it before each batch if code since `resume` draws numbers or changes state.

        Before the first batch after a resume in the same ``epoch``, it restores the checkpoint's state and random
        numbers once more. At all others it does nothing.
        """
        self._session.start_by_hand(epoch)

    def batch_end(
        self, *, epoch: int, batch: int, step: int | None = None, samples: int | None = None, tokens: int | None = None
    ) -> None:
        """For loops written by hand: the boundary after a batch. ``batch`` counts the completed batches of ``epoch``.

        ``step``, ``samples`` and ``tokens`` are totals of the run; left out, steps are counted, the others stay. The
        same batch reported twice counts once.
        """
        self._live.begin("hand")
        self._session.hand_boundary(epoch, batch, step, samples, tokens)

    # The end.

    def close(self) -> None:
        """Ends the run: a last save if the loop did not come to its end, the writer finished, the folder free.

        Raises `SaveError` if the last save failed.
        """
        self._close()
        self._session.stop_late()
        self._session.saves.raise_failure()

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._close(kind)

    def _close(self, exception: type[BaseException] | None = None) -> None:
        if self._closed or os.getpid() != self._pid:
            return
        self._closed = True
        if _open.get(self.folder) is self:
            del _open[self.folder]
        atexit.unregister(self._at_exit)
        _hooked.discard(self)
        try:
            self._session.close(exception)
        finally:
            self._session.closed = f"this Run over {self.folder} is closed, or another Run has taken its place"
            self._session.saves.checkpointer.close()
            self._voice.close()
            self._house.close()

    def _watch_exit(self) -> None:
        atexit.register(self._at_exit)
        _hook_exceptions()
        _hooked.add(self)

    def _at_exit(self) -> None:
        try:
            self._close()
        except HoldfastError as error:
            self._voice.say("save_failed", f"{self.folder}: {error}")


_hooked: set[Run] = set()
"""Runs that want to know of an exception that nobody catches."""


def _hook_exceptions() -> None:
    """A loop without `with` learns of an exception only here. The hook before is called in any case."""
    previous = sys.excepthook
    if getattr(previous, "_holdfast", False):
        return

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        try:
            for run in list(_hooked):
                run._close(kind)
        finally:
            previous(kind, error, trace)

    hook._holdfast = True  # type: ignore[attr-defined]  # a mark on the function itself, so that it is hooked once
    sys.excepthook = hook


def _checked_config(config: Any) -> dict[str, Any]:
    if not isinstance(config, Mapping):
        raise UsageError(f"config={config!r}: expected a dict; give vars(args) for the arguments of argparse.")
    return dict(config)


def _require_platform() -> None:
    if sys.platform == "win32":
        raise PlatformError(
            "Run needs a POSIX system: Windows has no record locks and no shared memory of the kind used here. "
            "Reading checkpoints and the holdfast command work on Windows; train in WSL or on Linux."
        )
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError(
            f"WORLD_SIZE={os.environ['WORLD_SIZE']}: runs of several ranks are not supported yet. Use one process."
        )


def _local(folder: str | os.PathLike[str]) -> Path:
    text = os.fspath(folder)
    if "://" in text:
        raise UsageError(f"Run({text!r}): only local folders are supported; give a path.")
    return Path(text).absolute()


def _require_count(what: str, total: object) -> None:
    if not isinstance(total, int) or isinstance(total, bool) or total < 1:
        raise UsageError(f"{what}: expected a whole number above 0, got {total!r}.")


def _length(loaders: Sequence[Any], limit: int | None) -> int:
    lengths = [len(loader) for loader in loaders]
    return min(lengths if limit is None else [*lengths, limit])
