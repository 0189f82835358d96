"""A dict, list or the like as an item: plain parts replaced in it, objects with a state restored in place."""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from holdfast.engine.leaves import Source, Target
from holdfast.errors import CorruptError, MisfitError, UnsafeValueError
from holdfast.state.fit import Fit, check_kind
from holdfast.state.item import Captured, Item, Restore, stored_tensors
from holdfast.state.stateful import Frozen, copied
from holdfast.state.tree import TENSOR, Gathering, Scattering, decode, encode, memory, tag_of
from holdfast.types import ItemRecord, Json

CONTAINERS = (dict, list, OrderedDict, defaultdict, Counter, deque, set, bytearray)
"""The types, exactly these, whose contents can be replaced in place."""

_STATE = "$state"

Adapter = Callable[[str, Any, str], Item | None]
"""Path, object and prefix of its tensors' names to the item for it; None for a plain value."""


@dataclass(slots=True)
class _Walk:
    """The leaf hook that finds tensors, and objects with a state of their own, in a container."""

    adapt: Adapter
    gathering: Gathering
    items: dict[str, Item] = field(default_factory=dict)
    objects: dict[str, Any] = field(default_factory=dict)
    trained: dict[str, str] = field(default_factory=dict)
    """Names of tensors that are being trained, by their paths; one that is met twice has one name and two paths."""

    def __call__(self, value: object, path: str) -> Json | None:
        if self.adapt(path, value, "") is None:
            leaf = self.gathering(value, path)
            if leaf is not None and _is_trained(value) and getattr(value, "is_leaf", False):
                self.trained[self.gathering.prefix + path[len(self.gathering.path) + 1 :]] = leaf[TENSOR]
            return leaf
        name = self.gathering.name(path)
        item = self.adapt(path, value, f"{name}/")
        assert item is not None
        self.items[name], self.objects[name] = item, value
        return self.state(name, item)

    def state(self, name: str, item: Item) -> Json:
        """What stands in the tree for the object: here only its name."""
        return {_STATE: {"name": name}}


@dataclass(slots=True)
class _Capture(_Walk):
    """A walk that also captures the objects it meets."""

    def state(self, name: str, item: Item) -> Json:
        captured = item.capture()
        _merge(self.gathering.sources, captured.tensors, self.gathering.path)
        return {_STATE: {"name": name, "kind": captured.kind, "tree": captured.tree, "metadata": captured.metadata}}


class ContainerItem:
    """A container that the user holds; it stays the same object, and so do the containers in it."""

    kind = "container"

    def __init__(self, path: str, container: Any, adapt: Adapter, prefix: str = "") -> None:
        self._path = path
        self._container = container
        self._adapt = adapt
        self._prefix = prefix

    def capture(self) -> Captured:
        return self._captured(self._container)

    def freeze(self) -> Frozen:
        """The contents now, to be captured later if needed; not the state of objects that are in it."""
        contents = copied(self._container)
        return lambda: self._captured(contents)

    def length(self) -> int:
        """How much there is to copy: a history grows with the run."""
        return len(self._container)

    def holds_objects(self) -> bool:
        """Whether objects with a state of their own are in it."""
        walk = _Walk(self._adapt, Gathering(self._path, self._prefix))
        encode(self._container, self._path, walk)
        return bool(walk.items)

    def _captured(self, container: Any) -> Captured:
        walk = _Capture(self._adapt, Gathering(self._path, self._prefix))
        tree = encode(container, self._path, walk)
        return Captured(kind=self.kind, tree=tree, tensors=walk.gathering.sources)

    def prepare(
        self, record: ItemRecord, *, strict: bool = True, cast: bool = False, apart: Collection[str] = ()
    ) -> ContainerRestore:
        """See `Item`. Plain tensors and arrays whose names are in ``apart`` give way to new ones."""
        check_kind(self._path, record, self.kind)
        live = _Walk(self._adapt, Gathering(self._path, self._prefix))
        encode(self._container, self._path, live)
        for name in apart:
            if not _is_trained(live.gathering.leaves.get(name)):
                live.gathering.leaves.pop(name, None)
        rebuild = _Rebuild(live, record, Fit(self._path, strict, cast))
        value = decode(record.tree, rebuild)
        if type(value) is not type(self._container):
            saved, here = type(value).__name__, type(self._container).__name__
            rebuild.fit.problems.append(f"a {saved} in the checkpoint, a {here} here")
            rebuild.fit.refuse()
        rebuild.fit.names(rebuild.met, set(live.items))
        rebuild.compare_trained()
        notes = (*rebuild.fit.settle(), *(note for part in rebuild.restores.values() for note in part.notes))
        parts = tuple(rebuild.restores.values())
        return ContainerRestore(self._container, value, rebuild.targets(), parts, notes, rebuild.in_place())


