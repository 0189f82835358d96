"""Gradients at a boundary: which are pending, and so part of the state, and which are left over."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils.weak import TensorWeakRef

from holdfast.engine.leaves import Target
from holdfast.errors import MisfitError
from holdfast.format.values import decode
from holdfast.state.item import Captured
from holdfast.state.torch.cuda import is_recorded
from holdfast.state.torch.module import Names
from holdfast.state.torch.step_hook import StepHook
from holdfast.state.torch.tensor import TensorSource, target
from holdfast.types import ItemRecord

_WATCHED = 8
"""Parameters of each optimizer whose gradients are followed from step to step, spread over all of them."""


@dataclass(slots=True)
class _Habit:
    """What was seen of one optimizer: whether the loop replaces its gradients between two steps."""

    optimizer: Any
    parameters: list[torch.Tensor] = field(default_factory=list)
    stepping: bool = False
    stepped: bool = False
    left_over: bool = False
    seen: int = 0
    announced: bool = False
    recorded: bool = False
    replaces: bool = True
    after_step: list[tuple[torch.Tensor, TensorWeakRef]] = field(default_factory=list)

    def close_interval(self) -> None:
        """At a boundary. Gradients of a step are then left over if the loop drops them before adding more."""
        groups = getattr(self.optimizer, "param_groups", ())
        if len(self.parameters) != sum(len(group["params"]) for group in groups):
            self.parameters = _optimizer_parameters(self.optimizer)
        self.left_over = self.left_over_now()
        self.announced = self.stepped and not self.recorded
        self.stepping = self.stepped = False

    def left_over_now(self) -> bool:
        """Whether the gradients of this moment are those of a step since the last boundary, which nobody will read."""
        return self.stepped and self.seen > 1 and self.replaces and self._as_left()

    def watched(self, argument: Any) -> Any:
        """An argument of a step. If it is a closure, the step counts as not begun while that is called the first time.

        Trainers compute the whole batch in there: what fails then has interrupted no step.
        """
        if argument is self.optimizer or not callable(argument):
            return argument
        computed = False

        @functools.wraps(argument)
        def closure(*args: Any, **kwargs: Any) -> Any:
            nonlocal computed
            self.stepping = computed
            result = argument(*args, **kwargs)
            self.stepping = computed = True
            return result

        return closure

    def _as_left(self) -> bool:
        """Whether the gradients that there are are those of the step, and not made since."""
        return all(owner.grad is None or owner.grad is reference() for owner, reference in self.after_step)


class Gradients:
    """Knows the pending gradients of ``modules`` and ``optimizers``, and restores them.

    A gradient is pending if the next optimizer step depends on it. Loops that call ``zero_grad()`` at the
    start of an iteration leave gradients behind at each boundary that nobody will read. They are told from
    pending ones by watching: if after each step so far an optimizer's gradients were replaced by new tensors
    before the next one, what stands right after a step is left over. In doubt gradients are
    pending, which costs bytes, not exactness.
    """

    kind = "gradients"

    def __init__(self, modules: Mapping[str, torch.nn.Module], optimizers: Mapping[str, Any]) -> None:
        self._modules, self._optimizers = modules, optimizers
        self._habits: dict[str, _Habit] = {}
        self._hooks: list[Any] = []
        self._counting = True
        self._counted = False
        self._strange = False
        for name, optimizer in optimizers.items():
            self._watch(name, optimizer)
        self._loose = self._unowned()
        self._hooks.append(StepHook(self._before_any_step))

    def _watch(self, name: str, optimizer: Any) -> None:
        """Follows an optimizer by its hooks; one without hooks has none but pending gradients."""
        known = isinstance(optimizer, torch.optim.Optimizer)
        habit = self._habits[name] = _Habit(optimizer if known else None, replaces=known)
        if not known:
            self._wrap_step(habit, optimizer)
            return

        def before(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
            self._before_step(habit)
            return _watched(habit, args, kwargs)

        def after(*_: Any) -> None:
            self._after_step(habit)

        self._hooks += [optimizer.register_step_pre_hook(before), optimizer.register_step_post_hook(after)]
        habit.parameters = _optimizer_parameters(optimizer)

    def _wrap_step(self, habit: _Habit, optimizer: Any) -> None:
        """An optimizer without hooks: its ``step`` is wrapped on the object. Where it cannot be, batches count."""
        step = getattr(optimizer, "step", None)
        if step is None:
            return

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            habit.stepping = True
            args, kwargs = _watched(habit, args, kwargs)
            result = step(*args, **kwargs)
            habit.stepping, habit.stepped = False, True
            habit.seen += 1
            return result

        try:
            optimizer.step = wrapped
        except AttributeError:
            self._counting = False

    def _before_any_step(self, optimizer: torch.optim.Optimizer) -> None:
        """One that this run does not know may have the same parameters, and move no version counter of theirs."""
        known = any(habit.optimizer is optimizer for habit in self._habits.values())
        if not known and not self._strange:
            ours = self.owned | {id(one) for one in self._loose}
            self._strange = any(id(one) in ours for one in _optimizer_parameters(optimizer))

    @property
    def counts_steps(self) -> bool:
        """Whether optimizer steps can be seen; otherwise each batch counts as one."""
        return bool(self._habits) and self._counting

    def _before_step(self, habit: _Habit) -> None:
        habit.stepping = True
        habit.recorded = habit.recorded or is_recorded()
        if habit.after_step:
            kept = any(reference() is not None and reference() is owner.grad for owner, reference in habit.after_step)
            habit.replaces = habit.replaces and not kept

    def _after_step(self, habit: _Habit) -> None:
        habit.stepping, habit.stepped = False, True
        habit.seen += 1
        step = 1 if habit.seen <= 3 else max(1, len(habit.parameters) // _WATCHED)
        watched = [one for one in habit.parameters[::step] if one.grad is not None]
        if not watched:  # the few that are looked at may all be frozen
            watched = [one for one in habit.parameters if one.grad is not None]
        habit.after_step = [(one, TensorWeakRef(one.grad)) for one in watched if one.grad is not None]

    @property
    def owned(self) -> set[int]:
        """Ids of the parameters that an optimizer has."""
        return {id(one) for habit in self._habits.values() for one in habit.parameters}

    def optimized(self) -> list[torch.Tensor]:
        """The parameters of all optimizers, if each of them has hooks that announce a step."""
        habits = self._habits.values()
        hooked = all(habit.optimizer is not None for habit in habits)
        return [one for habit in habits for one in habit.parameters] if hooked else []

    def announced(self) -> list[torch.Tensor]:
        """The tensors that, by what was seen since the boundary before, only steps change that hooks announce.

        Parameters, and what optimizers keep of them. A step that was recorded into a graph is replayed without a word.
        """
        if not self.optimized():
            return []
        found = [one for one in self._habits.values() if one.announced and not _capturable(one.optimizer)]
        kept = [state for one in found for state in one.optimizer.state.values() if isinstance(state, dict)]
        own = [one for state in kept for one in state.values() if isinstance(one, torch.Tensor)]
        return [*(one for habit in found for one in habit.parameters), *own]

    def begin_interval(self) -> None:
        """A boundary: what comes is counted anew."""
        self._counted = self._strange = False
        for habit in self._habits.values():
            habit.close_interval()

    @property
    def stepped(self) -> bool:
        """Whether an optimizer stepped since the last boundary; one that is not in the state, if it has begun to."""
        return self._strange or any(habit.stepped for habit in self._habits.values())

    @property
    def uncounted(self) -> bool:
        """Whether an optimizer stepped since the last boundary and `count_step` was not told."""
        return self.stepped and not self._counted

    def count_step(self) -> None:
        """The steps since the last boundary are counted: a loop was left behind them."""
        self._counted = self.stepped

    @property
    def ever_stepped(self) -> bool:
        """Whether any optimizer's ``step`` was ever called."""
        return any(habit.seen for habit in self._habits.values())

    @property
    def torn(self) -> bool:
        """Whether a step has begun since the last boundary and did not end: parameters may be of two steps."""
        return any(habit.stepping for habit in self._habits.values())

    def clean(self) -> bool:
        """Whether no gradient is pending. Cheap: called at each boundary, after `begin_interval`."""
        owned = (one for habit in self._habits.values() if not habit.left_over for one in habit.parameters)
        return all(one.grad is None for one in owned) and all(one.grad is None for one in self._loose)

    def fingerprint(self) -> list[tuple[str, int, int]]:
        """Which gradients are pending, and how often each was changed in place: equal if none was added to since."""
        return [(path, id(one), one._version) for path, one in self.pending().items()]

    def pending(self, *, now: bool = False) -> dict[str, torch.Tensor]:
        """Every pending gradient of the last boundary, or of ``now``, by its parameter's path, zero ones included."""
        habits = [one for one in self._habits.values() if (one.left_over_now() if now else one.left_over)]
        left = {id(one) for habit in habits for one in habit.parameters}
        return {path: one.grad for path, one in self._named() if one.grad is not None and id(one) not in left}

    def capture(self, pending: Mapping[str, torch.Tensor]) -> Captured:
        """The item that stores ``pending``. All-zero gradients are stored as just that."""
        zero = [path for path, gradient in pending.items() if not torch.count_nonzero(gradient)]
        sources = {path: TensorSource(gradient, path) for path, gradient in pending.items() if path not in set(zero)}
        return Captured(kind=self.kind, tree={"zero": zero}, tensors=dict(sources), metadata={})

    def prepare(self, record: ItemRecord) -> GradientRestore:
        """Raises `MisfitError` if a stored gradient has no parameter."""
        named = dict(self._named())
        zero = list(decode(record.tree)["zero"])
        missing = [path for path in (*record.tensors, *zero) if path not in named]
        if missing:
            message = "gradients: the checkpoint has pending gradients of parameters that are not there"
            raise MisfitError(message, tuple(missing))
        return GradientRestore(named, record, zero)

    def clear(self) -> None:
        """Drops all gradients, as they are where none is pending."""
        for _, one in self._named():
            one.grad = None

    def close(self) -> None:
        """Takes the hooks off the optimizers."""
        for hook in self._hooks:
            hook.remove()

    def _named(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Every parameter once, by item and name, or by its place in an optimizer if no module of the state has it."""
        seen: set[int] = set()
        for path, one in _paths(self._modules, self._optimizers):
            if id(one) not in seen:
                seen.add(id(one))
                yield path, one

    def _unowned(self) -> list[torch.Tensor]:
        owned = self.owned
        return [one for _, one in self._named() if id(one) not in owned]


class GradientRestore:
    """Pending gradients on their way back to their parameters; all others are cleared."""

    def __init__(self, named: dict[str, torch.Tensor], record: ItemRecord, zero: list[str]) -> None:
        self._named, self._zero = named, zero
        self._loaded = {path: torch.empty_like(named[path]) for path in record.tensors}
        self._old: dict[str, torch.Tensor | None] = {}
        self.targets: Mapping[str, Target] = {path: target(one, path) for path, one in self._loaded.items()}
        self.notes: tuple[str, ...] = ()

    def apply(self) -> None:
        self._old = {path: one.grad for path, one in self._named.items()}
        zeros = {path: torch.zeros_like(self._named[path]) for path in self._zero}
        for path, one in self._named.items():
            one.grad = self._loaded.get(path, zeros.get(path))

    def undo(self) -> None:
        for path, gradient in self._old.items():
            self._named[path].grad = gradient


def _watched(habit: _Habit, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return tuple(map(habit.watched, args)), {name: habit.watched(one) for name, one in kwargs.items()}


def _capturable(optimizer: torch.optim.Optimizer) -> bool:
    return any(group.get("capturable") for group in optimizer.param_groups)


def _optimizer_parameters(optimizer: Any) -> list[torch.Tensor]:
    """All of them: one that is frozen now may hold a gradient from before, or be thawed later."""
    return [one for group in optimizer.param_groups for one in group["params"]]


def _paths(modules: Mapping[str, torch.nn.Module], optimizers: Mapping[str, Any]) -> Iterator[tuple[str, torch.Tensor]]:
    for item, module in modules.items():
        names = Names(module)
        for name, one in module.named_parameters():
            yield f"{item}/{names.plain(name)}", one
    for item, optimizer in optimizers.items():
        for number, group in enumerate(getattr(optimizer, "param_groups", ())):
            for index, one in enumerate(group["params"]):
                yield f"{item}/{number}/{index}", one
