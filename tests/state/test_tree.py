"""Nested values with tensors in them."""

from __future__ import annotations

from collections import OrderedDict, deque

import numpy as np
import pytest
import torch

from holdfast.errors import CorruptError, UnsafeValueError
from holdfast.state.tree import capture_tree, restore_tree


def roundtrip(value):
    tree, sources = capture_tree(value, "item")
    specs = {name: source.spec for name, source in sources.items()}
    restored, targets = restore_tree(tree, specs, "item")
    assert targets.keys() <= sources.keys()
    for name, target in targets.items():
        sources[name].copy_into(target.buffer())
        target.finish()
    return restored


def test_structure_types_and_tensors_come_back():
    """Tuples, int keys and tensors at any depth are what they were."""
    value = OrderedDict(a=({1: torch.arange(3), (2, 3): [np.float32(1.5)]}, None), b=deque([np.arange(4)], maxlen=2))
    found = roundtrip(value)
    assert type(found) is OrderedDict
    assert torch.equal(found["a"][0][1], torch.arange(3))
    assert found["a"][0][2, 3] == [np.float32(1.5)]
    assert np.array_equal(found["b"][0], np.arange(4))
    assert found["b"].maxlen == 2


def test_tensors_are_named_by_their_path():
    """A stranger who opens the shard sees where each tensor belongs."""
    _, sources = capture_tree({"state": {0: {"exp_avg": torch.zeros(1)}}}, "optimizer")
    assert list(sources) == ["state/0/exp_avg"]


def test_paths_that_read_alike_get_names_of_their_own():
    """A slash in a key, or an int beside a str, loses no tensor."""
    value = {"a/b": torch.zeros(1), "a": {"b": torch.ones(1)}, 0: torch.full((1,), 2.0), "0": torch.full((1,), 3.0)}
    found = roundtrip(value)
    assert [float(found["a/b"]), float(found["a"]["b"]), float(found[0]), float(found["0"])] == [0, 1, 2, 3]


def test_a_tensor_met_twice_is_one_tensor_again():
    """Sharing inside a value survives."""
    shared = torch.zeros(2)
    found = roundtrip([shared, shared])
    assert found[0] is found[1]


def test_what_has_no_safe_form_is_refused_with_its_path():
    """A lambda in a param group is named down to its key."""
    with pytest.raises(UnsafeValueError) as caught:
        capture_tree({"param_groups": [{"hook": lambda: None}]}, "optimizer")
    assert caught.value.path == "optimizer/param_groups/0/hook"


@pytest.mark.parametrize("reference", ["absent", 3, None, {"x": 1}])
def test_a_reference_to_nothing_is_corrupt(reference):
    """A tree that names a tensor the checkpoint lacks is refused, not filled with garbage."""
    with pytest.raises(CorruptError, match="refers to a tensor"):
        restore_tree({"$tensor": reference}, {}, "item")


@pytest.mark.parametrize(
    "value",
    [
        torch.float32,
        torch.bfloat16,
        torch.Size([2, 3]),
        torch.device("cuda", 1),
        torch.device("cpu"),
        torch.strided,
        torch.sparse_coo,
        torch.channels_last,
    ],
    ids=str,
)
def test_values_of_torch_are_plain_values(value):
    """Dtypes, sizes, devices, layouts and memory formats come back as themselves."""
    found = roundtrip({"v": value})["v"]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    "hostile",
    [
        {"$torch.dtype": "load"},
        {"$torch.dtype": "os"},
        {"$torch.layout": 3},
        {"$torch.Size": ["a"]},
        {"$torch.Size": [-1]},
        {"$torch.device": "nonsense"},
        {"$torch.memory_format": "hub.load"},
    ],
    ids=str,
)
def test_a_hostile_value_of_torch_is_corrupt(hostile):
    """A name opens only a constant of the right type: nothing is looked up further, nothing is called."""
    with pytest.raises(CorruptError):
        restore_tree(hostile, {}, "item")
