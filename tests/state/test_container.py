"""Dicts and lists as items."""

from __future__ import annotations

import random
from collections import Counter, OrderedDict, defaultdict, deque

import numpy as np
import pytest
import torch
from torch import nn

from holdfast.errors import MisfitError
from holdfast.state.adapt import adapt


@pytest.mark.parametrize(
    ("value", "fresh"),
    [
        ({"loss": [0.5, 0.25], 3: (1, {"a": None})}, {"loss": []}),
        ([1, [2, {"a": 3}]], [0]),
        (OrderedDict(b=1, a=2), OrderedDict(a=0)),
        (defaultdict(list, a=[1]), defaultdict(list)),
        (Counter("abca"), Counter(a=9)),
        (deque([1, 2], maxlen=3), deque(maxlen=3)),
        ({1, 2}, {3}),
        (bytearray(b"abc"), bytearray(b"z")),
    ],
    ids=lambda value: type(value).__name__,
)
def test_plain_values_are_replaced_in_the_same_container(save, load, value, fresh):
    """The object that the script holds receives the saved contents, in their order."""
    inner = {"loss": fresh["loss"]} if isinstance(fresh, dict) and "loss" in fresh else {}
    load(fresh, save(value))
    assert fresh == value
    assert type(fresh) is type(value)
    assert list(fresh) == list(value)
    assert all(fresh[key] is part for key, part in inner.items())


def test_undo_puts_the_former_contents_back(save, load):
    """Also of the containers inside, which stay the same objects."""
    fresh = {"a": [1], "b": 2}
    inner = fresh["a"]
    load(fresh, save({"a": [5, 6], "c": 7})).undo()
    assert fresh == {"a": [1], "b": 2}
    assert fresh["a"] is inner


def state(seed: int) -> dict[str, object]:
    torch.manual_seed(seed)
    net = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    net(torch.randn(1, 2)).sum().backward()
    optimizer.step()
    return {
        "nets": [net, {"deep": nn.Linear(2, 3)}],
        "optimizer": optimizer,
        "queue": torch.randn(3),
        "array": np.full(2, float(seed)),
        "rng": random.Random(seed),
        "pair": (torch.Generator().manual_seed(seed), seed),
        "epoch": seed,
    }


def test_objects_with_a_state_are_restored_in_place_at_any_depth(save, load):
    """Modules, optimizers, generators, tensors and arrays stay the objects that they are; plain values change."""
    saved, fresh = state(1), state(2)
    objects = [fresh["nets"][0], fresh["nets"][1]["deep"], fresh["optimizer"], fresh["queue"], fresh["array"]]
    before = [saved["rng"].getstate(), saved["pair"][0].get_state()]
    load(fresh, save(saved))
    after = [fresh["nets"][0], fresh["nets"][1]["deep"], fresh["optimizer"], fresh["queue"], fresh["array"]]
    assert all(a is b for a, b in zip(objects, after, strict=True))
    assert torch.equal(fresh["nets"][0].weight, saved["nets"][0].weight)
    assert torch.equal(fresh["nets"][1]["deep"].bias, saved["nets"][1]["deep"].bias)
    momentum = [o["optimizer"].state_dict()["state"][0]["momentum_buffer"] for o in (saved, fresh)]
    assert torch.equal(*momentum)
    assert torch.equal(fresh["queue"], saved["queue"])
    assert np.array_equal(fresh["array"], saved["array"])
    assert fresh["rng"].getstate() == before[0]
    assert torch.equal(fresh["pair"][0].get_state(), before[1])
    assert (fresh["pair"][1], fresh["epoch"]) == (1, 1)


def test_undo_reaches_the_objects_inside(save, load):
    """An optimizer and a generator in a dict get their former states back."""
    fresh = state(2)
    rng, lr = fresh["rng"].getstate(), fresh["optimizer"].param_groups[0]["lr"]
    saved = state(1)
    saved["optimizer"].param_groups[0]["lr"] = 7.0
    load(fresh, save(saved)).undo()
    assert fresh["rng"].getstate() == rng
    assert fresh["optimizer"].param_groups[0]["lr"] == lr


def test_tensors_that_changed_their_shape_are_replaced(save, load):
    """A plain tensor in a dict is data: a history that has grown comes back whole."""
    fresh = {"history": torch.zeros(1), "array": np.zeros(1)}
    load(fresh, save({"history": torch.arange(5.0), "array": np.arange(3), "new": torch.ones(2)}))
    assert torch.equal(fresh["history"], torch.arange(5.0))
    assert np.array_equal(fresh["array"], np.arange(3))
    assert torch.equal(fresh["new"], torch.ones(2))


def test_a_read_only_array_is_replaced(save, load):
    """An array that cannot be written gives way to one that has the values."""
    fresh = {"a": np.zeros(2)}
    fresh["a"].flags.writeable = False
    load(fresh, save({"a": np.ones(2)}))
    assert np.array_equal(fresh["a"], np.ones(2))


def test_a_parameter_in_a_container_must_fit(save):
    """What is being trained is not exchanged for something else."""
    with pytest.raises(MisfitError, match=r"p: shape \[3\] in the checkpoint, \[2\] here"):
        adapt("c", {"p": nn.Parameter(torch.zeros(2))}).prepare(save({"p": nn.Parameter(torch.zeros(3))}).record)


def test_parameters_in_a_container_stay_tied_or_apart(save, load):
    """Else an optimizer would go on with one that is no longer in it."""
    both, other = nn.Parameter(torch.ones(2)), nn.Parameter(torch.zeros(2))
    tied, apart, one = ({"p": both, "q": both}, {"p": both, "q": other}, {"p": both})
    with pytest.raises(MisfitError, match="q: missing"):
        adapt("c", apart).prepare(save(tied).record)
    with pytest.raises(MisfitError, match="q: the same tensor as p here"):
        adapt("c", tied).prepare(save(apart).record)
    with pytest.raises(MisfitError, match="q: missing"):
        adapt("c", apart).prepare(save(one).record)
    fresh = nn.Parameter(torch.zeros(2))
    loaded = {"p": fresh, "q": fresh}
    load(loaded, save(tied))
    assert loaded["p"] is loaded["q"] is fresh
    assert torch.equal(fresh, both)


def test_every_object_that_does_not_fit_is_listed(save):
    """Missing, unexpected and changed objects in a container are refused together."""
    saved = save({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2), "n": 1}, "c")
    fresh = {"a": nn.Linear(2, 3), "d": nn.Linear(1, 1), "n": 5}
    with pytest.raises(MisfitError) as caught:
        adapt("c", fresh).prepare(saved.record)
    text = "\n".join(caught.value.problems)
    assert "a/weight: shape [2, 2] in the checkpoint, [3, 2] here" in text
    assert "b: unexpected" in text
    assert "d: missing" in text
    assert fresh["n"] == 5


def test_another_type_of_container_is_refused(save):
    """A list does not load into a dict."""
    with pytest.raises(MisfitError, match="a list in the checkpoint, a dict here"):
        adapt("c", {}).prepare(save([1]).record)


def test_a_module_met_twice_is_stored_once(save, load):
    """Two places of one module share their bytes, and both are restored."""
    net, twin = nn.Linear(2, 2), nn.Linear(2, 2)
    saved = save({"a": net, "b": net})
    assert set(saved.record.tensors) == {"a/weight", "a/bias"}
    load({"a": twin, "b": twin}, saved)
    assert torch.equal(net.weight, twin.weight)
