"""Anything with ``state_dict`` and ``load_state_dict``: schedulers, gradient scalers, loaders, user classes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from holdfast.engine.leaves import Target
from holdfast.errors import HoldfastError, MisfitError
from holdfast.state.fit import Fit, check_kind
from holdfast.state.item import Captured, stored_specs
from holdfast.state.tree import capture_tree, restore_tree, tag_of
from holdfast.types import ItemRecord


@runtime_checkable
class Stateful(Protocol):
    """What can say its state and take it back."""

    def state_dict(self) -> Any: ...

    def load_state_dict(self, state_dict: Any, /) -> Any: ...


Frozen = Callable[[], Captured]
"""Captures a state as it was when it was frozen."""


class StatefulItem:
    """An object that is saved by its ``state_dict()`` and restored by its ``load_state_dict()``."""

    kind = "stateful"

    def __init__(self, path: str, owner: Stateful, prefix: str = "") -> None:
        self._path = path
        self._owner = owner
        self._prefix = prefix

    def capture(self) -> Captured:
        return self._captured(self._owner.state_dict())

    def freeze(self) -> Frozen:
        """The state now, to be captured later if that is needed: cheap enough to be asked for at every boundary."""
        state = copied(self._owner.state_dict())
        return lambda: self._captured(state)

    def length(self) -> int:
        """How much there is to copy; an object's own state is taken to be as large as it was."""
        return 0

    def _captured(self, state: Any) -> Captured:
        tree, tensors = capture_tree(state, self._path, self._prefix)
        metadata = {"class": type(self._owner).__qualname__}
        return Captured(kind=self.kind, tree=tree, tensors=tensors, metadata=metadata)

    def prepare(self, record: ItemRecord, *, strict: bool = True, cast: bool = False) -> StatefulRestore:
        check_kind(self._path, record, self.kind)
        fit = Fit(self._path, strict, cast)
        check_class(fit, record, self._owner)
        notes = fit.settle()
        state, targets = restore_tree(record.tree, stored_specs(record, self._path), self._path)
        return StatefulRestore(self._path, self._owner, state, targets, notes)


@dataclass(slots=True)
class StatefulRestore:
    """A new state for ``owner``, handed over by `apply`."""

    path: str
    owner: Stateful
    state: Any
    targets: Mapping[str, Target]
    notes: tuple[str, ...] = ()
    before: Any = None

    def apply(self) -> None:
        self.before = copied(self.owner.state_dict())
        load(self.path, self.owner, self.state)

    def undo(self) -> None:
        if self.before is not None:
            self.owner.load_state_dict(self.before)


def load(path: str, owner: Stateful, state: Any) -> None:
    """``owner.load_state_dict(state)``. Raises `MisfitError` if the object refuses the state."""
    try:
        owner.load_state_dict(state)
    except HoldfastError:
        raise
    except Exception as error:
        raise MisfitError(
            f"{path}: load_state_dict of {type(owner).__qualname__} refused the saved state "
            f"({type(error).__name__}: {error}). Build the object as it was when it was saved."
        ) from error


def check_class(fit: Fit, record: ItemRecord, owner: object) -> None:
    """Notes that the state was saved by another class. The module is not compared: scripts are ``__main__``."""
    saved, here = record.metadata.get("class"), type(owner).__qualname__
    if saved != here:
        fit.problems.append(f"class {saved} in the checkpoint, {here} here")


_SCALARS = (int, float, str, bool, bytes, type(None))


def copied(value: Any) -> Any:
    """Containers and tensors copied, other objects kept: a state that later changes of its owner leave alone.

    >>> rates = [0.1]
    >>> before = copied({"rates": rates})
    >>> rates.append(0.2)
    >>> before
    {'rates': [0.1]}
    """
    kind = type(value)
    if kind in _SCALARS:
        return value
    if kind is dict:
        return {key: copied(part) for key, part in value.items()}
    if kind in (list, tuple):
        return kind([copied(part) for part in value])
    if tag_of(value) is not None:
        return value.detach().clone() if hasattr(value, "detach") else value.copy()
    return _copied_rarely(value)


def _copied_rarely(value: Any) -> Any:
    if isinstance(value, dict):
        copy = value.copy()
        for key, part in value.items():  # not update(), which counts pairs where it is a Counter
            copy[key] = copied(part)
        return copy
    if type(value) is deque:
        return deque(map(copied, value), value.maxlen)
    return value.copy() if isinstance(value, set | bytearray) else value
