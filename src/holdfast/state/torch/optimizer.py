"""`torch.optim.Optimizer` as an item: checked against its parameters, restored without a cast."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from holdfast.engine.leaves import Target
from holdfast.state.fit import Fit, check_kind
from holdfast.state.item import Captured, stored_specs
from holdfast.state.stateful import check_class, load
from holdfast.state.torch.group_settings import setting_problems
from holdfast.state.torch.tensor import is_uninitialized
from holdfast.state.tree import Scattering, capture_tree, decode
from holdfast.types import ItemRecord, Json

_GROUPS = "groups"
_KEPT = re.compile(r"state/(\d{1,9})/(.+)")
"""The name of what an optimizer keeps of one of its parameters, which it numbers."""


class OptimizerItem:
    """The optimizer's ``state_dict()``, taken as it is: no step is made to fill it."""

    kind = "optimizer"

    def __init__(self, path: str, optimizer: torch.optim.Optimizer, prefix: str = "") -> None:
        self._path = path
        self._optimizer = optimizer
        self._prefix = prefix

    def learning_rates(self) -> list[float]:
        """The learning rate of each parameter group that has one."""
        return [float(group["lr"]) for group in self._optimizer.param_groups if "lr" in group]

    def capture(self) -> Captured:
        tree, tensors = capture_tree(self._optimizer.state_dict(), self._path, self._prefix)
        metadata = {"class": type(self._optimizer).__qualname__, _GROUPS: _described(self._optimizer)}
        return Captured(kind=self.kind, tree=tree, tensors=tensors, metadata=metadata)

    def prepare(self, record: ItemRecord, *, strict: bool = True, cast: bool = False) -> OptimizerRestore:
        """State belongs to parameters by position, so these must fit also when the restore is not strict."""
        check_kind(self._path, record, self.kind)
        fit = Fit(self._path, strict, cast)
        _compare(fit, record.metadata.get(_GROUPS), _described(self._optimizer))
        if strict:
            check_class(fit, record, self._optimizer)
        fit.refuse()
        places = _Places(self._optimizer, self._prefix)
        scattering = Scattering(self._path, stored_specs(record, self._path), places.live(), places.place_of)
        state = decode(record.tree, scattering)
        _compare_state(fit, state, self._optimizer)
        saved, here = record.metadata.get("class"), type(self._optimizer).__qualname__
        if saved != here:
            fit.notes.append(f"{self._path}: class {saved} in the checkpoint, {here} here")
            _require_settings(fit, state, self._optimizer)
        fit.refuse()
        return OptimizerRestore(
            self._path, self._optimizer, scattering.targets, fit.settle(), state, scattering.in_place
        )


@dataclass(slots=True)
class OptimizerRestore:
    """A new state, which the optimizer adopts in `apply`: of the tensors that it kept before, or of new ones.

    ``in_place`` says that some are those from before, which cannot be taken back.
    """

    path: str
    optimizer: torch.optim.Optimizer
    targets: Mapping[str, Target]
    notes: tuple[str, ...]
    state: dict[str, Any]
    in_place: bool
    before: dict[str, Any] | None = None

    def apply(self) -> None:
        self.before = self.optimizer.state_dict()
        load(self.path, self.optimizer, _quickly_numbered(self.optimizer, self.state))
        _mend(self.optimizer, self.state)

    def undo(self) -> None:
        if self.before is not None:
            self.optimizer.load_state_dict(self.before)
            _mend(self.optimizer, self.before)


