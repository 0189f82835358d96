"""`torch.nn.Module` as an item: parameters and buffers read in place, names free of wrappers."""

from __future__ import annotations

import inspect
import sys
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from holdfast.engine.leaves import Target
from holdfast.errors import CorruptError, HoldfastError, MisfitError
from holdfast.state.fit import Fit, check_kind
from holdfast.state.item import Captured, stored_specs
from holdfast.state.torch.tensor import is_uninitialized, spec_of
from holdfast.state.tree import TENSOR, Gathering, Scattering, decode, encode
from holdfast.types import ItemRecord, Json

_VERSIONS = "versions"
_FIRST_VERSION = {"version": 1}
_HOOKS = ("_state_dict_pre_hooks", "_state_dict_hooks", "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks")
_METHODS = (
    "state_dict", "_save_to_state_dict", "get_extra_state",
    "load_state_dict", "_load_from_state_dict", "set_extra_state",
)  # fmt: skip


class Names:
    """Names of a module's state without the segments that `torch.compile` and data parallelism put in.

    A checkpoint saved from a wrapped module fits the plain one, and the other way round.
    """

    def __init__(self, module: torch.nn.Module) -> None:
        self._added: set[str] = set()
        for path, part in module.named_modules(remove_duplicate=False):
            child = _wrapped_child(part)
            if child is not None:
                self._added.add(f"{path}.{child}".lstrip("."))

    def plain(self, name: str) -> str:
        if not self._added:
            return name
        parts = name.split(".")
        return ".".join(part for end, part in enumerate(parts, 1) if ".".join(parts[:end]) not in self._added)


def _wrapped_child(module: torch.nn.Module) -> str | None:
    if isinstance(module, torch.nn.parallel.DistributedDataParallel | torch.nn.DataParallel):
        return "module"
    # Importing the compiler costs a second: a module can only be compiled if it was imported already.
    compiler = sys.modules.get("torch._dynamo.eval_frame")
    return "_orig_mod" if compiler is not None and isinstance(module, compiler.OptimizedModule) else None


class ModuleItem:
    """What the module's ``state_dict()`` holds; buffers that are not persistent are not in it."""

    kind = "module"

    def __init__(self, path: str, module: torch.nn.Module, prefix: str = "") -> None:
        self._path = path
        self._module = module
        self._prefix = prefix

    def capture(self) -> Captured:
        names, state = Names(self._module), _state_of(self._module)
        gathering = Gathering(self._path, self._prefix, share=False)
        tree = encode({names.plain(key): value for key, value in state.items()}, self._path, gathering)
        versions = {names.plain(key): value for key, value in _metadata(state).items()}
        changed = {key: value for key, value in versions.items() if value != _FIRST_VERSION}
        metadata = {_VERSIONS: encode(changed, f"{self._path}/_metadata", None)}
        return Captured(kind=self.kind, tree=tree, tensors=gathering.sources, metadata=metadata)

    def prepare(self, record: ItemRecord, *, strict: bool = True, cast: bool = False) -> ModuleRestore:
        check_kind(self._path, record, self.kind)
        fit = Fit(self._path, strict, cast)
        placing = _Placing(self._path, self._prefix, record, self._module, fit)
        state = placing.state(record.tree)
        if record.tensors and not placing.scattering.targets:
            # Another model, or names with another prefix: what trains on would be what it was initialized with.
            fit.refuse()
        notes = fit.settle()
        _set_metadata(state, placing.versions(record.metadata.get(_VERSIONS)))
        return ModuleRestore(self._path, self._module, placing.scattering.targets, notes, state, placing.live, strict)


