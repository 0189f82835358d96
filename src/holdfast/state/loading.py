"""Items out of a checkpoint and drafts of items into one: what fits is found first, before anything is changed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from holdfast.engine.catalog import Entry
from holdfast.engine.checkpointer import ItemDraft
from holdfast.engine.read import bytes_of, read
from holdfast.errors import MisfitError
from holdfast.garbage import no_collection
from holdfast.state.container import ContainerItem
from holdfast.state.item import Captured, Item, Restore, resolved
from holdfast.state.overlap import Shared, replaceable
from holdfast.state.tree import capture_tree, restore_tree
from holdfast.storage.base import Storage
from holdfast.types import Progressing

INTERNAL = ("data", "gradients", "rng", "values")
"""Items that a run itself adds."""


@no_collection()
def fit(
    entry: Entry, items: Mapping[str, Item], *, strict: bool = True, cast: bool = False
) -> tuple[dict[str, Restore], list[str]]:
    """Restores of those ``items`` that ``entry`` holds, and every difference that refuses one. Changes nothing."""
    records, problems = entry.manifest.items, list[str]()
    restores: dict[str, Restore] = {}
    for name, item in items.items():
        if name not in records:
            continue
        try:
            restores[name] = item.prepare(resolved(records, name), strict=strict, cast=cast)
        except MisfitError as error:
            problems += [f"{name}/{problem}" for problem in error.problems] or [str(error)]
    containers = {name: item for name, item in items.items() if isinstance(item, ContainerItem)}
    if not problems and any(name in restores and _in_place(restores[name]) for name in containers):
        found = replaceable(records, {name: one.targets for name, one in restores.items()})
        for name, leaves in found.items():
            if name in containers:
                record = resolved(records, name)
                restores[name] = containers[name].prepare(record, strict=strict, cast=cast, apart=leaves)
    return restores, problems


def load(
    storage: Storage, entry: Entry, restores: Mapping[str, Restore], progressing: Progressing | None = None
) -> None:
    """Reads the bytes into place and applies the restores; if one is refused, takes back those before it.

    What is read in place comes last: it cannot be taken back, so whatever else can refuse has to go first. Damage that
    is found only then leaves those objects half filled, and the error says so. What shares its memory is read before
    all of that, to elsewhere.
    """
    targets = {name: one.targets for name, one in restores.items()}
    advance = _quiet if progressing is None else progressing(f"loading {entry.name}", bytes_of(entry, targets))
    before = {name: one for name, one in restores.items() if not _in_place(one)}
    last = {name: one for name, one in restores.items() if _in_place(one)}
    done: list[Restore] = []
    try:
        read(storage, entry, {name: targets[name] for name in before}, advance=advance)
        _apply(before, done)
        shared = Shared.of(entry.manifest.items, {name: targets[name] for name in last})
        staged, rest = shared.split({name: targets[name] for name in last})
        read(storage, entry, staged, advance=advance)
        shared.settle()
        with _half_filled(last):
            read(storage, entry, rest, advance=advance)
            _apply(last, done)
    except BaseException:
        for one in reversed(done):
            # An object that fails once more while it is put back must not hide why the load failed.
            with contextlib.suppress(Exception):
                one.undo()
        raise


def _quiet(_: int) -> None:
    return None


@no_collection()
def _apply(restores: Mapping[str, Restore], done: list[Restore]) -> None:
    for one in restores.values():
        done.append(one)
        one.apply()


@contextlib.contextmanager
def _half_filled(names: Iterable[str]) -> Iterator[None]:
    """Says of what was read in place that it cannot be used."""
    try:
        yield
    except BaseException as error:
        error.add_note(f"{', '.join(names)}: partly overwritten by now. Load another checkpoint before you use it.")
        raise


def draft(captured: Captured) -> ItemDraft:
    return ItemDraft(captured.kind, captured.tree, captured.tensors, captured.metadata)


def value_draft(name: str, value: Any) -> ItemDraft:
    """An internal item: a nested plain value with arrays in it."""
    tree, sources = capture_tree(value, name)
    return ItemDraft("value", tree, sources)


def read_value(storage: Storage, entry: Entry, name: str) -> Any:
    """An internal item back as the value it was; None if the checkpoint has none of that name."""
    if name not in entry.manifest.items:
        return None
    record = resolved(entry.manifest.items, name)
    value, targets = restore_tree(record.tree, {key: one.spec for key, one in record.tensors.items()}, name)
    read(storage, entry, {name: targets})
    return value


def _in_place(restore: Restore) -> bool:
    """Whether the bytes go straight into memory that the user holds: modules, single tensors, what optimizers keep."""
    return getattr(restore, "in_place", False)
