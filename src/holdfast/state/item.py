"""The contract between one entry of the run's state and the rest of the house."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import msgspec

from holdfast.engine.leaves import Source, Target
from holdfast.errors import CorruptError
from holdfast.types import ItemRecord, Json, TensorRecord, TensorSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Captured:
    """The state of an item at this moment.

    ``tensors`` are still the live ones: no byte was copied. ``tree`` is the item's value as tagged
    JSON that refers to them by name, ``metadata`` what a restore needs to check the fit.
    """

    kind: str
    tree: Json
    tensors: dict[str, Source] = field(default_factory=dict)
    metadata: dict[str, Json] = field(default_factory=dict)


class Restore(Protocol):
    """A restore that was found to fit. Nothing was changed yet.

    Fill every target, finish it, then `apply`. ``notes`` say what will not be restored as it was
    stored: a cast that was asked for, a leaf left out by ``strict=False``.
    """

    @property
    def targets(self) -> Mapping[str, Target]:
        """By the tensor's name in the record, its aliases included."""
        ...

    @property
    def notes(self) -> tuple[str, ...]: ...

    def apply(self) -> None:
        """Hands the restored state to the object; raises `MisfitError` if it refuses it."""
        ...

    def undo(self) -> None:
        """Puts back what `apply` replaced. Tensors that were read in place keep their new bytes."""
        ...


@runtime_checkable
class Item(Protocol):
    """One entry of the run's state: what is saved of an object and how it is put back."""

    @property
    def kind(self) -> str: ...

    def capture(self) -> Captured:
        """The state now. Copies no tensor, draws no random number, steps no optimizer.

        Raises `UnsafeValueError`, with the path, for what has no safe representation.
        """
        ...

    def prepare(self, record: ItemRecord, *, strict: bool = True, cast: bool = False) -> Restore:
        """Checks that ``record`` fits, and changes nothing.

        Raises `MisfitError` that lists every missing, unexpected or different leaf. With
        ``strict=False`` what fits is loaded and the rest is noted; with ``cast`` a tensor of
        another dtype is converted, and noted.
        """
        ...


def resolved(items: Mapping[str, ItemRecord], name: str) -> ItemRecord:
    """The record of item ``name`` with each alias replaced by the tensor that it stands for.

    Raises `CorruptError` if an alias leads nowhere.
    """
    record = items[name]
    tensors = dict(record.tensors)
    for leaf, alias in record.aliases.items():
        owner = items.get(alias.item)
        if owner is None or alias.tensor not in owner.tensors:
            raise CorruptError(
                f"{name}: tensor {leaf!r} is an alias of {alias.item}/{alias.tensor}, which is not stored"
            )
        tensors[leaf] = owner.tensors[alias.tensor]
    return msgspec.structs.replace(record, tensors=tensors, aliases={})


def stored_tensors(record: ItemRecord, path: str) -> dict[str, TensorRecord]:
    """The tensors of ``record`` with aliases within the item replaced by what they stand for.

    Raises `CorruptError` for an alias of another item's tensor: pass a `resolved` record.
    """
    tensors = dict(record.tensors)
    for name, alias in record.aliases.items():
        if alias.tensor not in record.tensors:
            raise CorruptError(
                f"{path}: tensor {name!r} is an alias of {alias.item}/{alias.tensor}, which is not at hand"
            )
        tensors[name] = record.tensors[alias.tensor]
    return tensors


def stored_specs(record: ItemRecord, path: str) -> dict[str, TensorSpec]:
    """Dtype and shape of every one of the `stored_tensors`."""
    return {name: tensor.spec for name, tensor in stored_tensors(record, path).items()}
