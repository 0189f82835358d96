"""The process's random numbers."""

from __future__ import annotations

import dataclasses
import random
import subprocess
import sys

import numpy as np
import pytest
import torch

from holdfast.errors import CorruptError
from holdfast.state.torch import rng
from holdfast.state.tree import capture_tree, restore_tree


def draws():
    return (
        random.random(),
        random.gauss(0, 1),
        np.random.rand(),
        np.random.randn(),
        float(torch.rand(())),
        float(torch.randn(())),
    )


def test_restored_generators_give_the_same_numbers():
    """Python's, numpy's and torch's streams repeat, half-used Gaussian pairs included."""
    draws()
    state = rng.capture()
    first = draws()
    assert draws() != first
    assert rng.restore(state) == ()
    assert draws() == first


def test_capturing_draws_nothing():
    """A run that is captured sees the numbers of one that is not."""
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    first = draws()
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    state = rng.capture()
    rng.digest(state)
    rng.to_tree(state)
    assert draws() == first


@pytest.mark.parametrize(
    "draw", [random.random, np.random.rand, lambda: torch.rand(())], ids=["python", "numpy", "torch"]
)
def test_a_draw_from_any_generator_shows(draw):
    """States and digests differ after one number, and agree without."""
    before = rng.capture()
    assert rng.same(before, rng.capture())
    assert rng.digest(before) == rng.digest(rng.capture())
    draw()
    after = rng.capture()
    assert not rng.same(before, after)
    assert rng.digest(before) != rng.digest(after)


def test_a_state_goes_through_a_checkpoint():
    """As nested plain values with tensors, and back."""
    state = rng.capture()
    tree, sources = capture_tree(rng.to_tree(state), "rng")
    value, targets = restore_tree(tree, {name: source.spec for name, source in sources.items()}, "rng")
    for name, target in targets.items():
        sources[name].copy_into(target.buffer())
        target.finish()
    found = rng.from_tree(value)
    assert rng.same(found, state)
    first = draws()
    rng.restore(found)
    assert draws() == first


@pytest.mark.parametrize(
    "change", [{"python": None}, {"torch": torch.zeros(3, dtype=torch.uint8)}, {"cuda": [1]}, {"numpy": {}}]
)
def test_a_state_that_is_none_is_corrupt(change):
    """Refused before any generator is touched."""
    with pytest.raises(CorruptError, match="random number state"):
        rng.from_tree({**rng.to_tree(rng.capture()), **change})


def test_missing_cuda_devices_are_noted():
    """A resume with fewer devices goes on and says so."""
    state = rng.capture()
    more = dataclasses.replace(state, cuda=(torch.zeros(16, dtype=torch.uint8),) * 99)
    notes = rng.restore(more)
    assert "CUDA devices not restored" in notes[0]


def test_numpy_is_left_alone_until_it_is_used():
    """Capturing does not load numpy's generators, whose first use seeds them."""
    code = "import sys; from holdfast.state.torch import rng; s = rng.capture(); assert s.numpy is None; "
    code += "assert 'numpy.random' not in sys.modules; rng.restore(s); assert rng.same(s, rng.capture())"
    subprocess.run([sys.executable, "-c", code], check=True)


BROKEN = [
    ("python", "gauss", "x"),
    ("python", "version", 2),
    ("python", "words", None),
    ("python", "words", np.zeros(625, np.float32)),
    ("python", "words", np.full(625, 625, np.uint32)),
    ("numpy", "state", {"key": np.zeros(624, np.uint32), "pos": 500_000_000}),
    ("numpy", "state", {"key": np.zeros(624, np.uint32), "pos": 625}),
    ("numpy", "state", {"key": np.zeros(624, np.uint32), "pos": -1}),
    ("numpy", "state", {"key": np.zeros(624, np.uint32), "pos": 1.5}),
    ("numpy", "state", {"key": np.zeros(624, np.uint64), "pos": 1}),
    ("numpy", "state", {"key": np.zeros(3, np.uint32), "pos": 1}),
    ("numpy", "state", {"key": [0] * 624, "pos": 1}),
    ("numpy", "state", None),
    ("numpy", "gauss", "x"),
    ("numpy", "has_gauss", None),
    ("numpy", "bit_generator", 3),
    ("numpy", "bit_generator", []),
    ("numpy", "bit_generator", "Philox"),
]


@pytest.mark.parametrize(("generator", "key", "value"), BROKEN)
def test_a_part_of_a_state_that_no_generator_can_have_is_refused(generator, key, value):
    """An index beyond the words of a generator would make it read beyond its memory."""
    np.random.rand()
    tree = rng.to_tree(rng.capture())
    before = rng.capture()
    with pytest.raises(CorruptError, match="random number state"):
        rng.from_tree({**tree, generator: {**tree[generator], key: value}})
    assert rng.same(rng.capture(), before)


@pytest.mark.parametrize("left", [2, 600])
def test_a_state_of_torch_with_more_numbers_left_than_it_has_is_refused(left):
    """Torch looks at the index and at what is left, but not at both together."""
    state = torch.Generator().get_state()
    state[8:24] = torch.tensor(list(left.to_bytes(4, "little") + b"\1\0\0\0" + (624).to_bytes(8, "little")))
    with pytest.raises(CorruptError, match="words left"):
        rng.from_tree({**rng.to_tree(rng.capture()), "torch": state})


def test_a_cuda_state_that_is_none_is_refused():
    """Before a device refuses it, when other generators have been restored."""
    for state in (torch.zeros(5, dtype=torch.uint8), torch.arange(1, 17, dtype=torch.uint8), torch.zeros(16), "x"):
        with pytest.raises(CorruptError, match="random number state"):
            rng.from_tree({**rng.to_tree(rng.capture()), "cuda": [state]})


def test_another_bit_generator_of_numpy_is_checked_and_left_out():
    """It was set as the global one where the checkpoint was made, and is not here."""
    other = np.random.RandomState(np.random.Philox(1)).get_state(legacy=False)
    tree = rng.to_tree(rng.capture())
    assert "was a Philox" in rng.restore(rng.from_tree({**tree, "numpy": other}))[0]
    with pytest.raises(CorruptError, match="buffer_pos"):
        rng.from_tree({**tree, "numpy": {**other, "buffer_pos": -3}})
