"""Checkpoints from the outside: what a run folder holds, what is in each, and loading from one."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from holdfast.engine.catalog import Catalog, Entry
from holdfast.engine.holds import hold
from holdfast.engine.lineage import usable
from holdfast.engine.place import find, find_run, reopen, require_unchanged
from holdfast.engine.verify import verify
from holdfast.errors import CorruptError, HoldfastWarning, MisfitError, NotFoundError, UsageError
from holdfast.format.dtypes import nbytes
from holdfast.format.manifest import Manifest
from holdfast.hints import did_you_mean, unknown_metric
from holdfast.policies.best import Mode, check_metric
from holdfast.policies.keep import described
from holdfast.state.adapt import adapt_if_possible
from holdfast.state.fit import NOT_CONVERTED
from holdfast.state.item import Item, Restore, resolved
from holdfast.state.loading import INTERNAL, fit, load
from holdfast.state.tree import decode
from holdfast.storage.local import LocalStorage
from holdfast.types import Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadReport:
    """What `Checkpoint.load_into` did: ``tensors`` of together ``size`` bytes went into ``items``.

    ``notes`` has a line for everything that is not as it was stored; ``converted``, ``missing`` and ``unexpected`` are
    the paths in it, such as ``"model/head.weight"``: converted to another dtype (with ``cast=True``), in the objects
    but not in the checkpoint, or the other way round (both with ``strict=False``).
    """

    checkpoint: str
    items: tuple[str, ...]
    tensors: int
    size: int
    notes: tuple[str, ...] = ()

    @property
    def converted(self) -> tuple[str, ...]:
        return _paths(self.notes, "converted")

    @property
    def missing(self) -> tuple[str, ...]:
        return _paths(self.notes, "missing")

    @property
    def unexpected(self) -> tuple[str, ...]:
        return _paths(self.notes, "unexpected")

    def __str__(self) -> str:
        what = f"{self.tensors} tensor{'s' * (self.tensors != 1)} ({self.size:,} bytes)"
        first = f"{self.checkpoint}: loaded {', '.join(self.items) or 'nothing'}, {what}"
        return "\n  ".join((first, *self.notes))


class Checkpoint:
    """A committed checkpoint. It never changes; its tensors stay on disk until they are loaded.

    ``name`` is that of its directory in ``folder``, the run folder; ``path`` is both together.

    >>> import tempfile, torch
    >>> from holdfast import Run, latest
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with Run(folder, state={"model": torch.nn.Linear(2, 1)}) as run:
    ...         for epoch in run.epochs(1):
    ...             for batch in run.batches([torch.ones(1, 2)] * 3):
    ...                 run.log(loss=0.5)
    ...     newest = latest(folder)
    ...     newest.verify()
    ...     newest.progress.epoch, newest.metrics, newest.items
    ...     print(newest.load_into(model=torch.nn.Linear(2, 1)))
    (1, {'loss': 0.5}, ('model',))
    step-00000003.a0001.n0001: loaded model, 2 tensors (12 bytes)
    """

    __slots__ = ("_entry", "_storage")

    def __init__(self, storage: LocalStorage, entry: Entry) -> None:
        self._storage = storage
        self._entry = entry

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Checkpoint:
        """The checkpoint in the directory ``path``, which may be a copy anywhere and of any name.

        Raises `NotFoundError`, `CorruptError` or `UnsupportedFormatError`.
        """
        place = find(path)
        if place.name is None:
            raise NotFoundError(f"{path}: is a run folder, not a checkpoint; use latest() or checkpoints() on it.")
        return cls(place.storage, reopen(place.storage, place.name))

    @property
    def name(self) -> str:
        return self._entry.name

    @property
    def folder(self) -> Path:
        return Path(self._storage.root)

    @property
    def path(self) -> Path:
        return self.folder / self.name

    @property
    def manifest(self) -> Manifest:
        """The whole record, as it was read and checked."""
        return self._entry.manifest

    @property
    def progress(self) -> Progress:
        """How far the run was."""
        return self.manifest.progress

    @property
    def metrics(self) -> dict[str, Any]:
        """The last value of everything that had been logged."""
        return {name: self._decoded(value, f"metrics/{name}") for name, value in self.manifest.metrics.items()}

    @property
    def config(self) -> Any:
        """The run's ``config``, or None. Raises `MisfitError` if a codec for one of its values is missing."""
        return self._decoded(self.manifest.config, "config")

    @property
    def items(self) -> tuple[str, ...]:
        """Names of the items that can be loaded; what the run keeps for itself is not among them."""
        return tuple(name for name in self.manifest.items if name not in INTERNAL)

    @property
    def created(self) -> datetime:
        """When it was saved, in UTC."""
        try:
            return datetime.fromisoformat(self.manifest.created)
        except ValueError as error:
            raise CorruptError(f"{self.name}: created: {self.manifest.created!r} is not a time in ISO 8601.") from error

    @property
    def reason(self) -> tuple[str, ...]:
        """Why it was saved."""
        return self.manifest.reason

    @property
    def attempt(self) -> int:
        """The start of the run that saved it, from 1."""
        return self.manifest.attempt

    @property
    def ordinal(self) -> int:
        """Which save of its attempt it is, from 1."""
        return self.manifest.ordinal

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return self._entry.size

    def hold(self) -> AbstractContextManager[None]:
        """While it is open no retention and no prune deletes this checkpoint: ``with checkpoint.hold(): ...``.

        It ends with this process, however that ends; forked children do not have it. Entering it raises `NotFoundError`
        if the checkpoint was deleted already, `StorageError` if its folder cannot be written to.

        >>> import tempfile, torch
        >>> from holdfast import Run, latest
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with Run(folder, state={"model": torch.nn.Linear(2, 1)}) as run:
        ...         run.save()
        ...     newest, model = latest(folder), torch.nn.Linear(2, 1)
        ...     with newest.hold():
        ...         print(newest.load_into(model=model))
        step-00000000.a0001.n0001: loaded model, 2 tensors (12 bytes)
        """
        return hold(self._storage, self.name)

    def verify(self, *, tampering: bool = False) -> None:
        """Reads every file and compares it with the manifest; with ``tampering`` by a cryptographic digest too.

        Raises `CorruptError` that names the file and the first bytes that differ, `NotFoundError` if the checkpoint
        was deleted since.
        """
        require_unchanged(self._storage, self._entry)
        verify(self._storage, self._entry, tampering=tampering)

    def load_into(
        self, /, *, strict: bool = True, cast: bool = False, verify_first: bool = False, **items: Any
    ) -> LoadReport:
        """Loads items of the checkpoint into the objects given under their names: ``load_into(model=model)``.

        Objects are what `Run` takes in ``state``. Nothing is changed before all is known to fit. With ``strict=False``
        what fits is loaded and the report says what does not; a module that nothing fits is refused all the same. With
        ``cast`` tensors of another dtype are converted, and reported. Every byte is verified as it arrives in its
        place, in one pass over the files of these items. With ``verify_first`` there is a pass before, and damage
        leaves the objects as they were.

        Raises `UsageError` for an object that cannot be loaded into and `MisfitError` that lists every difference; then
        nothing was changed. It is a difference, too, if parameters share memory that the checkpoint has several values
        for. Raises `CorruptError` for damaged files; without ``verify_first``, modules, tensors and what optimizers
        keep may be partly overwritten then, as after a Ctrl-C, which a note of the error says; load them once more.
        """
        if not items:
            raise UsageError(f"load_into() takes objects by item name: model=model. It has: {_list(self.items)}.")
        adapted = {name: _adapted(name, one) for name, one in items.items()}
        absent = [name for name in items if name not in self.items]
        held = {name: item for name, item in adapted.items() if name in self.items}
        restores, problems = fit(self._entry, held, strict=strict, cast=cast)
        left = [name for name in self.items if name not in items]
        gone = [f"{name}: missing, it is given here but not in the checkpoint" for name in absent]
        hints = [did_you_mean(name, left) for name in absent]
        if problems or (gone and strict) or not restores:
            convertible = any(one.endswith(NOT_CONVERTED) for one in problems)
            raise MisfitError(
                f"{self.name} does not fit the objects given; nothing was changed. It has: {_list(self.items)}. "
                f"Build them as they were when they were saved{', or convert with cast=True' * convertible}:",
                (*(f"{one}.{hint}" for one, hint in zip(gone, hints, strict=True)), *problems),
            )
        require_unchanged(self._storage, self._entry)
        if verify_first:
            verify(self._storage, _part(self._entry, restores))
        load(self._storage, self._entry, restores)
        return self._report(restores, [f"{one}: left out.{hint}" for one, hint in zip(gone, hints, strict=True)])

    def _decoded(self, value: Any, path: str) -> Any:
        try:
            return decode(value, None)
        except (CorruptError, MisfitError) as error:
            raise type(error)(f"{self.name}: {path}: {error}") from error

    def _report(self, restores: Mapping[str, Restore], notes: Iterable[str]) -> LoadReport:
        targets = [target for one in restores.values() for target in one.targets.values()]
        return LoadReport(
            checkpoint=self.name,
            items=tuple(restores),
            tensors=len(targets),
            size=sum(nbytes(target.spec) for target in targets),
            notes=(*notes, *(note for one in restores.values() for note in one.notes)),
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Checkpoint) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)

    @property
    def _identity(self) -> tuple[Path, str]:
        return self.path, self.manifest.digest

    def __repr__(self) -> str:
        return f"<Checkpoint {self.name} in {self.folder}>"


