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

from holdfast.errors import HoldfastError, PlatformError, UsageError
from holdfast.format.values import encode
from holdfast.policies.phrases import KeepOption, SaveOption
from holdfast.run import loops
from holdfast.run.configuration import read_configuration
from holdfast.run.items import Items
from holdfast.run.loops import Count, Loop
from holdfast.run.loops import Options as LoopOptions
from holdfast.run.opening import Wishes, open_run
from holdfast.run.options import Options, environment
from holdfast.run.saver import Saver, checked_folder
from holdfast.run.session import Session
from holdfast.run.settings import settings
from holdfast.run.voice import Event, Voice
from holdfast.types import Progress

Source = str | os.PathLike[str] | Mapping[str, Any]
"""A configuration: the path of a file, or a dict as in one."""
Place = str | os.PathLike[str]
StartFrom = Place | Mapping[str, Place | tuple[Place, str]]
"""A run folder or a checkpoint; or one for each of some items, perhaps with the item's name there."""

_open: dict[Path, Run] = {}
"""The runs of this process by folder: a notebook cell that is run again replaces its run instead of being refused."""


class Run:
    """Keeps the training job in ``folder`` alive: saves ``state``, and resumes it when the same script starts again.

    ``state`` names everything that must survive: modules, optimizers, schedulers, anything with ``state_dict`` and
    ``load_state_dict``, tensors, arrays, and dicts and lists of these and of plain values. ``save`` and ``keep`` are
    policies, callables or phrases, or ``savers`` is a list of `Saver` objects, which have the defaults. ``config`` is
    stored, and values that changed are named on a resume. ``start_from`` is another run's folder or checkpoint, or
    such by item, used while this run has none of its own, or the name of one of its own checkpoints to go back to,
    which abandons the later ones. ``arena``, bytes or a text such as ``"4 GiB"``, is how much memory snapshots may
    take: a state that is larger streams through it, and training stops until it is written. What a file says of all
    this is for `from_config`.

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
        start_from: StartFrom | None = None,
        arena: int | str | None = None,
    ) -> None:
        arguments = {
            "folder": checked_folder(folder), "save": save, "keep": keep, "start_from": start_from, "arena": arena
        }  # fmt: skip
        self._begin(Options(arguments, None, environment()), state, savers, config)

    def _begin(
        self,
        options: Options,
        state: Mapping[str, Any],
        savers: Sequence[Saver] | None,
        config: Mapping[str, Any] | None,
    ) -> None:
        _require_platform()
        self.folder = Path(options.folder()).expanduser().absolute()
        items = Items(state)
        self.values: dict[str, Any] = {}
        wishes = Wishes(
            folder=self.folder, items=items, values=self.values, savers=options.savers(savers), options=options,
            start_from=_path_as_text(options.start_from()), arena=options.arena(), config=config,
            stored_config=encode(_checked_config(config), "config") if config is not None else None,
            settings=settings(items.optimizers, items.schedulers),
        )  # fmt: skip
        self._place = Path(os.path.realpath(self.folder))
        previous = _open.pop(self._place, None)
        if previous is not None:
            previous._close()
        self._voice = Voice()
        self._pid = os.getpid()
        self._closed = False
        with ExitStack() as undo:
            opened = open_run(wishes, self._voice, undo)
            undo.pop_all()
        self._house, self._session = opened.house, opened.session
        self.id, self.resumed_from = opened.run, opened.resumed_from
        _open[self._place] = self
        self._watch_exit()

    @classmethod
    def from_config(
        cls,
        configuration: Source,
        state: Mapping[str, Any],
        *,
        folder: str | os.PathLike[str] | None = None,
        savers: Sequence[Saver] | None = None,
        save: SaveOption | None = None,
        keep: KeepOption | None = None,
        config: Mapping[str, Any] | None = None,
        start_from: StartFrom | None = None,
        arena: int | str | None = None,
    ) -> Run:
        """The run that ``configuration`` describes: a file (TOML, YAML, JSON), or a dict as in one.

        What is given here counts before what stands there (``docs/savers.md`` has the order). Raises `UsageError` that
        names line and word for what means nothing, and `NotFoundError` if there is no such file.

        >>> import tempfile, torch
        >>> with tempfile.TemporaryDirectory() as place:
        ...     described = {"folder": f"{place}/run", "saver": [{"save": "every 2 batches", "keep": "last 3"}]}
        ...     with Run.from_config(described, state={"model": torch.nn.Linear(2, 1)}) as run:
        ...         for epoch in run.epochs(1):
        ...             for batch in run.batches([torch.ones(1, 2)] * 3):
        ...                 pass
        ...     run.progress.batches
        3
        """
        run = cls.__new__(cls)
        arguments = {"folder": folder, "save": save, "keep": keep, "start_from": start_from, "arena": arena}
        run._begin(Options(arguments, read_configuration(configuration), environment()), state, savers, config)
        return run

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
        options = LoopOptions(
            limit=limit, enumerate=enumerate, train=train, exact=exact, samples=samples, tokens=tokens
        )
        return Loop(
            lambda: loops.batches(self._live, loaders, options),
            lambda: self._session.left_of_loop(_length(loaders, limit)),
        )

    def steps(
        self, loader: Iterable[Any], total: int, *, samples: Count | None = None, tokens: Count | None = None
    ) -> Loop:
        """Batches of pass after pass over ``loader``, until ``total`` have been handed out in the whole run."""
        _require_count("steps", total)
        options = LoopOptions(samples=samples, tokens=tokens)
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
        """Returns when the last snapshot is durable in all its folders. Raises `SaveError` if that failed in one."""
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

        Raises `SaveError` if the last save into any of the run's folders failed.
        """
        self._close()
        self._session.stop_late()
        self._session.saves.raise_failure(ever=True)

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
        if _open.get(self._place) is self:
            del _open[self._place]
        atexit.unregister(self._at_exit)
        _hooked.discard(self)
        try:
            self._session.close(exception)
        finally:
            self._session.closed = (
                f"this Run over {self.folder} is closed, or another Run has taken its place: make a new Run to go on."
            )
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


def _leave_to_the_parent() -> None:
    """A forked child that trains on, or saves, would write into the folder of its parent."""
    for run in _open.values():
        run._session.closed = (
            f"this process is a fork of the one that has the Run over {run.folder}, and only that one trains and "
            "saves. End the loop here (os._exit() leaves without it), or make a Run over another folder."
        )


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_the_parent)

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


def _path_as_text(start_from: Any) -> Any:
    return os.fspath(start_from) if isinstance(start_from, os.PathLike) else start_from


def _require_count(what: str, total: object) -> None:
    if not isinstance(total, int) or isinstance(total, bool) or total < 1:
        raise UsageError(f"{what}: expected a whole number above 0, got {total!r}.")


def _length(loaders: Sequence[Any], limit: int | None) -> int:
    lengths = [len(loader) for loader in loaders]
    return min(lengths if limit is None else [*lengths, limit])
