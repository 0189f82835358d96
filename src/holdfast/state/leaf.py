"""A tensor, a parameter or a numpy array as an item of its own, restored in place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from holdfast.engine.leaves import Target
from holdfast.errors import CorruptError
from holdfast.state.fit import Fit, check_kind
from holdfast.state.item import Captured, stored_specs
from holdfast.state.tree import TENSOR, Scattering, capture_tree, decode, is_writable, memory, tag_of
from holdfast.types import ItemRecord, Json


class LeafItem:
    """One tensor or array that the user holds; its memory stays where it is."""

    def __init__(self, path: str, leaf: Any, prefix: str = "") -> None:
        self._path = path
        self._leaf = leaf
        self._prefix = prefix
        self._tag = tag_of(leaf) or TENSOR
        self.kind = self._tag.removeprefix("$")

    def capture(self) -> Captured:
        tree, tensors = capture_tree(self._leaf, self._path, self._prefix)
        return Captured(kind=self.kind, tree=tree, tensors=tensors)

    def prepare(self, record: ItemRecord, *, strict: bool = True, cast: bool = False) -> LeafRestore:
        check_kind(self._path, record, self.kind)
        fit = Fit(self._path, strict, cast)
        scattering = Scattering(self._path, stored_specs(record, self._path))

        def place(tag: str, payload: Json) -> Any:
            if tag != self._tag:
                return NotImplemented
            name = scattering.checked(payload)
            if fit.leaf(name, scattering.specs[name], memory(tag).spec_of(self._leaf, self._path)):
                if is_writable(self._leaf):
                    scattering.fill(tag, name, self._leaf)
                else:
                    fit.problems.append(f"{name}: a read-only array here; give one that can be written to")
            return self._leaf

        if decode(record.tree, place) is not self._leaf:
            raise CorruptError(f"{self._path}: the checkpoint says it holds a {self.kind} and holds something else")
        return LeafRestore(scattering.targets, fit.settle())


@dataclass(frozen=True, slots=True)
class LeafRestore:
    """Filling the targets is all there is to do."""

    targets: Mapping[str, Target]
    notes: tuple[str, ...]
    in_place: ClassVar[bool] = True

    def apply(self) -> None:
        """Nothing: the bytes are where they belong."""

    def undo(self) -> None:
        """Nothing can be put back: the bytes were read in place."""