def checkpoints(folder: str | os.PathLike[str]) -> list[Checkpoint]:
    """The committed checkpoints of a run folder, oldest first, those that a rollback abandoned included.

    What claims to be one but is not is left out, with a `HoldfastWarning` that names it. Raises `NotFoundError`
    if ``folder`` is not there or is no run folder.
    """
    storage = find_run(folder)
    return [Checkpoint(storage, entry) for entry in _entries(storage)]


def latest(folder: str | os.PathLike[str]) -> Checkpoint | None:
    """The newest checkpoint of a run folder whose manifest and file sizes are right, or None if it has none.

    Broken ones are named in a `HoldfastWarning`, those that a deliberate rollback abandoned are passed over. Raises
    `NotFoundError` if ``folder`` is not there or is no run folder.
    """
    storage = find_run(folder)
    found = usable(storage, _entries(storage))
    return Checkpoint(storage, found[-1]) if found else None


def best(folder: str | os.PathLike[str], metric: str, *, mode: Mode = "min") -> Checkpoint | None:
    """The checkpoint of a run folder with the lowest or, with ``"max"``, the highest value of ``metric``.

    Of equal ones it is the first. Those without the metric, or with NaN, do not count; None if no other is there, with
    a `HoldfastWarning` that names the metrics there are if no checkpoint has this one. Passes over and raises what
    `latest` does, and raises `UsageError` for a mode that is none.

    >>> import tempfile, torch
    >>> from holdfast import Every, Run, best
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with Run(folder, state={"model": torch.nn.Linear(2, 1)}, save=Every(epochs=1)) as run:
    ...         for epoch in run.epochs(3):
    ...             for batch in run.batches([torch.ones(1, 2)]):
    ...                 run.log(loss=[2.0, 1.0, 3.0][epoch])
    ...             run.wait()
    ...     best(folder, "loss").progress.epoch
    2
    """
    check_metric("best", metric, mode)
    storage = find_run(folder)
    values = [(described(one).metrics, one) for one in usable(storage, _entries(storage))]
    known = [(logged[metric], one) for logged, one in values if not math.isnan(logged.get(metric, math.nan))]
    if not known:
        if values and not any(metric in logged for logged, _ in values):
            names = {name for logged, _ in values for name in logged}
            warnings.warn(f"{storage.root}: {unknown_metric(metric, names)}", HoldfastWarning, stacklevel=2)
        return None
    _, entry = min(known, key=lambda pair: pair[0] if mode == "min" else -pair[0])
    return Checkpoint(storage, entry)


