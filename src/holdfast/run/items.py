"""The run's state as items: captured, restored together or not at all."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from holdfast.engine.catalog import Entry
from holdfast.engine.checkpointer import ItemDraft
from holdfast.engine.read import read
from holdfast.errors import HoldfastError, MisfitError, UsageError
from holdfast.state.adapt import adapt
from holdfast.state.item import Captured, Item, Restore, resolved
from holdfast.state.torch.module import ModuleItem, ModuleRestore
from holdfast.state.torch.optimizer import OptimizerItem
from holdfast.state.tree import capture_tree, restore_tree
from holdfast.storage.base import Storage

INTERNAL = ("data", "gradients", "rng", "values")
"""Items that the run itself adds."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_SMALL = 256
"""Plain leaves up to which an item is captured at every boundary."""


class Items:
    """The user's state by name."""

    def __init__(self, state: Mapping[str, Any]) -> None:
        if not isinstance(state, Mapping) or not state:
            raise UsageError(f"state={state!r}: expected a dict of named objects, such as {{'model': model}}.")
        for name in state:
            _check_name(name)
        self.objects = dict(state)
        self.items: dict[str, Item] = {name: adapt(name, one) for name, one in state.items()}
        self.modules = dict(_find(self.objects, torch.nn.Module))
        self.optimizers = dict(_find(self.objects, torch.optim.Optimizer)) | dict(_duck_typed(self.objects))
        self._small = self._find_small()

    def capture(self) -> dict[str, Captured]:
        """Every item now. Raises `UnsafeValueError` for what cannot be stored."""
        return {name: item.capture() for name, item in self.items.items()}

    def capture_small(self) -> dict[str, Captured]:
        """Items without tensors and with few values: schedulers, scalers, counters. Called at every boundary."""
        return {name: self.items[name].capture() for name in self._small}

    def covered_by_shadow(self) -> bool:
        """Whether every item is a module, an optimizer or small, so that it is known if it changed since a boundary."""
        return all(
            name in self._small or name in self.optimizers or isinstance(item, ModuleItem | OptimizerItem)
            for name, item in self.items.items()
        )

    def learning_rates(self) -> dict[str, list[float]]:
        return {
            path: [float(group["lr"]) for group in optimizer.param_groups if "lr" in group]
            for path, optimizer in self.optimizers.items()
            if hasattr(optimizer, "param_groups")
        }

    def fit(self, entry: Entry) -> dict[str, Restore]:
        """Prepares to load ``entry``. Raises one `MisfitError` with every difference of every item; changes nothing."""
        records = entry.manifest.items
        problems = [f"{name}: is in the checkpoint but not in state=" for name in records if name not in (*self.items, *INTERNAL)]
        problems += [f"{name}: is in state= but not in the checkpoint" for name in self.items if name not in records]
        restores: dict[str, Restore] = {}
        for name, item in self.items.items():
            if name in records:
                try:
                    restores[name] = item.prepare(resolved(records, name))
                except MisfitError as error:
                    problems += error.problems or (str(error),)
        if problems:
            raise MisfitError(
                f"{entry.name} does not fit the objects in state=; nothing was changed. Use the model and optimizer of the "
                "run, or another run folder:",
                tuple(problems),
            )
        return restores

    def _find_small(self) -> tuple[str, ...]:
        captured = self.capture()
        return tuple(
            name
            for name, one in captured.items()
            if not one.tensors and name not in self.modules and name not in self.optimizers and _leaves(one.tree) <= _SMALL
        )


def load(storage: Storage, entry: Entry, restores: Mapping[str, Restore], advance: Callable[[int], object]) -> None:
    """Reads the bytes into place and applies the restores; if one is refused, takes back those before it.

    Modules come last: their bytes cannot be taken back, so whatever else can refuse has to go first.
    """
    done: list[Restore] = []
    try:
        for modules in (False, True):
            group = {name: one for name, one in restores.items() if isinstance(one, ModuleRestore) is modules}
            read(storage, entry, {name: one.targets for name, one in group.items()}, advance=advance)
            for one in group.values():
                done.append(one)
                one.apply()
    except HoldfastError:
        for one in reversed(done):
            with contextlib.suppress(HoldfastError):
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


def _check_name(name: object) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UsageError(
            f"state[{name!r}]: an item's name becomes a file's name: letters, digits, '.', '_' and '-', not first."
        )
    if name in INTERNAL:
        raise UsageError(f"state[{name!r}]: the name is taken by holdfast itself; rename the item.")


def _find(state: Mapping[str, Any], kind: type) -> Iterator[tuple[str, Any]]:
    """Objects of ``kind`` in the state, those in dicts and lists of it included, by path."""
    for path, one in state.items():
        if isinstance(one, kind):
            yield path, one
        elif isinstance(one, dict):
            yield from _find({f"{path}/{key}": value for key, value in one.items()}, kind)
        elif isinstance(one, list):
            yield from _find({f"{path}/{index}": value for index, value in enumerate(one)}, kind)


def _duck_typed(state: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Optimizers that are not torch's: they have a ``step`` and ``param_groups``."""
    for path, one in state.items():
        if not isinstance(one, torch.optim.Optimizer) and hasattr(one, "step") and hasattr(one, "param_groups"):
            yield path, one


def _leaves(tree: Any) -> int:
    if isinstance(tree, dict):
        return sum(map(_leaves, tree.values()))
    if isinstance(tree, list):
        return sum(map(_leaves, tree))
    return 1
