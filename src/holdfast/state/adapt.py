"""Finds the item for whatever a user puts into the run's state."""

from __future__ import annotations

import enum
import sys
from typing import Any

from holdfast.errors import UsageError
from holdfast.state.container import CONTAINERS, ContainerItem
from holdfast.state.generator import GeneratorItem, is_generator
from holdfast.state.item import Item
from holdfast.state.leaf import LeafItem
from holdfast.state.stateful import Stateful, StatefulItem
from holdfast.state.tree import tag_of

_IMMUTABLE = (int, float, complex, str, bytes, tuple, frozenset, enum.Enum, type(None))


def adapt(name: str, obj: Any) -> Item:
    """The item that saves and restores ``obj`` under ``name``.

    Raises `UsageError` for what could not be restored in place: immutable values, classes, and
    objects without a state.

    >>> adapt("history", {"loss": [0.5]}).kind
    'container'
    """
    item = adapt_if_possible(name, obj)
    if item is None:
        raise _refusal(name, obj)
    return item


def adapt_if_possible(name: str, obj: Any) -> Item | None:
    """The item for ``obj``, or None for what could not be restored in place."""
    if type(obj) in CONTAINERS:
        return ContainerItem(name, obj, adapt_part)
    if not isinstance(obj, type) and tag_of(obj) is not None:
        return LeafItem(name, obj)
    return adapt_part(name, obj)


def adapt_part(path: str, obj: Any, prefix: str = "") -> Item | None:
    """The item for an object that has a state of its own; None for plain values, tensors and containers."""
    if isinstance(obj, type) or type(obj) in CONTAINERS or tag_of(obj) is not None:
        return None
    item = _torch_item(path, obj, prefix)
    if item is not None:
        return item
    if is_generator(obj):
        return GeneratorItem(path, obj, prefix)
    if isinstance(obj, Stateful):
        return StatefulItem(path, obj, prefix)
    return obj if isinstance(obj, Item) else None


def _torch_item(path: str, obj: Any, prefix: str) -> Item | None:
    torch = sys.modules.get("torch")
    if torch is None:
        return None
    if isinstance(obj, torch.nn.Module):
        from holdfast.state.torch.module import ModuleItem

        return ModuleItem(path, obj, prefix)
    if isinstance(obj, torch.optim.Optimizer):
        from holdfast.state.torch.optimizer import OptimizerItem

        return OptimizerItem(path, obj, prefix)
    return None


def _refusal(name: str, obj: Any) -> UsageError:
    what = f"state[{name!r}] is of type {type(obj).__qualname__}"
    if isinstance(obj, type):
        return UsageError(f"state[{name!r}] is the class {obj.__qualname__}; give an instance of it")
    numpy = sys.modules.get("numpy")
    if isinstance(obj, _IMMUTABLE) or (numpy is not None and isinstance(obj, numpy.generic)):
        return UsageError(
            f"{what}, which cannot be changed in place, so a resume could not give it back. "
            f"Keep it in run.values[{name!r}] instead and read it from there."
        )
    return UsageError(
        f"{what}, which has no state to save. Give it state_dict() and load_state_dict(), or put the values "
        f"that must survive into a dict."
    )
