"""Nested plain values with tensors and arrays as leaves, taken apart and put together."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from holdfast.engine.leaves import Source, Target
from holdfast.errors import CorruptError
from holdfast.format import values
from holdfast.types import Json, TensorSpec

TENSOR = "$tensor"
ARRAY = "$array"
_WHOLE = "value"
"""The name of a tensor that is not in anything."""


class Memory(Protocol):
    """What `holdfast.state.torch.tensor` and `holdfast.state.array` can do with their kind of leaf."""

    def source(self, leaf: Any, path: str, /) -> Source: ...

    def target(self, leaf: Any, path: str, spec: TensorSpec | None = None, /) -> Target: ...

    def spec_of(self, leaf: Any, path: str, /) -> TensorSpec: ...

    def may_repeat(self, leaf: Any, /) -> bool: ...

    def new(self, spec: TensorSpec, path: str, /, *place: Any) -> tuple[Any, Target]: ...


def tag_of(value: object) -> str | None:
    """``"$tensor"`` for a torch tensor, ``"$array"`` for a numpy array, None for anything else."""
    torch, numpy = sys.modules.get("torch"), sys.modules.get("numpy")
    if torch is not None and isinstance(value, torch.Tensor):
        return TENSOR
    return ARRAY if numpy is not None and isinstance(value, numpy.ndarray) else None


@functools.cache
def memory(tag: str) -> Memory:
    """Who handles leaves of that tag."""
    if tag == TENSOR:
        from holdfast.state.torch import tensor

        return tensor
    from holdfast.state import array

    return array


@dataclass(slots=True)
class Gathering:
    """The tensors found while a value below ``path`` is encoded, each named by its path from there.

    With ``share`` a tensor met twice has one name, and the restored value holds one tensor twice.
    """

    path: str
    prefix: str = ""
    share: bool = True
    sources: dict[str, Source] = field(default_factory=dict)
    leaves: dict[str, Any] = field(default_factory=dict)
    _known: dict[int, str] = field(default_factory=dict)
    _taken: set[str] = field(default_factory=set)

    def __call__(self, value: object, path: str) -> Json | None:
        tag = tag_of(value)
        if tag is None:
            return None
        name = self._known.get(id(value)) if self.share else None
        return {tag: name or self._add(tag, value, path)}

    def name(self, path: str) -> str:
        """A name for what is at ``path`` that nothing else here has."""
        name = whole = self.prefix + (path[len(self.path) + 1 :] or _WHOLE)
        count = 1
        while name in self._taken:
            count += 1
            name = f"{whole}#{count}"
        self._taken.add(name)
        return name

    def _add(self, tag: str, value: Any, path: str) -> str:
        name = self.name(path)
        self.sources[name] = memory(tag).source(value, path)
        self.leaves[name] = value
        self._known[id(value)] = name
        return name


@dataclass(slots=True)
class Scattering:
    """Finds or makes the tensors that a decoded value refers to, and the targets that fill them.

    A live leaf of the same name, dtype and shape is filled in place; any other is new: on the CPU, unless ``place_of``
    tells for its name on which device a tensor is needed, and like which other one it has to lie there. ``in_place``
    says that some were live: what is read into those cannot be taken back.
    """

    path: str
    specs: Mapping[str, TensorSpec]
    live: Mapping[str, Any] = field(default_factory=dict)
    place_of: Callable[[str], tuple[Any, Any]] | None = None
    targets: dict[str, Target] = field(default_factory=dict)
    in_place: bool = False
    _leaves: dict[tuple[str, str], Any] = field(default_factory=dict)

    def __call__(self, tag: str, payload: Json) -> Any:
        if tag not in (TENSOR, ARRAY):
            return NotImplemented
        name = self.checked(payload)
        leaf = self._leaves.get((tag, name))
        if leaf is None:
            leaf = self._leaves[tag, name] = self._place(tag, name)
        return leaf

    def checked(self, payload: Json) -> str:
        """The name in a reference. Raises `CorruptError` if no tensor has it."""
        if not isinstance(payload, str) or payload not in self.specs:
            raise CorruptError(f"{self.path}: the checkpoint refers to a tensor {payload!r} that it does not hold")
        return payload

    def fill(self, tag: str, name: str, leaf: Any) -> Any:
        """Directs the stored bytes of ``name`` into ``leaf``, converted if it is of another dtype."""
        self.targets[name] = memory(tag).target(leaf, f"{self.path}/{name}", self.specs[name])
        self.in_place = True
        return leaf

    def new(self, tag: str, name: str) -> Any:
        """A new leaf for the stored bytes of ``name``."""
        where = () if self.place_of is None or tag != TENSOR else self.place_of(name)
        leaf, self.targets[name] = memory(tag).new(self.specs[name], f"{self.path}/{name}", *where)
        return leaf

    def _place(self, tag: str, name: str) -> Any:
        leaf = self.live.get(name)
        if leaf is None:
            return self.new(tag, name)
        fits = tag_of(leaf) == tag and memory(tag).spec_of(leaf, name) == self.specs[name]
        filled = fits and is_writable(leaf) and not memory(tag).may_repeat(leaf)
        return self.fill(tag, name, leaf) if filled else self.new(tag, name)


def capture_tree(value: object, path: str, prefix: str = "") -> tuple[Json, dict[str, Source]]:
    """``value`` as tagged JSON, and the tensors and arrays that it refers to by name.

    Raises `UnsafeValueError`, with the path, for what has no safe representation.
    """
    gathering = Gathering(path, prefix)
    return encode(value, path, gathering), gathering.sources


def restore_tree(tree: Json, specs: Mapping[str, TensorSpec], path: str) -> tuple[Any, dict[str, Target]]:
    """A new value, and the targets that fill the new tensors in it."""
    scattering = Scattering(path, specs)
    return decode(tree, scattering), scattering.targets


def encode(value: object, path: str, leaf: Any) -> Json:
    """`holdfast.format.values.encode` with the types of the frameworks in use."""
    _register_types()
    return values.encode(value, path, leaf)


def decode(tree: Json, leaf: Any) -> Any:
    """`holdfast.format.values.decode` with the types of the frameworks in use."""
    _register_types()
    return values.decode(tree, leaf)


def _register_types() -> None:
    if "torch" in sys.modules:
        import holdfast.state.torch.codecs  # noqa: F401  its types register themselves


def is_writable(leaf: Any) -> bool:
    """Whether values can be read into it: an array may be read-only."""
    return tag_of(leaf) != ARRAY or bool(leaf.flags.writeable)
