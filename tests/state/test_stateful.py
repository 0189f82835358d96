"""Schedulers, scalers and anything else with a state."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler as s

from holdfast.errors import MisfitError, UnsafeValueError
from holdfast.state.adapt import adapt


class Warm:
    """A schedule that is an object with a state of its own."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, epoch: int) -> float:
        self.calls += 1
        return 1 / (1 + self.calls)


SCHEDULERS = {
    "lambda": lambda o: s.LambdaLR(o, lambda epoch: 0.9**epoch),
    "lambda_object": lambda o: s.LambdaLR(o, Warm()),
    "one_cycle": lambda o: s.OneCycleLR(o, max_lr=0.5, total_steps=20),
    "cosine": lambda o: s.CosineAnnealingLR(o, T_max=10),
    "cosine_restarts": lambda o: s.CosineAnnealingWarmRestarts(o, T_0=3, T_mult=2),
    "sequential": lambda o: s.SequentialLR(o, [s.ConstantLR(o, 0.1), s.ExponentialLR(o, 0.9)], milestones=[5]),
    "chained": lambda o: s.ChainedScheduler([s.ConstantLR(o, 0.1), s.ExponentialLR(o, 0.9)]),
    "plateau": lambda o: s.ReduceLROnPlateau(o, patience=1),
    "multi_step": lambda o: s.MultiStepLR(o, [2, 5, 5], gamma=0.5),
    "cyclic": lambda o: s.CyclicLR(o, 0.1, 0.5, step_size_up=3),
    "swa": lambda o: torch.optim.swa_utils.SWALR(o, swa_lr=0.05, anneal_epochs=5),
}


def build(make):
    torch.manual_seed(0)
    optimizer = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1, momentum=0.9)
    return optimizer, make(optimizer)


def rates(optimizer, scheduler, steps):
    found = []
    for step in range(steps):
        optimizer.step()
        scheduler.step(*([1.0 + step % 2] if isinstance(scheduler, s.ReduceLROnPlateau) else []))
        found.append(optimizer.param_groups[0]["lr"])
    return found


@pytest.mark.filterwarnings("ignore:To get the last learning rate")
@pytest.mark.parametrize("name", list(SCHEDULERS))
def test_a_restored_scheduler_goes_on_with_the_same_rates(save, load, name):
    """Every scheduler of torch continues bit for bit, restored together with its optimizer."""
    optimizer, scheduler = build(SCHEDULERS[name])
    rates(optimizer, scheduler, 4)
    other, twin = build(SCHEDULERS[name])
    saved = [save(optimizer), save(scheduler)]
    load(other, saved[0])
    load(twin, saved[1])
    assert rates(optimizer, scheduler, 8) == rates(other, twin, 8)
    assert type(scheduler.state_dict().get("milestones")) is type(twin.state_dict().get("milestones"))


def test_a_gradient_scaler_comes_back(save, load):
    """Scale and growth tracker of an enabled scaler."""
    scaler, twin = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=7), torch.amp.GradScaler("cpu")
    scaler.scale(torch.ones(1))
    load(twin, save(scaler))
    assert twin.state_dict() == scaler.state_dict()


def test_a_scaler_that_was_disabled_is_refused_by_an_enabled_one(save, load):
    """Torch's own refusal is turned into one that names the item."""
    with pytest.raises(MisfitError, match=r"scaler: load_state_dict of GradScaler refused"):
        load(torch.amp.GradScaler("cpu"), save(torch.amp.GradScaler("cpu", enabled=False)), "scaler")


class Mean:
    def __init__(self) -> None:
        self.total = torch.zeros(2)
        self.seen = {"count": 0}

    def state_dict(self):
        return {"total": self.total, "seen": self.seen}

    def load_state_dict(self, state):
        self.total, self.seen = state["total"], state["seen"]


def test_a_users_own_class_comes_back(save, load):
    """`state_dict` and `load_state_dict` are all it takes."""
    mean, twin = Mean(), Mean()
    mean.total += 3
    mean.seen["count"] = 4
    load(twin, save(mean))
    assert torch.equal(twin.total, torch.full((2,), 3.0))
    assert twin.seen == {"count": 4}


def test_undo_puts_back_a_state_that_was_changed_since(save, load):
    """What is put back is a copy: the owner changing its own containers in place does not reach it."""
    mean, twin = Mean(), Mean()
    total, seen = twin.total, twin.seen
    restore = load(twin, save(mean))
    total += 5
    seen["count"] = 9
    restore.undo()
    assert torch.equal(twin.total, torch.zeros(2))
    assert twin.seen == {"count": 0}


def test_another_class_is_refused(save):
    """A scheduler exchanged for another does not take over its state."""
    record = save(build(SCHEDULERS["cosine"])[1]).record
    with pytest.raises(MisfitError, match="class CosineAnnealingLR in the checkpoint, MultiStepLR here"):
        adapt("s", build(SCHEDULERS["multi_step"])[1]).prepare(record)


def test_a_duck_typed_optimizer_is_saved_by_its_state(save, load):
    """An optimizer that is not torch's has what any object with a state has."""

    class Duck:
        def __init__(self) -> None:
            self.param_groups = [{"lr": 0.1}]
            self.momentum = {0: torch.zeros(2)}

        def state_dict(self):
            return {"groups": self.param_groups, "momentum": self.momentum}

        def load_state_dict(self, state):
            self.param_groups, self.momentum = state["groups"], state["momentum"]

    duck, twin = Duck(), Duck()
    duck.momentum[0] += 1
    load(twin, save(duck))
    assert torch.equal(twin.momentum[0], torch.ones(2))


def test_an_unsafe_state_is_refused_with_its_path(save):
    """The path leads into the state dict."""
    mean = Mean()
    mean.seen["model"] = Warm()
    with pytest.raises(UnsafeValueError, match="mean/seen/model"):
        save(mean, "mean")
