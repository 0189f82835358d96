"""What may be an item of the run's state."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from holdfast.errors import CorruptError, UsageError
from holdfast.state.adapt import adapt
from holdfast.state.item import Captured, Item, resolved
from holdfast.types import Alias, Chunk, ItemRecord, TensorRecord


def test_each_object_finds_its_item():
    """By what it is, not by its name."""
    net = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    objects = {
        "module": net,
        "optimizer": optimizer,
        "stateful": torch.optim.lr_scheduler.StepLR(optimizer, 1),
        "container": {},
        "tensor": net.weight,
        "array": np.zeros(1),
        "generator": torch.Generator(),
    }
    assert {kind: adapt(kind, obj).kind for kind, obj in objects.items()} == {kind: kind for kind in objects}
    assert all(isinstance(adapt(kind, obj), Item) for kind, obj in objects.items())


@pytest.mark.parametrize(
    "value", [1, 0.5, True, None, "a", b"a", (1,), frozenset(), np.float32(1), torch.Size([1])], ids=repr
)
def test_immutable_values_are_refused_with_a_pointer_to_values(value):
    """A number cannot be restored in place; `run.values` is where it belongs."""
    with pytest.raises(UsageError, match=r"run\.values\['best'\]"):
        adapt("best", value)


@pytest.mark.parametrize("value", [nn.Linear, object(), lambda: None], ids=["class", "object", "function"])
def test_objects_without_a_state_are_refused(value):
    """The error says what would make the object fit."""
    with pytest.raises(UsageError, match=r"state_dict\(\)|instance"):
        adapt("thing", value)


def test_an_item_of_the_users_own_is_taken_as_it_is():
    """Who implements the protocol needs no adapter."""

    class Own:
        kind = "own"

        def capture(self):
            return Captured(kind="own", tree=None)

        def prepare(self, record, *, strict=True, cast=False):
            raise NotImplementedError

    own = Own()
    assert adapt("own", own) is own


def test_a_run_without_torch_does_not_import_it():
    """Plain state needs no framework."""
    code = "import sys; from holdfast.state.adapt import adapt; adapt('a', {'b': [1]}).capture(); "
    code += "assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_aliases_resolve_across_items():
    """A tensor stored by another item is read from there; an alias to nothing is corrupt."""
    chunk = Chunk(file="f", offsets=(0,), sizes=(2,), begin=0, end=8)
    tensor = TensorRecord(dtype="float32", shape=(2,), chunks=(chunk,))
    items = {
        "model": ItemRecord(kind="module", tree={}, tensors={"weight": tensor}),
        "ema": ItemRecord(kind="module", tree={}, aliases={"weight": Alias("model", "weight")}),
    }
    assert resolved(items, "ema").tensors == {"weight": tensor}
    with pytest.raises(CorruptError, match="alias of model/weight"):
        resolved({"ema": items["ema"]}, "ema")
