"""Optimizers as items."""

from __future__ import annotations

import copy

import msgspec
import pytest
import torch
from torch import nn, optim

from holdfast.errors import MisfitError, UnsafeValueError
from holdfast.state.adapt import adapt


def net(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).to(dtype)


def embedding() -> nn.Module:
    torch.manual_seed(0)
    return nn.Embedding(5, 2, sparse=True)


OPTIMIZERS = {
    "sgd": lambda p: optim.SGD(p, lr=0.1),
    "sgd_momentum": lambda p: optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "adam": lambda p: optim.Adam(p, lr=0.1),
    "adam_amsgrad": lambda p: optim.Adam(p, lr=0.1, amsgrad=True),
    "adam_tensor_lr": lambda p: optim.Adam(p, lr=torch.tensor(0.1)),
    "adamw_foreach": lambda p: optim.AdamW(p, lr=0.1, foreach=True),
    "adamw_fused": lambda p: optim.AdamW(p, lr=0.1, fused=True),
    "rmsprop": lambda p: optim.RMSprop(p, lr=0.1, centered=True, momentum=0.5),
    "adagrad": lambda p: optim.Adagrad(p, lr=0.1),
    "nadam": lambda p: optim.NAdam(p, lr=0.1),
    "asgd": lambda p: optim.ASGD(p, lr=0.1),
    "adafactor": lambda p: optim.Adafactor(p, lr=0.1),
    "lbfgs": lambda p: optim.LBFGS(p, lr=0.1, max_iter=3, history_size=3),
}


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    dtype = next(model.parameters()).dtype

    for _ in range(steps):
        x = torch.randn(6, 3, generator=generator).to(dtype)

        def closure(x=x):
            optimizer.zero_grad()
            loss = model(x).float().square().mean()
            loss.backward()
            return loss

        optimizer.step(closure)


