"""Generators that users hold."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, RandomSampler

from holdfast.errors import MisfitError
from holdfast.state.adapt import adapt
from holdfast.state.generator import find_generators, generator_state, set_generator_state

GENERATORS = {
    "torch": (lambda seed: torch.Generator().manual_seed(seed), lambda g: float(torch.rand((), generator=g))),
    "numpy_pcg": (np.random.default_rng, lambda g: g.random()),
    "numpy_mt": (lambda seed: np.random.Generator(np.random.MT19937(seed)), lambda g: g.random()),
    "numpy_philox": (lambda seed: np.random.Generator(np.random.Philox(seed)), lambda g: g.random()),
    "numpy_legacy": (np.random.RandomState, lambda g: g.randn()),
    "python": (random.Random, lambda g: g.gauss(0, 1)),
}


@pytest.mark.parametrize("name", list(GENERATORS))
def test_a_generator_item_goes_on_with_the_same_numbers(save, load, name):
    """Saved, restored in place into one of another seed, drawn from."""
    make, draw = GENERATORS[name]
    generator, fresh = make(1), make(2)
    draw(generator)
    load(fresh, save(generator))
    assert [draw(generator) for _ in range(3)] == [draw(fresh) for _ in range(3)]


@pytest.mark.parametrize("name", list(GENERATORS))
def test_a_state_is_a_copy(name):
    """Drawing does not change a state that was read, and setting it repeats the numbers."""
    make, draw = GENERATORS[name]
    generator = make(1)
    state = generator_state(generator)
    first = draw(generator)
    set_generator_state(generator, state)
    assert draw(generator) == first


@pytest.mark.parametrize("name", list(GENERATORS))
def test_undo_puts_the_former_state_back(save, load, name):
    """A restore that is taken back does not show in the numbers."""
    make, draw = GENERATORS[name]
    fresh, twin = make(2), make(2)
    load(fresh, save(make(1))).undo()
    assert draw(fresh) == draw(twin)


def test_another_kind_of_generator_is_refused(save):
    """A PCG64 does not take a Mersenne twister's state."""
    record = save(np.random.Generator(np.random.MT19937(1))).record
    with pytest.raises(MisfitError, match="Generator MT19937 generator in the checkpoint, a Generator PCG64 here"):
        adapt("g", np.random.default_rng(0)).prepare(record)


def test_a_state_that_does_not_belong_is_refused():
    """The generator's own error is turned into one of this library."""
    with pytest.raises(MisfitError, match="refused"):
        set_generator_state(random.Random(0), (3, (1, 2), None))


def test_the_generators_of_a_loader_are_found():
    """The loader's, its sampler's and its data set's, each once, by the path to it."""

    class Data(torch.utils.data.Dataset):
        def __init__(self) -> None:
            self.rng = np.random.default_rng(0)
            self.long = [random.Random(0)] * 1000

        def __len__(self) -> int:
            return 4

        def __getitem__(self, index):
            return index

    data, own, other = Data(), torch.Generator(), torch.Generator()
    sampler = BatchSampler(RandomSampler(data, generator=other), 2, False)
    found = find_generators(DataLoader(data, batch_sampler=sampler, generator=own))
    assert {id(generator) for generator in found.values()} == {id(own), id(other), id(data.rng)}
    assert found["generator"] is own
    assert found["dataset.rng"] is data.rng


def test_slots_are_searched_and_properties_are_not_run():
    """Only what is stored on the object is looked at."""

    class Slotted:
        __slots__ = ("absent", "rng")

        def __init__(self) -> None:
            self.rng = random.Random(0)

        @property
        def trap(self):
            raise AssertionError

    assert list(find_generators(Slotted())) == ["rng"]


def test_global_generators_and_what_cannot_be_set_are_not_found():
    """They are captured with the process, or not at all."""
    holder = {
        "t": torch.default_generator,
        "r": random.SystemRandom(),
        "n": np.random.mtrand._rand,
        "m": torch.nn.Linear(1, 1),
    }
    assert find_generators(holder) == {}


def test_cycles_and_depth_are_bounded():
    """An object that holds itself ends the search; what is too deep is not reached."""
    loop: dict[str, object] = {}
    loop["self"] = loop
    loop["a"] = {"b": {"c": {"d": {"e": random.Random(0)}}}}
    assert find_generators(loop) == {}
    assert list(find_generators(loop, depth=5)) == ["a.b.c.d.e"]


def mersenne(pos):
    state = np.random.MT19937(0).state
    return {**state, "state": {**state["state"], "pos": pos}}


PYTHON = random.Random(0).getstate()
REFUSED = {
    "python_index": ("python", (3, (*PYTHON[1][:-1], 625), None)),
    "python_gauss": ("python", (3, PYTHON[1], "x")),
    "python_text": ("python", "x"),
    "python_word": ("python", (3, (None, *PYTHON[1][1:]), None)),
    "numpy_mt_index": ("numpy_mt", mersenne(5000)),
    "numpy_mt_negative": ("numpy_mt", mersenne(-1)),
    "numpy_mt_none": ("numpy_mt", mersenne(None)),
    "numpy_mt_key": ("numpy_mt", {**mersenne(1), "state": {"key": np.zeros(3, np.uint32), "pos": 1}}),
    "numpy_legacy_index": ("numpy_legacy", {**mersenne(500_000_000), "has_gauss": 0, "gauss": 0.0}),
    "numpy_legacy_gauss": ("numpy_legacy", {**mersenne(1), "has_gauss": 1, "gauss": None}),
    "numpy_philox_position": ("numpy_philox", {**np.random.Philox(0).state, "buffer_pos": 5}),
    "numpy_philox_counter": ("numpy_philox", {**np.random.Philox(0).state, "state": {"counter": 0, "key": 0}}),
    "numpy_pcg_float": ("numpy_pcg", {**np.random.PCG64(0).state, "state": {"state": 1.5, "inc": 1}}),
    "numpy_pcg_negative": ("numpy_pcg", {**np.random.PCG64(0).state, "state": {"state": -1, "inc": 1}}),
    "numpy_pcg_half": ("numpy_pcg", {**np.random.PCG64(0).state, "uinteger": 2**70}),
    "numpy_pcg_list": ("numpy_pcg", []),
    "torch_size": ("torch", torch.zeros(9, dtype=torch.uint8)),
    "torch_zeros": ("torch", torch.zeros(5056, dtype=torch.uint8)),
    "torch_floats": ("torch", torch.zeros(5056)),
    "torch_matrix": ("torch", torch.zeros(2, 3, dtype=torch.uint8)),
    "torch_number": ("torch", 3),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_a_state_that_no_generator_can_have_is_refused_and_changes_nothing(name):
    """Whatever a checkpoint holds under its name; an index beyond the words would be read beyond the memory."""
    kind, state = REFUSED[name]
    make, draw = GENERATORS[kind]
    generator, twin = make(1), make(1)
    with pytest.raises(MisfitError, match="refused the saved state"):
        set_generator_state(generator, state)
    assert [draw(generator) for _ in range(3)] == [draw(twin) for _ in range(3)]