def _entries(storage: LocalStorage) -> tuple[Entry, ...]:
    """The checkpoints, oldest first. Broken ones are named at the line that called `latest` or its like."""
    listing = Catalog(storage).list()
    for broken in listing.broken:
        warnings.warn(f"{storage.root}: skipped a broken checkpoint: {broken.error}", HoldfastWarning, stacklevel=3)
    return listing.entries


def _adapted(name: str, obj: Any) -> Item:
    item = adapt_if_possible(name, obj)
    if item is None:
        got = f"the class {obj.__qualname__}" if isinstance(obj, type) else type(obj).__qualname__
        raise UsageError(
            f"load_into({name}=…): expected an object that can be changed in place, as Run takes it in state=, such as "
            f"a module, an optimizer or a dict of tensors; got {got}."
        )
    return item


def _part(entry: Entry, names: Iterable[str]) -> Entry:
    """``entry`` with only the files that the items ``names`` are stored in, to verify no more than is read."""
    items = entry.manifest.items
    used = {chunk.file for name in names for one in resolved(items, name).tensors.values() for chunk in one.chunks}
    parts = tuple(
        msgspec.structs.replace(part, files={file: one for file, one in part.files.items() if file in used})
        for part in entry.manifest.parts
    )
    stored = {name: msgspec.structs.replace(item, tensors=_within(item.tensors, used)) for name, item in items.items()}
    return Entry(entry.name, msgspec.structs.replace(entry.manifest, items=stored, parts=parts), entry.size)


def _within(tensors: Mapping[str, Any], files: set[str]) -> dict[str, Any]:
    return {name: one for name, one in tensors.items() if all(chunk.file in files for chunk in one.chunks)}


def _paths(notes: Iterable[str], what: str) -> tuple[str, ...]:
    return tuple(path for path, _, rest in (note.partition(": ") for note in notes) if rest.startswith(what))


def _list(names: Iterable[str]) -> str:
    return ", ".join(names) or "nothing"