def resumed(save, load, make, model, optimizer, dtype=torch.float32):
    """A new process: model and optimizer built anew, both restored."""
    other = net(dtype)
    twin = make(other.parameters())
    saved = save(optimizer)
    other.load_state_dict(model.state_dict())
    load(twin, saved)
    return other, twin


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_a_restored_optimizer_goes_on_bit_for_bit(save, load, name):
    """Saved after three steps and continued for three, weights equal those of the run that went on."""
    model = net()
    optimizer = OPTIMIZERS[name](model.parameters())
    train(model, optimizer, 3, seed=1)
    other, twin = resumed(save, load, OPTIMIZERS[name], model, optimizer)
    train(model, optimizer, 3, seed=2)
    train(other, twin, 3, seed=2)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    assert repr(optimizer.state_dict()) == repr(twin.state_dict())


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_an_optimizer_without_a_step_stays_without_one(save, load, name):
    """Capture fills no state by stepping, and an empty state comes back empty."""
    model = net()
    optimizer = OPTIMIZERS[name](model.parameters())
    before = [p.clone() for p in model.parameters()]
    state = copy.deepcopy(optimizer.state_dict())
    _, twin = resumed(save, load, OPTIMIZERS[name], model, optimizer)
    assert repr(optimizer.state_dict()) == repr(state) == repr(twin.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_sparse_adam_goes_on_bit_for_bit(save, load):
    """Sparse gradients have dense state."""

    def step(model, optimizer):
        model(torch.tensor([1, 3])).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    model, other = embedding(), embedding()
    optimizer, twin = optim.SparseAdam(model.parameters()), optim.SparseAdam(other.parameters())
    step(model, optimizer)
    saved = save(optimizer)
    other.load_state_dict(model.state_dict())
    load(twin, saved)
    step(model, optimizer)
    step(other, twin)
    assert torch.equal(model.weight, other.weight)


class Float32Moments(torch.optim.Optimizer):
    """Keeps its moment in float32 whatever its parameters are, as optimizers for bfloat16 do; and a string."""

    def __init__(self, params):
        super().__init__(params, {"lr": 0.1})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                state.setdefault("moment", torch.zeros_like(p, dtype=torch.float32))
                state.setdefault("history", [])
                state["mode"] = "warm"
                state["moment"].mul_(0.9).add_(torch.full_like(p, 1 / 3).float())
                state["history"].append(state["moment"].clone())
                p.sub_(state["moment"].to(p.dtype))


def test_state_of_another_dtype_than_its_parameter_is_not_cast(save, load):
    """float32 moments of bfloat16 parameters keep their bits, which `load_state_dict` alone would lose."""
    model, other = net(torch.bfloat16), net(torch.bfloat16)
    optimizer, twin = Float32Moments(model.parameters()), Float32Moments(other.parameters())
    optimizer.step()
    optimizer.step()
    load(twin, save(optimizer))
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        here, there = optimizer.state[p], twin.state[q]
        assert there["moment"].dtype == torch.float32
        assert torch.equal(here["moment"], there["moment"])
        assert all(torch.equal(a, b) for a, b in zip(here["history"], there["history"], strict=True))
        assert there["mode"] == "warm"


def test_undo_puts_the_former_state_back(save, load):
    """A restore that is taken back leaves the settings that were there, and nothing where nothing was kept."""
    model, other = net(torch.bfloat16), net(torch.bfloat16)
    optimizer, twin = Float32Moments(model.parameters()), Float32Moments(other.parameters())
    optimizer.step()
    twin.param_groups[0]["lr"] = 0.5
    restore = load(twin, save(optimizer))
    assert not restore.in_place
    assert twin.state
    restore.undo()
    assert not twin.state
    assert twin.param_groups[0]["lr"] == 0.5


@pytest.mark.parametrize("name", ["adamw_fused", "sgd_momentum", "adam_amsgrad", "lbfgs"])
def test_what_an_optimizer_keeps_is_restored_in_place(save, load, name):
    """The same tensors hold the stored values: nothing has to be allocated, and nothing is kept twice."""
    model, other = net(), net()
    optimizer, twin = (OPTIMIZERS[name](one.parameters()) for one in (model, other))
    train(model, optimizer, 3, seed=1)
    train(other, twin, 2, seed=2)
    kept = [dict(one) for one in twin.state.values()]
    restore = load(twin, save(optimizer))
    assert restore.in_place
    for before, now, wanted in zip(kept, twin.state.values(), optimizer.state.values(), strict=True):
        assert all(now[key] is one for key, one in before.items() if isinstance(one, torch.Tensor))
        assert all(torch.equal(now[key], one) for key, one in wanted.items() if isinstance(one, torch.Tensor))


def test_what_shares_its_memory_is_not_filled_in_place(save, load):
    """Moments that are views of one block, or a tensor for two parameters: each gets its own."""
    model, other = net(), net()
    optimizer, twin = (optim.Adam(one.parameters()) for one in (model, other))
    train(model, optimizer, 3, seed=1)
    train(other, twin, 2, seed=2)
    one, two, *_ = twin.state.values()
    one["step"] = two["step"]
    block = torch.zeros(2, *one["exp_avg"].shape)
    one["exp_avg"], one["exp_avg_sq"] = block
    load(twin, save(optimizer))
    for now, wanted in zip(twin.state.values(), optimizer.state.values(), strict=True):
        assert all(torch.equal(now[key], wanted[key]) for key in wanted)
    assert one["step"] is two["step"], "the tensors from before are whoever's they are"
    assert not block.any()


def test_a_changed_model_is_refused_before_anything_changes(save):
    """Parameters are compared by number, shape and dtype, and every difference is listed."""
    model = net()
    optimizer = optim.Adam(model.parameters())
    train(model, optimizer, 1, seed=0)
    other = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2))
    twin = optim.Adam(other.parameters())
    with pytest.raises(MisfitError) as caught:
        adapt("optimizer", twin).prepare(save(optimizer, "optimizer").record)
    assert (
        "parameter group 0, parameter 0: float32 [4, 3] in the checkpoint, float32 [5, 3] here" in caught.value.problems
    )
    assert len(caught.value.problems) == 3
    assert not twin.state


def test_a_changed_number_of_parameters_or_groups_is_refused(save):
    """A layer or a group more or fewer is named."""
    record = save(optim.SGD(net().parameters(), lr=0.1)).record
    with pytest.raises(MisfitError, match="4 parameters in the checkpoint, 2 here"):
        adapt("o", optim.SGD(nn.Linear(3, 4).parameters(), lr=0.1)).prepare(record)
    groups = [{"params": [p]} for p in net().parameters()]
    with pytest.raises(MisfitError, match="1 parameter groups in the checkpoint, 4 here"):
        adapt("o", optim.SGD(groups, lr=0.1)).prepare(record)


def test_another_class_of_optimizer_is_refused(save):
    """Adam's state is not AdamW's."""
    with pytest.raises(MisfitError, match="class Adam in the checkpoint, AdamW here"):
        adapt("o", optim.AdamW(net().parameters())).prepare(save(optim.Adam(net().parameters())).record)


