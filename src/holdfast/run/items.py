"""The run's state as items: captured, restored together or not at all."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch.optim.lr_scheduler import LRScheduler

from holdfast.engine.catalog import Entry
from holdfast.errors import MisfitError, UsageError
from holdfast.state.adapt import adapt
from holdfast.state.container import ContainerItem
from holdfast.state.item import Captured, Item, Restore
from holdfast.state.loading import INTERNAL, fit
from holdfast.state.stateful import Frozen, StatefulItem
from holdfast.state.torch.module import ModuleItem
from holdfast.state.torch.optimizer import OptimizerItem

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_SMALL = 256
"""Plain leaves up to which an item is copied at every boundary."""


class Items:
    """The user's state by name."""

    def __init__(self, state: Mapping[str, Any]) -> None:
        _check_state(state)
        self.objects = dict(state)
        self.items: dict[str, Item] = {name: adapt(name, one) for name, one in state.items()}
        self.modules = dict(_find(self.objects, torch.nn.Module))
        self.optimizers = dict(_find(self.objects, torch.optim.Optimizer)) | dict(_duck_typed(self.objects))
        self.schedulers = dict(_find(self.objects, LRScheduler))
        self._small = self._find_small()

    def capture(self) -> dict[str, Captured]:
        """Every item now. Raises `UnsafeValueError` for what cannot be stored."""
        return {name: item.capture() for name, item in self.items.items()}

    def freeze_small(self) -> dict[str, Frozen]:
        """Items without tensors and with few values: schedulers, scalers, counters. Called at every boundary."""
        return {name: item.freeze() for name, item in self._small.items() if item.length() <= _SMALL}

    def covered(self, frozen: Mapping[str, Frozen]) -> bool:
        """Whether every item is a module, an optimizer or ``frozen``: its state at the last boundary is known."""
        return all(
            name in frozen or name in self.optimizers or isinstance(item, ModuleItem | OptimizerItem)
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
        problems = [
            f"{name}: is in the checkpoint but not in state="
            for name in records
            if name not in (*self.items, *INTERNAL)
        ]
        problems += [f"{name}: is in state= but not in the checkpoint" for name in self.items if name not in records]
        restores, differences = fit(entry, self.items)
        problems += differences
        if problems:
            raise MisfitError(
                f"{entry.name} does not fit the objects in state=; nothing was changed. Use the model and optimizer of "
                "the run, under the same names; or use another run folder, and take over what fits before the loop: "
                "holdfast.latest(this folder).load_into(model=model, strict=False):",
                tuple(problems),
            )
        return restores

    def _find_small(self) -> dict[str, StatefulItem | ContainerItem]:
        captured = self.capture()
        return {
            name: item
            for name, item in self.items.items()
            if isinstance(item, StatefulItem | ContainerItem)
            and not (isinstance(item, ContainerItem) and item.holds_objects())
            and not captured[name].tensors
            and name not in self.optimizers
            and _leaves(captured[name].tree) <= _SMALL
        }


def _check_state(state: object) -> None:
    if not isinstance(state, Mapping) or not state:
        raise UsageError(f"state={_shown(state)}: expected a dict of named objects, such as {{'model': model}}.")
    for name in state:
        _check_name(name)


def _shown(state: object) -> str:
    return repr(state) if isinstance(state, (type(None), int, str, dict)) else f"a {type(state).__name__}"


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
