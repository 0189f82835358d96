"""Modules as items."""

from __future__ import annotations

import copy

import msgspec
import pytest
import torch
from torch import nn

from holdfast.errors import CorruptError, MisfitError, UnsafeValueError
from holdfast.state.adapt import adapt


class Net(nn.Module):
    def __init__(self, seed: int = 0, width: int = 4) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.body = nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width), nn.ReLU())
        self.head = nn.Linear(width, 2)
        self.register_buffer("scratch", torch.zeros(2), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x))


class Tied(nn.Module):
    def __init__(self, tied: bool = True) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3, bias=False)
        self.second = nn.Linear(3, 3, bias=False)
        if tied:
            self.second.weight = self.first.weight


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))
        self.seen: dict[str, object] = {}

    def get_extra_state(self) -> dict[str, object]:
        return self.seen

    def set_extra_state(self, state: dict[str, object]) -> None:
        self.seen = state


def equal(a: nn.Module, b: nn.Module) -> bool:
    one, other = a.state_dict(), b.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_parameters_and_buffers_come_back_into_the_same_memory(save, load):
    """A restored module has the saved bits, in the tensors that the optimizer and the user already hold."""
    net, fresh = Net(1), Net(2)
    net(torch.randn(5, 3))
    before = [(id(p), p.data_ptr(), p.requires_grad) for p in fresh.parameters()]
    load(fresh, save(net))
    assert equal(net, fresh)
    assert before == [(id(p), p.data_ptr(), p.requires_grad) for p in fresh.parameters()]


def test_capture_leaves_the_module_alone(save):
    """Capture moves no version counter, no gradient and no training flag."""
    net = Net(1).train()
    net(torch.randn(5, 3)).sum().backward()
    tensors = [*net.parameters(), *net.buffers()]
    grads = [p.grad for p in net.parameters()]
    versions = [t._version for t in tensors]
    save(net)
    assert versions == [t._version for t in tensors]
    assert all(a is b for a, b in zip(grads, (p.grad for p in net.parameters()), strict=True))
    assert all(p.requires_grad for p in net.parameters())


def test_training_flags_are_left_to_the_user(save, load):
    """`train()` and `eval()` are calls of the script, not state."""
    fresh = Net(2).eval()
    load(fresh, save(Net(1).train()))
    assert not fresh.training


def test_buffers_that_are_not_persistent_are_not_saved(save):
    """`persistent=False` keeps a buffer out of the checkpoint."""
    assert "scratch" not in save(Net()).record.tensors


@pytest.mark.parametrize("wrapped", ["saved", "loaded", "part", "data_parallel"])
def test_wrappers_leave_no_trace_in_the_names(save, load, wrapped):
    """A checkpoint of a compiled or data-parallel module fits the plain one, and the other way round."""
    net, fresh = Net(1), Net(2)
    plain_names = set(save(net).record.tensors)
    saved_from, loaded_into = net, fresh
    if wrapped == "saved":
        saved_from = torch.compile(net, backend="eager")
    elif wrapped == "loaded":
        loaded_into = torch.compile(fresh, backend="eager")
    elif wrapped == "part":
        fresh.body = torch.compile(fresh.body, backend="eager")
    else:
        saved_from = nn.DataParallel(torch.compile(net, backend="eager"))
    saved = save(saved_from)
    assert set(saved.record.tensors) == plain_names
    load(loaded_into, saved)
    assert torch.equal(net.head.weight, fresh.head.weight)
    assert torch.equal(net.body[0].weight, next(fresh.body.parameters()))


def test_distributed_data_parallel_leaves_no_trace_in_the_names(save, load, tmp_path):
    """DDP's `module.` is a wrapper's, and goes."""
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        saved = save(nn.parallel.DistributedDataParallel(Net(1)))
    finally:
        torch.distributed.destroy_process_group()
    fresh = Net(2)
    load(fresh, saved)
    assert equal(fresh, Net(1))


def test_averaged_models_keep_their_module_prefix(save, load):
    """AveragedModel's `module.` is part of its own state, beside its counter."""
    ema, fresh = torch.optim.swa_utils.AveragedModel(Net(1)), torch.optim.swa_utils.AveragedModel(Net(2))
    ema.update_parameters(Net(3))
    saved = save(ema)
    assert "module.head.weight" in saved.record.tensors
    assert "n_averaged" in saved.record.tensors
    load(fresh, saved)
    assert equal(ema, fresh)


def test_tied_parameters_are_stored_once_and_stay_tied(save, load):
    """Two names of one memory are one stored tensor and an alias."""
    tied, fresh = Tied(), Tied()
    saved = save(tied)
    assert list(saved.record.tensors) == ["first.weight"]
    assert saved.record.aliases["second.weight"].tensor == "first.weight"
    load(fresh, saved)
    assert fresh.first.weight is fresh.second.weight
    assert torch.equal(fresh.first.weight, tied.first.weight)