def test_another_class_is_loaded_when_not_strict_if_it_can_step_with_what_is_stored(save, load):
    """Adam's settings are those of AdamW; SGD would miss its own at the next step, and is left as it was."""
    model = net()
    adam = optim.Adam(model.parameters())
    train(model, adam, 2, 0)
    saved = save(adam, "o")
    adamw = optim.AdamW(net().parameters())
    assert load(adamw, saved, "o", strict=False).notes == ("o: class Adam in the checkpoint, AdamW here",)
    assert len(adamw.state) == len(list(model.parameters()))
    sgd = optim.SGD(net().parameters(), lr=0.5, momentum=0.9)
    before = sgd.state_dict()
    with pytest.raises(MisfitError, match="does not fit") as caught:
        load(sgd, saved, "o", strict=False)
    assert "parameter group 0, momentum: not in the checkpoint" in caught.value.problems
    assert sgd.state_dict() == before


def test_a_function_in_a_group_is_refused_with_its_path(save):
    """The path leads to the key of the param group."""
    optimizer = optim.SGD([{"params": net().parameters(), "hook": lambda: None}], lr=0.1)
    with pytest.raises(UnsafeValueError) as caught:
        save(optimizer, "optimizer")
    assert caught.value.path == "optimizer/param_groups/0/hook"


def test_learning_rates_are_numbers():
    """One per group, also where the learning rate is a tensor."""
    first, second = net().parameters(), net().parameters()
    optimizer = optim.Adam([{"params": first, "lr": 0.25}, {"params": second, "lr": torch.tensor(0.5)}])
    assert adapt("o", optimizer).learning_rates() == [0.25, 0.5]


def test_capture_moves_no_version_counter(save):
    """The state's own tensors are referred to, not written."""
    model = net()
    optimizer = optim.AdamW(model.parameters())
    train(model, optimizer, 1, seed=0)
    tensors = [v for s in optimizer.state.values() for v in s.values()] + list(model.parameters())
    versions = [t._version for t in tensors]
    save(optimizer)
    assert versions == [t._version for t in tensors]


def with_group(saved, **changes):
    """The record with other settings in its group; one that is `...` is taken out."""
    (group,) = saved.record.tree["param_groups"]
    group = {key: value for key, value in (group | changes).items() if value is not ...}
    return msgspec.structs.replace(saved.record, tree={**saved.record.tree, "param_groups": [group]})


