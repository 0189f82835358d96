"""Items out of a checkpoint and drafts of items into one: what fits is found first, then all is loaded or nothing."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

from holdfast.engine.catalog import Entry
from holdfast.engine.checkpointer import ItemDraft
from holdfast.engine.read import read
from holdfast.errors import HoldfastError, MisfitError
from holdfast.state.item import Captured, Item, Restore, resolved
from holdfast.state.leaf import LeafRestore
from holdfast.state.tree import capture_tree, restore_tree
from holdfast.storage.base import Storage

INTERNAL = ("data", "gradients", "rng", "values")
"""Items that a run itself adds."""


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
    return restores, problems


def load(storage: Storage, entry: Entry, restores: Mapping[str, Restore], advance: Callable[[int], object]) -> None:
    """Reads the bytes into place and applies the restores; if one is refused, takes back those before it.

    What is read in place comes last: it cannot be taken back, so whatever else can refuse has to go first.
    """
    done: list[Restore] = []
    try:
        for last in (False, True):
            group = {name: one for name, one in restores.items() if _in_place(one) is last}
            read(storage, entry, {name: one.targets for name, one in group.items()}, advance=advance)
            for one in group.values():
                done.append(one)
                one.apply()
    except HoldfastError:
        for one in reversed(done):
            # An object that fails once more while it is put back must not hide why the load failed.
            with contextlib.suppress(Exception):
                one.undo()
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
    """Whether the bytes go straight into memory that the user holds: modules and single tensors."""
    modules = sys.modules.get("holdfast.state.torch.module")
    return isinstance(restore, LeafRestore) or (modules is not None and isinstance(restore, modules.ModuleRestore))