def test_a_tied_checkpoint_fills_an_untied_model(save, load):
    """Every name of the saved model has its bytes, aliases too."""
    tied, fresh = Tied(), Tied(tied=False)
    load(fresh, save(tied))
    assert torch.equal(fresh.second.weight, tied.first.weight)


def test_extra_state_comes_back_as_tagged_values(save, load):
    """`get_extra_state` may return nested values with tensors, which need no pickle."""
    net, fresh = Counting(), Counting()
    net.seen = {"steps": (1, 2), "mean": torch.arange(3.0)}
    load(fresh, save(net))
    assert fresh.seen["steps"] == (1, 2)
    assert torch.equal(fresh.seen["mean"], torch.arange(3.0))


def test_undo_puts_extra_state_back(save, load):
    """What `apply` replaced is replaced again."""
    net, fresh = Counting(), Counting()
    net.seen, fresh.seen = {"a": 1}, {"b": 2}
    load(fresh, save(net)).undo()
    assert fresh.seen == {"b": 2}


def test_versions_of_modules_reach_their_loading_hooks(save, load):
    """A module whose layout changed is told the version that wrote the state."""
    told: list[int | None] = []

    class Versioned(nn.Linear):
        _version = 3

        def _load_from_state_dict(self, state_dict, prefix, metadata, *args):
            told.append(metadata.get("version"))
            super()._load_from_state_dict(state_dict, prefix, metadata, *args)

    saved = save(nn.Sequential(Versioned(2, 2)))
    load(nn.Sequential(Versioned(2, 2)), saved)
    assert told == [3]


def test_versions_that_were_written_as_one_stay_one(save, load):
    """A module that gained a version since is told 1, not its own."""
    told: list[int | None] = []

    class Layer(nn.Linear):
        def _load_from_state_dict(self, state_dict, prefix, metadata, *args):
            told.append(metadata.get("version"))
            super()._load_from_state_dict(state_dict, prefix, metadata, *args)

    saved = save(Layer(2, 2))
    Layer._version = 2
    load(Layer(2, 2), saved)
    assert told == [1]


@pytest.mark.parametrize("hook", ["register_load_state_dict_pre_hook", "register_load_state_dict_post_hook"])
def test_hooks_of_any_part_hear_of_the_load(save, load, hook):
    """Tensors that were read in place need no `load_state_dict`, but what listens to it does."""
    heard: list[nn.Module] = []
    net, fresh = nn.Sequential(nn.Linear(2, 2)), nn.Sequential(nn.Linear(2, 2))
    getattr(fresh[0], hook)(lambda module, *_: heard.append(module))
    load(fresh, save(net))
    assert heard == [fresh[0]]


def test_a_load_state_dict_of_the_module_s_own_is_called(save, load):
    """It may do more than to copy."""

    class Own(nn.Linear):
        def load_state_dict(self, *args, **kwargs):
            self.loaded = True
            return super().load_state_dict(*args, **kwargs)

    net, fresh = Own(2, 2), Own(2, 2)
    load(fresh, save(net))
    assert fresh.loaded
    assert equal(net, fresh)


def test_no_name_is_looked_at_once_for_each_child(save, load, monkeypatch):
    """As `load_state_dict` of a flat list of 2,500 layers does, for a second; it has nothing to do here."""
    net, fresh = nn.ModuleList(nn.Linear(2, 2) for _ in range(9)), nn.ModuleList(nn.Linear(2, 2) for _ in range(9))
    saved = save(net)
    looked: list[str] = []
    plain = nn.Module._load_from_state_dict
    monkeypatch.setattr(
        nn.Module, "_load_from_state_dict", lambda self, state, *rest: (looked.extend(state), plain(self, state, *rest))
    )
    load(fresh, saved)
    assert equal(net, fresh)
    assert looked == []


def test_a_graph_that_needs_the_old_values_fails_after_a_load(save, load):
    """Its gradients would be those of values that are gone."""
    net, fresh = nn.Linear(2, 2), nn.Linear(2, 2)
    loss = fresh(torch.randn(3, 2, requires_grad=True)).sum()
    load(fresh, save(net))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_a_module_that_does_not_fit_is_refused_with_every_difference(save):
    """Missing, unexpected, reshaped and retyped leaves are all listed, and nothing is changed."""
    net, other = Net(1), Net(2)
    other.head = nn.Linear(4, 3)
    other.body[0] = other.body[0].double()
    other.extra = nn.Parameter(torch.zeros(1))
    del other.body[1]
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(MisfitError) as caught:
        adapt("model", other).prepare(save(net, "model").record)
    text = "\n".join(caught.value.problems)
    assert "head.weight: shape [2, 4] in the checkpoint, [3, 4] here" in text
    assert "body.0.weight: dtype float32 in the checkpoint, float64 here" in text
    assert "extra: missing" in text
    assert "body.1.running_mean: unexpected" in text
    assert all(torch.equal(before[key], value) for key, value in other.state_dict().items())