class _Places:
    """Where what is stored of an optimizer goes: into what it keeps already, or else beside its parameters.

    Otherwise torch would have to bring it to a device, from the CPU. What ``load_state_dict`` of somebody else's makes
    of it is not known: there it goes into new tensors on the CPU. A fused step goes through the memory of a parameter
    and of its state side by side, whatever their strides say: so these lie alike, as they did when it made them.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, prefix: str) -> None:
        self._known = type(optimizer).load_state_dict is torch.optim.Optimizer.load_state_dict
        self._parameters = [one for group in optimizer.param_groups for one in group["params"]]
        self._optimizer, self._prefix = optimizer, prefix

    def live(self) -> dict[str, torch.Tensor]:
        """What it keeps, by name, if that shares its memory with nothing else that it knows of."""
        kept = {
            f"{self._prefix}state/{number}/{name}": one
            for number, parameter in enumerate(self._parameters if self._known else ())
            for name, one in _kept(self._optimizer, parameter).items()
            if type(one) is torch.Tensor and one.layout == torch.strided and not one.is_meta
        }
        shared = Counter(map(_storage, itertools.chain(kept.values(), self._parameters)))
        return {name: one for name, one in kept.items() if shared[_storage(one)] == 1}

    def place_of(self, name: str) -> tuple[torch.device, torch.Tensor | None]:
        """The device, and the parameter like which it lies there."""
        found = _KEPT.fullmatch(name.removeprefix(self._prefix))
        number = int(found[1]) if found is not None and found[2] != "step" else len(self._parameters)
        parameter = self._parameters[number] if number < len(self._parameters) else None
        return parameter.device if self._known and parameter is not None else torch.device("cpu"), parameter


def _kept(optimizer: torch.optim.Optimizer, parameter: torch.Tensor) -> dict[Any, Any]:
    kept = optimizer.state.get(parameter)
    return kept if isinstance(kept, dict) else {}


def _storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr() if tensor.layout == torch.strided and not tensor.is_meta else 0


def _described(optimizer: torch.optim.Optimizer) -> Json:
    """Dtype and shape of every parameter, by group; no shape for one that a lazy module has yet to make."""
    return [[_parameter(parameter) for parameter in group["params"]] for group in optimizer.param_groups]


def _parameter(parameter: torch.Tensor) -> Json:
    dtype = str(parameter.dtype).removeprefix("torch.")
    return [dtype, None if is_uninitialized(parameter) else list(parameter.shape)]


def _compare(fit: Fit, saved: Json, here: Json) -> None:
    if not isinstance(saved, list) or len(saved) != len(here):
        count = len(saved) if isinstance(saved, list) else "no"
        fit.problems.append(f"{count} parameter groups in the checkpoint, {len(here)} here")
        return
    for index, (old, new) in enumerate(zip(saved, here, strict=True)):
        _compare_group(fit, f"parameter group {index}", old, new)


def _compare_group(fit: Fit, where: str, saved: Json, here: Json) -> None:
    if not isinstance(saved, list) or len(saved) != len(here):
        count = len(saved) if isinstance(saved, list) else "no"
        fit.problems.append(f"{where}: {count} parameters in the checkpoint, {len(here)} here")
        return
    for index, (old, new) in enumerate(zip(saved, here, strict=True)):
        if not _same_parameter(old, new, fit.cast):
            fit.problems.append(f"{where}, parameter {index}: {_shown(old)} in the checkpoint, {_shown(new)} here")


def _compare_state(fit: Fit, saved: Any, optimizer: torch.optim.Optimizer) -> None:
    """What ``load_state_dict`` would take, and the next step fail with."""
    here = optimizer.state_dict()
    if not {"state", "param_groups"} <= here.keys():
        return  # a class of its own making, whose load_state_dict knows what it takes
    groups = saved.get("param_groups") if isinstance(saved, dict) else None
    if not isinstance(groups, list | tuple) or len(groups) != len(here["param_groups"]):
        fit.problems.append("param_groups in the checkpoint are not those of its parameter groups")
        return
    for index, (old, new) in enumerate(zip(groups, here["param_groups"], strict=True)):
        problems = setting_problems(old, new, optimizer.defaults)
        fit.problems += [f"parameter group {index}, {problem}" for problem in problems]
    state = saved.get("state")
    if not isinstance(state, dict) or not all(isinstance(one, dict) for one in _of_torch(optimizer, state)):
        fit.problems.append("state in the checkpoint is not one of each parameter")


def _require_settings(fit: Fit, saved: Any, optimizer: torch.optim.Optimizer) -> None:
    """Another version of a class makes up for a setting that it gained; another class fails without it at a step."""
    for index, group in enumerate(saved.get("param_groups", ()) if isinstance(saved, dict) else ()):
        missing = [name for name in optimizer.defaults if name not in group]
        fit.problems += [f"parameter group {index}, {name}: not in the checkpoint" for name in missing]


def _of_torch(optimizer: torch.optim.Optimizer, state: dict[Any, Any]) -> list[Any]:
    """The states of parameters, where it is known how they are kept."""
    return list(state.values()) if type(optimizer).__module__.startswith("torch.optim.") else []


def _same_parameter(saved: Json, here: Json, cast: bool) -> bool:
    if not isinstance(saved, list) or len(saved) != 2:
        return False
    return (cast or saved[0] == here[0]) and (saved[1] == here[1] or None in (saved[1], here[1]))


def _shown(parameter: Json) -> str:
    return " ".join(str(part) for part in parameter) if isinstance(parameter, list) else str(parameter)


class _Numbers(list[Any]):
    """Numbers of parameters among which one is found at once."""

    def __init__(self, numbers: Iterable[Any]) -> None:
        super().__init__(numbers)
        self._known = frozenset(self)

    def __contains__(self, number: object) -> bool:
        return number in self._known


def _quickly_numbered(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """``state`` for torch's ``load_state_dict``, which searches the numbers of all parameters for each tensor.

    In plain lists that takes a time that grows with the square of their number: seconds for some ten thousands.
    """
    if type(optimizer).load_state_dict is not torch.optim.Optimizer.load_state_dict or "param_groups" not in state:
        return state  # what somebody else's makes of it is not known
    groups = [{**group, "params": _Numbers(group["params"])} for group in state["param_groups"]]
    return {**state, "param_groups": groups}


def _mend(optimizer: torch.optim.Optimizer, saved: Mapping[str, Any]) -> None:
    """Undoes the casts of `load_state_dict`, which forces state to the dtype of its parameter.

    Without this the float32 moments of a bfloat16 parameter lose their bits at every resume.
    """
    if not {"state", "param_groups"} <= saved.keys():
        return  # a class of its own making, whose load_state_dict knows what it does
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    numbers = [number for group in saved["param_groups"] for number in group["params"]]
    for number, parameter in zip(numbers, parameters, strict=True):
        if parameter in optimizer.state:
            state = optimizer.state[parameter]
            optimizer.state[parameter] = _mended(saved["state"].get(number), state)


def _mended(saved: Any, loaded: Any) -> Any:
    if saved is loaded:
        return loaded
    if isinstance(loaded, torch.Tensor):
        kept = isinstance(saved, torch.Tensor) and saved.dtype != loaded.dtype
        return saved.to(loaded.device) if kept else loaded
    if isinstance(loaded, dict) and isinstance(saved, dict):
        return {key: _mended(saved.get(key), value) for key, value in loaded.items()}
    if type(loaded) in (list, tuple) and type(saved) is type(loaded) and len(saved) == len(loaded):
        return type(loaded)(_mended(one, other) for one, other in zip(saved, loaded, strict=True))
    # load_state_dict rebuilds every iterable, which turns a string into the name of a generator object.
    return saved if type(saved) is type(loaded) else loaded
