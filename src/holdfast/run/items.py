"""The run's state as items: captured, restored together or not at all."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Container, Iterator, Mapping
from typing import Any

import torch
from torch.optim.lr_scheduler import LRScheduler

from holdfast.engine.catalog import Entry
from holdfast.errors import MisfitError, UsageError
from holdfast.state.adapt import adapt
from holdfast.state.container import ContainerItem
from holdfast.state.glance import glance
from holdfast.state.item import Captured, Item, Restore
from holdfast.state.leaf import LeafItem
from holdfast.state.loading import INTERNAL, fit
from holdfast.state.stateful import Frozen, StatefulItem, copied
from holdfast.state.torch.module import ModuleItem
from holdfast.state.torch.optimizer import OptimizerItem

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_SMALL = 256
"""Plain leaves up to which an item is copied at every boundary."""


_OF_THE_RUN = (
    "Use the model and optimizer of the run, under the same names; or use another run folder, and take over what fits "
    "before the loop: holdfast.latest(this folder).load_into(model=model, strict=False)"
)

Groups = dict[str, list[dict[str, Any]]]
"""By optimizer, the settings of its parameter groups."""


class Items:
    """The user's state by name."""

    def __init__(self, state: Mapping[str, Any]) -> None:
        _check_state(state)
        self.objects = dict(state)
        self.items: dict[str, Item] = {name: adapt(name, one) for name, one in state.items()}
        self.modules = dict(_find(self.objects, torch.nn.Module))
        self.optimizers = dict(_find(self.objects, torch.optim.Optimizer)) | dict(_duck_typed(self.objects))
        self._grouped = {path: one for path, one in self.optimizers.items() if hasattr(one, "param_groups")}
        self._hiding = {name for name, module in self.modules.items() if _has_extra_state(module)}
        self.schedulers = dict(_find(self.objects, LRScheduler))
        self._small = self._find_small()
        self._watched = {
            name: self.objects[name]
            for name, item in self.items.items()
            if isinstance(item, ContainerItem | LeafItem) and name not in self._small
        }

    def capture(self, names: Container[str] | None = None) -> dict[str, Captured]:
        """Every item now, or those of ``names``. Raises `UnsafeValueError` for what cannot be stored."""
        return {name: item.capture() for name, item in self.items.items() if names is None or name in names}

    def freeze_small(self) -> dict[str, Frozen]:
        """Items without tensors and with few values: schedulers, scalers, counters. Called at every boundary.

        One that raises is left out: that is said by the next save, which asks it again, and costs no training.
        """
        few = ((name, item) for name, item in self._small.items() if item.length() <= _SMALL)
        return {name: frozen for name, item in few if (frozen := _frozen(item)) is not None}

    def look(self) -> dict[str, Any]:
        """What can be seen, without a copy, of items that hold tensors: equal as long as none of them has changed."""
        return {name: seen for name, one in self._watched.items() if (seen := glance(one)) is not None}

    def obstacle(self, frozen: Mapping[str, Frozen], seen: Mapping[str, Any], *, unseen: bool) -> str | None:
        """Names an item that has changed since it was ``seen``; with ``unseen`` also one that may have."""
        for name, item in self.items.items():
            if name in seen and glance(self.objects[name]) != seen[name]:
                return f"{name} was changed since"
            known = name in frozen or name in seen or name in self.optimizers
            if unseen and not known and (not isinstance(item, ModuleItem | OptimizerItem) or name in self._hiding):
                return f"changes of {name} cannot be seen"
        return None

    def freeze_groups(self) -> Groups:
        """The settings of the optimizers. A loop may change them in mid-batch, without a step."""
        return {path: [_settings(group) for group in one.param_groups] for path, one in self._grouped.items()}

    @contextlib.contextmanager
    def put_back_groups(self, groups: Groups) -> Iterator[None]:
        """The settings as they were, for as long as they are being saved."""
        now = self.freeze_groups()
        self._exchange_groups(groups)
        try:
            yield
        finally:
            self._exchange_groups(now)

    def _exchange_groups(self, groups: Groups) -> None:
        for path, stored in groups.items():
            for group, settings in zip(self._grouped[path].param_groups, stored, strict=False):
                group.update(settings)

    def learning_rates(self) -> dict[str, list[float]]:
        return {
            path: [float(group["lr"]) for group in optimizer.param_groups if "lr" in group]
            for path, optimizer in self._grouped.items()
        }

    def fit(self, entry: Entry, advice: str = "") -> dict[str, Restore]:
        """Prepares to load ``entry``. Raises one `MisfitError` with every difference of every item; changes nothing.

        ``advice`` says what to do; by default, to somebody whose run is resumed.
        """
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
                f"{entry.name} does not fit the objects in state=; nothing was changed. {advice or _OF_THE_RUN}:",
                tuple(problems),
            )
        return restores

    def _find_small(self) -> dict[str, StatefulItem | ContainerItem]:
        return {
            name: item
            for name, item in self.items.items()
            if isinstance(item, StatefulItem | ContainerItem)
            and not (isinstance(item, ContainerItem) and item.holds_objects())
            and name not in self.optimizers
            and _is_small(item.capture())
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


def _frozen(item: StatefulItem | ContainerItem) -> Frozen | None:
    with contextlib.suppress(Exception):
        return item.freeze()
    return None


def _is_small(captured: Captured) -> bool:
    return not captured.tensors and _leaves(captured.tree) <= _SMALL


def _has_extra_state(module: torch.nn.Module) -> bool:
    plain = torch.nn.Module.get_extra_state
    return any(type(part).get_extra_state is not plain for part in module.modules())


def _settings(group: Mapping[str, Any]) -> dict[str, Any]:
    return {name: copied(value) for name, value in group.items() if name != "params"}


def _leaves(tree: Any) -> int:
    if isinstance(tree, dict):
        return sum(map(_leaves, tree.values()))
    if isinstance(tree, list):
        return sum(map(_leaves, tree))
    return 1