def test_a_cast_happens_only_when_asked_for_and_is_reported(save, load):
    """float64 does not become float32 by itself."""
    net, fresh = nn.Linear(2, 2).double(), nn.Linear(2, 2)
    saved = save(net, "model")
    with pytest.raises(MisfitError, match="float64"):
        adapt("model", fresh).prepare(saved.record)
    restore = load(fresh, saved, "model", cast=True)
    assert torch.equal(fresh.weight, net.weight.float())
    assert "model/weight: converted from float64 to float32" in restore.notes


def test_what_fits_is_loaded_when_not_strict(save, load):
    """`strict=False` loads the intersection and notes the rest."""
    net, other = Net(1), Net(2)
    other.head = nn.Linear(4, 3)
    other.extra = nn.Parameter(torch.zeros(1))
    del other.body[1]
    head = other.head.weight.clone()
    restore = load(other, save(net), strict=False)
    assert torch.equal(other.body[0].weight, net.body[0].weight)
    assert torch.equal(other.head.weight, head)
    assert not any(name.startswith(("head", "body.1")) for name in restore.targets)
    assert any("extra: missing" in note for note in restore.notes)


def test_a_lazy_module_is_refused_until_it_has_a_shape(save):
    """A parameter without a shape cannot be saved; the error says how to give it one."""
    with pytest.raises(UnsafeValueError, match="forward pass") as caught:
        save(nn.Sequential(nn.LazyLinear(2)), "model")
    assert caught.value.path == "model/0.weight"


def test_a_lazy_module_takes_its_shape_from_the_checkpoint(save, load):
    """A resume need not run a forward pass first."""
    net, fresh = nn.LazyLinear(2), nn.LazyLinear(2)
    net(torch.randn(1, 3))
    load(fresh, save(net))
    assert torch.equal(net.weight, fresh.weight)


def test_hooks_that_rewrite_the_state_are_honoured(save, load):
    """A state that is not the parameters themselves goes through `load_state_dict`."""

    class Fused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qk = nn.Parameter(torch.randn(4, 2))
            self.register_state_dict_post_hook(self.split)
            self.register_load_state_dict_pre_hook(self.join)

        @staticmethod
        def split(module, state, prefix, metadata):
            qk = state.pop(f"{prefix}qk")
            state[f"{prefix}q"], state[f"{prefix}k"] = qk[:2] * 2, qk[2:] * 2

        @staticmethod
        def join(module, state, prefix, *args):
            state[f"{prefix}qk"] = torch.cat([state.pop(f"{prefix}q"), state.pop(f"{prefix}k")]) / 2

    net, fresh = Fused(), Fused()
    saved = save(net)
    assert set(saved.record.tensors) == {"q", "k"}
    load(fresh, saved)
    assert torch.equal(net.qk, fresh.qk)


@pytest.mark.parametrize(
    "change",
    [nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm],
)
def test_parametrized_modules_come_back(save, load, change):
    """Parametrizations are ordinary names in the state."""
    net, fresh = change(nn.Linear(3, 3)), change(nn.Linear(3, 3))
    net(torch.randn(2, 3))
    load(fresh, save(net))
    assert equal(net, fresh)


def test_a_module_whose_state_dict_takes_no_arguments(save, load):
    """An overridden `state_dict(self)` without `keep_vars` is called as it is."""

    class Own(nn.Linear):
        def state_dict(self):
            return {"w": self.weight}

        def load_state_dict(self, state, strict=True):
            with torch.no_grad():
                self.weight.copy_(state["w"])

    net, fresh = Own(2, 2), Own(2, 2)
    load(fresh, save(net))
    assert torch.equal(net.weight, fresh.weight)


def test_another_kind_of_object_under_the_name_is_refused(save):
    """A module's checkpoint does not load into an optimizer."""
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with pytest.raises(MisfitError, match=r"'x'.*module; here: optimizer"):
        adapt("x", optimizer).prepare(save(net, "x").record)


@pytest.mark.parametrize("versions", [-1, [1], {"": -1}, {"0": {"version": "x"}}])
def test_versions_that_are_none_are_corrupt(save, versions):
    """Layers read them when they load, after tensors have been read in place."""
    model = nn.BatchNorm1d(2)
    record = msgspec.structs.replace(save(model).record, metadata={"versions": versions})
    with pytest.raises(CorruptError, match="versions"):
        adapt("model", model).prepare(record)


def test_a_name_that_refers_to_another_ones_tensor_is_refused(save):
    """It would be read into the wrong place, and loaded from there."""
    model = nn.Linear(2, 2)
    record = msgspec.structs.replace(
        save(model).record, tree={"weight": {"$tensor": "bias"}, "bias": {"$tensor": "bias"}}
    )
    with pytest.raises(MisfitError, match="weight: refers to the tensor of another name"):
        adapt("model", model).prepare(record)