class _Rebuild:
    """The leaf hook that puts live objects where the stored tree has their state."""

    def __init__(self, live: _Walk, record: ItemRecord, fit: Fit) -> None:
        self.fit = fit
        self.met: set[str] = set()
        self._kept: set[str] = set()
        self.restores: dict[str, Restore] = {}
        self._live = live
        self._tensors = stored_tensors(record, fit.path)
        specs = {name: tensor.spec for name, tensor in self._tensors.items()}
        self._scattering = Scattering(fit.path, specs, live.gathering.leaves)

    def __call__(self, tag: str, payload: Json) -> Any:
        if tag != _STATE:
            return self._leaf(tag, payload)
        name, record = self._part(payload)
        self.met.add(name)
        item = self._live.items.get(name)
        if item is None:
            return None
        try:
            self.restores[name] = item.prepare(record, strict=self.fit.strict, cast=self.fit.cast)
        except MisfitError as error:
            self.fit.problems += [f"{name}/{problem}" for problem in error.problems] or [str(error)]
        return self._live.objects[name]

    def compare_trained(self) -> None:
        """A tensor that is being trained must not be lost, nor one place of two that it has."""
        for path, name in self._live.trained.items():
            if name not in self._kept:
                self.fit.problems.append(
                    f"{path}: missing, it is trained here and not in the checkpoint, or tied there"
                )
            elif path not in self._live.gathering.leaves and path in self._tensors:
                self.fit.problems.append(f"{path}: the same tensor as {name} here, one of its own in the checkpoint")

    def targets(self) -> dict[str, Target]:
        parts = [self._scattering.targets, *(restore.targets for restore in self.restores.values())]
        return {name: target for part in parts for name, target in part.items()}

    def in_place(self) -> bool:
        return self._scattering.in_place or any(getattr(one, "in_place", False) for one in self.restores.values())

    def _leaf(self, tag: str, payload: Json) -> Any:
        """A tensor that is being trained keeps its identity, so it has to fit; any other may be replaced."""
        here = self._live.gathering.leaves.get(payload) if isinstance(payload, str) else None
        if tag == tag_of(here) and _is_trained(here):
            name = self._scattering.checked(payload)
            self._kept.add(name)
            if self.fit.leaf(name, self._scattering.specs[name], memory(tag).spec_of(here, name)):
                self._scattering.fill(tag, name, here)
            return here
        return self._scattering(tag, payload)

    def _part(self, payload: Json) -> tuple[str, ItemRecord]:
        try:
            name, kind, metadata = str(payload["name"]), str(payload["kind"]), dict(payload["metadata"])
            tree = payload["tree"]
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptError(f"{self.fit.path}: the checkpoint holds an object's state without {error}") from error
        tensors = {key: tensor for key, tensor in self._tensors.items() if key.startswith(f"{name}/")}
        return name, ItemRecord(kind=kind, tree=tree, tensors=tensors, metadata=metadata)


@dataclass(slots=True)
class ContainerRestore:
    """New contents for a container, merged into it and the containers inside it by `apply`.

    ``in_place`` says that tensors, or objects, that are in it stay the same, and are read into.
    """

    container: Any
    value: Any
    targets: Mapping[str, Target]
    parts: tuple[Restore, ...]
    notes: tuple[str, ...]
    in_place: bool
    _before: list[tuple[Any, Any]] = field(default_factory=list)

    def apply(self) -> None:
        for part in self.parts:
            part.apply()
        self._merged(self.container, self.value)

    def undo(self) -> None:
        for container, contents in reversed(self._before):
            _refill(container, contents)
        for part in reversed(self.parts):
            part.undo()

    def _merged(self, live: Any, new: Any) -> Any:
        """``new``, with every live container that has its like in it kept as the same object."""
        if type(live) is not type(new) or (isinstance(new, deque) and live.maxlen != new.maxlen):
            return new
        if type(new) is tuple:
            return tuple(self._merged(live[i] if i < len(live) else None, part) for i, part in enumerate(new))
        if type(new) not in CONTAINERS or live is new:
            return new
        self._before.append((live, live.copy()))
        _refill(live, self._merged_parts(live, new))
        return live

    def _merged_parts(self, live: Any, new: Any) -> Any:
        if isinstance(new, dict):
            return {key: self._merged(live.get(key), part) for key, part in new.items()}
        if isinstance(new, list | deque):
            return [self._merged(live[i] if i < len(live) else None, part) for i, part in enumerate(new)]
        return new


def _is_trained(leaf: Any) -> bool:
    return bool(getattr(leaf, "requires_grad", False))


def _refill(container: Any, contents: Any) -> None:
    """Replaces the contents, a dict's one by one: update() of a Counter adds, dict.update() breaks an OrderedDict."""
    container.clear()
    if isinstance(container, dict):
        for key, part in contents.items():
            container[key] = part
    elif isinstance(container, set):
        container.update(contents)
    else:
        container.extend(contents)


def _merge(sources: dict[str, Source], more: Mapping[str, Source], path: str) -> None:
    for name, source in more.items():
        if name in sources:
            raise UnsafeValueError(f"{path}/{name}: two tensors would have this name; rename one of the keys", path)
        sources[name] = source