class _Placing:
    """Matches what is stored with what is there, leaf by leaf."""

    def __init__(self, path: str, prefix: str, record: ItemRecord, module: torch.nn.Module, fit: Fit) -> None:
        self.live = _state_of(module)
        self.scattering = Scattering(path, stored_specs(record, path))
        self._path, self._prefix, self._fit = path, prefix, fit
        self._names = Names(module)
        self._here = {self._names.plain(key): value for key, value in self.live.items()}
        self._refused: set[str] = set()

    def state(self, tree: Json) -> OrderedDict[str, Any]:
        """The state to load, by the names that the live module uses now; differences go to the fit."""
        stored = decode(tree, self._place)
        if not isinstance(stored, dict) or not all(isinstance(name, str) for name in stored):
            raise CorruptError(f"{self._path}: the checkpoint holds a {type(stored).__name__}, not a module's state")
        self._fit.names(set(stored), set(self._here))
        for name in set(stored) - set(self._here):
            self.scattering.targets.pop(self._prefix + name, None)
        raw = {self._names.plain(key): key for key in self.live}
        return OrderedDict(
            (raw[name], value) for name, value in stored.items() if name in raw and self._agrees(name, value)
        )

    def versions(self, tree: Json) -> dict[str, Any]:
        """The versions that the modules had when they were saved, for those whose layout has changed since."""
        saved = {} if tree is None else decode(tree, None)
        if not isinstance(saved, dict) or not all(map(_is_version, saved.values())):
            raise CorruptError(f"{self._path}: the checkpoint holds no versions of a module's state, but {saved!r:.80}")
        return {key: saved.get(self._names.plain(key), dict(_FIRST_VERSION)) for key in _metadata(self.live)}

    def _place(self, tag: str, payload: Json) -> Any:
        if tag != TENSOR:
            return self.scattering(tag, payload)
        name = self.scattering.checked(payload)
        own = name.removeprefix(self._prefix)
        here = self._here.get(own)
        if not isinstance(here, torch.Tensor) or is_uninitialized(here):
            return self.scattering.new(tag, name)
        if self._fit.leaf(own, self.scattering.specs[name], spec_of(here, f"{self._path}/{own}")):
            return self.scattering.fill(tag, name, here)
        self._refused.add(own)
        return here

    def _agrees(self, name: str, value: Any) -> bool:
        """A tensor where a tensor is; `get_extra_state` may return anything."""
        here = self._here[name]
        if name.endswith("_extra_state"):
            return name not in self._refused
        if isinstance(here, torch.Tensor) and isinstance(value, torch.Tensor):
            return name not in self._refused and self._is_own(name, here, value)
        if not isinstance(here, torch.Tensor) and not isinstance(value, torch.Tensor):
            return True
        self._fit.problems.append(f"{name}: {type(value).__name__} in the checkpoint, {type(here).__name__} here")
        return False

    def _is_own(self, name: str, here: torch.Tensor, value: torch.Tensor) -> bool:
        """What is read in place cannot be taken back, so nothing may refuse it later."""
        if value is here or is_uninitialized(here):
            return True
        self._fit.problems.append(f"{name}: refers to the tensor of another name in the checkpoint")
        return False


@dataclass(slots=True)
class ModuleRestore:
    """Parameters and buffers are read in place; hooks and extra state run in `apply`."""

    path: str
    module: torch.nn.Module
    targets: Mapping[str, Target]
    notes: tuple[str, ...]
    state: dict[str, Any]
    before: dict[str, Any]
    strict: bool
    in_place: ClassVar[bool] = True

    def apply(self) -> None:
        """Loads the module's own tensors into themselves, which moves nothing, for the sake of its hooks."""
        if self._is_all_there() and _is_plain(self.module):
            return
        try:
            self.module.load_state_dict(self.state, strict=self.strict)
        except HoldfastError:
            raise
        except Exception as error:
            raise MisfitError(f"{self.path}: load_state_dict refused the saved state: {error}") from error

    def _is_all_there(self) -> bool:
        return all(value is self.before[name] for name, value in self.state.items())

    def undo(self) -> None:
        if not all(isinstance(value, torch.Tensor) for value in self.before.values()):
            self.module.load_state_dict(self.before, strict=False)


def _state_of(module: torch.nn.Module) -> dict[str, Any]:
    """The module's state with its own parameters in it rather than copies of their headers."""
    accepted = inspect.signature(module.state_dict).parameters
    if "keep_vars" in accepted or any(one.kind is one.VAR_KEYWORD for one in accepted.values()):
        return module.state_dict(keep_vars=True)
    return module.state_dict()


def _is_plain(module: torch.nn.Module) -> bool:
    """Whether no code but torch's own runs in ``load_state_dict()``.

    That looks at every name once for each child of a module: a second for 2,500 layers, four for twice as many.
    """
    return all(
        not any(getattr(part, hooks, True) for hooks in _HOOKS)
        and all(
            getattr(getattr(part, method), "__func__", None) is getattr(torch.nn.Module, method) for method in _METHODS
        )
        for part in module.modules()
    )


def _is_version(entry: Any) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("version"), int | None)


def _metadata(state: Mapping[str, Any]) -> dict[str, Any]:
    return dict(getattr(state, "_metadata", {}))


def _set_metadata(state: OrderedDict[str, Any], versions: dict[str, Any]) -> None:
    """`load_state_dict` looks for the versions in this attribute of the state."""
    state.__dict__["_metadata"] = versions