REFUSED = {
    "lr_absent": {"lr": ...},
    "lr_text": {"lr": "x"},
    "lr_none": {"lr": None},
    "lr_list": {"lr": [0.1]},
    "lr_dict": {"lr": {}},
    "params_absent": {"params": ...},
    "params_short": {"params": [0]},
    "params_nested": {"params": [{}, {}, {}, {}]},
    "betas_number": {"betas": 0.9},
    "betas_short": {"betas": [0.9]},
    "betas_text": {"betas": ["x", "y"]},
    "eps_text": {"eps": "x"},
    "switch_text": {"amsgrad": "x"},
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_settings_that_no_step_could_use_are_refused(save, name):
    """When the checkpoint is fitted, not in the first step after it."""
    optimizer = optim.Adam(net().parameters(), lr=0.1)
    record = with_group(save(optimizer), **REFUSED[name])
    with pytest.raises(MisfitError, match="parameter group 0, "):
        adapt("optimizer", optimizer).prepare(record)


ACCEPTED = {
    "another_version_adds": {"a_new_switch": True},
    "another_version_lacks": {"decoupled_weight_decay": ..., "foreach": ..., "maximize": ...},
    "undecided_switches": {"foreach": True, "fused": None, "amsgrad": None, "maximize": None},
    "whole_numbers": {"lr": 1, "weight_decay": 1},
    "list_for_tuple": {"betas": [0.9, 0.99]},
    "scheduler_was_there": {"initial_lr": 0.1, "swa_lr": None},
}


@pytest.mark.parametrize("name", list(ACCEPTED))
def test_settings_of_another_version_or_script_are_taken(save, load, name):
    """What the checkpoint holds counts, and what it lacks stays as the class has it."""
    model = net()
    optimizer = optim.Adam(model.parameters(), lr=0.1)
    saved = save(optimizer)
    saved.record = with_group(saved, **ACCEPTED[name])
    load(optimizer, saved)
    train(model, optimizer, 1, seed=1)


@pytest.mark.parametrize(("here", "there"), [(0.1, torch.tensor(0.1)), (torch.tensor(0.1), 0.1)])
def test_a_rate_may_be_a_number_or_a_tensor(save, load, here, there):
    """Of one element: they are the same to a step."""
    model = net()
    saved = save(optim.Adam(model.parameters(), lr=there))
    optimizer = optim.Adam(model.parameters(), lr=here)
    load(optimizer, saved)
    train(model, optimizer, 1, seed=1)


@pytest.mark.parametrize("state", [-1, [], {"$dict": [[0, -1]]}])
def test_a_state_that_is_none_is_refused(save, state):
    """The same for what belongs to the parameters."""
    optimizer = optim.Adam(net().parameters(), lr=0.1)
    record = save(optimizer).record
    with pytest.raises(MisfitError, match="state in the checkpoint is not one of each parameter"):
        adapt("optimizer", optimizer).prepare(msgspec.structs.replace(record, tree={**record.tree, "state": state}))


class Number(int):
    """Counts how often it is compared."""

    compared = 0

    def __eq__(self, other: object) -> bool:
        type(self).compared += 1
        return int(self) == other

    __hash__ = int.__hash__


def test_loading_compares_each_parameter_with_a_few_others(save):
    """Torch searches the numbers of all parameters for each tensor of the state, which takes minutes for very many."""
    parameters = [nn.Parameter(torch.ones(1)) for _ in range(300)]
    optimizer = optim.Adam(parameters)
    for parameter in parameters:
        parameter.grad = torch.ones(1)
    optimizer.step()
    fresh = optim.Adam(parameters)
    restore = adapt("optimizer", fresh).prepare(save(optimizer, "optimizer").record)
    (group,) = restore.state["param_groups"]
    group["params"] = [Number(one) for one in group["params"]]
    Number.compared = 0
    restore.apply()
    assert Number.compared < 20 * len(parameters)
    assert type(fresh.state_dict()["param_groups"][0]["params"]) is list
    assert all(one in fresh.state for one in parameters)


def test_an_optimizer_that_loads_by_itself_gets_plain_lists(save, load):
    """What it makes of them is its own business, and is saved again."""

    class Own(optim.SGD):
        def load_state_dict(self, state_dict):
            self.loaded = state_dict
            super().load_state_dict(state_dict)

    optimizer = Own(net().parameters(), lr=0.1)
    load(optimizer, save(optimizer))
    assert type(optimizer.loaded["param_groups"][0]["params"]) is list


def _channels_last() -> nn.Module:
    return nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)


def _transposed() -> nn.Module:
    layer = nn.Conv2d(3, 4, 3)
    layer.weight = nn.Parameter(torch.randn(3, 3, 3, 4).permute(3, 2, 1, 0))
    return layer


class Own(optim.AdamW):
    """Loads its state in a way of its own."""

    def load_state_dict(self, state_dict):
        super().load_state_dict(state_dict)


def _one_by_one() -> nn.Module:
    return nn.Conv2d(3, 4, 1).to(memory_format=torch.channels_last)


@pytest.mark.parametrize("model", [_channels_last, _transposed, _one_by_one])
@pytest.mark.parametrize(
    "make",
    [
        lambda p: optim.Adam(p, fused=True),
        lambda p: optim.SGD(p, lr=0.1, momentum=0.9, fused=True),
        lambda p: Own(p, fused=True),
    ],
    ids=["adam", "sgd", "own"],
)
def test_what_is_kept_of_a_parameter_lies_in_memory_as_that_does(save, load, model, make):
    """A fused step takes the memory of both as it comes: in another order the state would be that of other weights."""

    def steps(model: nn.Module, optimizer: optim.Optimizer, first: int) -> None:
        for seed in range(first, first + 2):
            model(torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(seed))).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()

    torch.manual_seed(0)
    whole, fresh = model(), model()
    optimizer, restored = make(whole.parameters()), make(fresh.parameters())
    steps(whole, optimizer, 0)
    load(fresh, save(whole))
    load(restored, save(optimizer))
    assert all(
        restored.state[one][name].stride() == kept.stride()
        for one, other in zip(fresh.parameters(), whole.parameters(), strict=True)
        for name, kept in optimizer.state[other].items()
    )
    steps(whole, optimizer, 2)
    steps(fresh, restored, 2)
    assert torch.equal(fresh.weight, whole.weight)
