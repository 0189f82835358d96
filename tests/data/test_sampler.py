"""The batch sampler: its order, its position, and who may go on from it."""

import itertools
import random
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import RandomSampler, SubsetRandomSampler, WeightedRandomSampler

from holdfast.data import Permutation, Sampler
from holdfast.errors import DataOrderError, UsageError
from holdfast.state.torch import rng


def flat(batches):
    return [sample for batch in batches for sample in batch]


def test_each_pass_is_an_epoch_in_an_order_of_its_own():
    """Every sample comes once in each."""
    sampler = Sampler(10, batch_size=4, seed=3)
    passes = [list(sampler) for _ in range(3)]
    assert [list(map(len, one)) for one in passes] == [[4, 4, 2]] * 3
    for epoch, one in enumerate(passes):
        assert flat(one) == Permutation(10, 3, epoch)(range(10)).tolist()
        assert {batch.epoch for batch in one} == {epoch}
    assert len({str(one) for one in passes}) == 3
    assert len(sampler) == 3


def test_without_shuffling_samples_come_as_they_are_numbered():
    """As those of torch's SequentialSampler."""
    assert list(Sampler(5, batch_size=2, shuffle=False)) == [[0, 1], [2, 3], [4]]
    assert list(Sampler(5, batch_size=2, shuffle=False, drop_last=True)) == [[0, 1], [2, 3]]


@given(data=st.data(), length=st.integers(1, 200), epochs=st.integers(1, 3))
def test_any_sequence_of_crashes_and_changes_consumes_every_sample_once_an_epoch(data, length, epochs):
    """Another number of ranks and another batch size each time, from the state that any of the ranks has stored."""
    state, seen = None, [[] for _ in range(epochs)]
    while state is None or state["epoch"] < epochs:
        world_size, batch_size = data.draw(st.integers(1, 64)), data.draw(st.integers(1, 40))
        ranks = [
            Sampler(length, batch_size=batch_size, seed=1, uneven="pad", rank=rank, world_size=world_size)
            for rank in range(world_size)
        ]
        for one in ranks if state is not None else ():
            one.load_state_dict(state)
        iterators = [iter(one) for one in ranks]
        crash = data.draw(st.none() | st.integers(0, 6))
        for _ in itertools.count() if crash is None else range(crash):
            parts = [next(one, None) for one in iterators]
            if parts[0] is None:
                assert not any(parts)
                break
            seen[parts[0].epoch] += flat(parts)
            assert len({len(one) for one in parts}) == 1
        state = data.draw(st.sampled_from(ranks)).state_dict()
        assert all(one.state_dict() == state for one in ranks)
    for epoch, samples in enumerate(seen):
        # What pads the last step of a job is at its end, and is consumed once more.
        assert len(samples) - length < 64
        assert samples[:length] == Permutation(length, 1, epoch)(range(length)).tolist()


def test_a_position_far_into_a_huge_epoch_is_reached_at_once():
    """Nothing is drawn to get there, and nothing is held."""
    sampler = Sampler(10**10, batch_size=32)
    sampler.seek(epoch=2, samples=10**9)
    tracemalloc.start()
    try:
        (first, *_), (_, peak) = next(iter(sampler)), tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert first == Permutation(10**10, 0, 2)([10**9])[0]
    assert peak < 50e6


def test_a_state_says_what_was_yielded_and_the_end_of_a_pass_is_the_next_beginning():
    """A state of the middle goes on there; one of behind the end begins the next epoch."""
    sampler = Sampler(10, batch_size=4)
    batches = iter(sampler)
    assert [sampler.state_dict()["samples"] for _ in batches] == [4, 8, 10]
    assert (sampler.state_dict()["epoch"], sampler.state_dict()["samples"]) == (1, 0)
    assert (sampler.state_dict(1)["epoch"], sampler.state_dict(1)["samples"]) == (0, 4)


def test_a_pass_that_is_left_is_over():
    """The next one is another epoch, as with torch's samplers."""
    sampler = Sampler(10, batch_size=4)
    next(iter(sampler))
    assert next(iter(sampler)).epoch == 1


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (Sampler(9, batch_size=4), "length: 10 in the state, 9 here"),
        (Sampler(10, batch_size=4, seed=1), "seed: 0 in the state, 1 here"),
        (Sampler(10, batch_size=4, shuffle=False), "order: shuffled in the state, sequential here"),
        (Sampler(10, batch_size=4, fingerprint="b"), "fingerprint: a in the state, b here"),
        (Sampler(10, batch_size=4), "fingerprint: a in the state, nothing here"),
        (Sampler(10, batch_size=4, weights=np.ones(10)), "order: shuffled in the state, weighted here"),
    ],
)
def test_a_state_of_other_data_or_another_order_is_refused(other, named):
    """By name, and the sampler stays where it is."""
    state = Sampler(10, batch_size=4, fingerprint="a").state_dict()
    state["samples"] = 4
    with pytest.raises(DataOrderError, match=named):
        other.load_state_dict(state)
    assert other.state_dict()["samples"] == 0


@pytest.mark.parametrize(
    "state",
    [{}, {"epoch": 0}, {"epoch": 0, "samples": "x", "identity": {}}, {"epoch": 0, "samples": 1, "identity": 3}],
)
def test_what_is_no_state_is_refused(state):
    """Such as one of another loader."""
    with pytest.raises(DataOrderError, match="no state of a holdfast"):
        Sampler(10, batch_size=4).load_state_dict(state)


def test_a_position_beyond_the_end_is_refused():
    """Of a dataset that has shrunk, say."""
    with pytest.raises(DataOrderError, match="position 11 is beyond the end of an epoch of 10"):
        Sampler(10, batch_size=4).seek(epoch=0, samples=11)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size=0: expected a whole number from 1"),
        ({"batch_size": 2.0}, r"batch_size=2\.0"),
        ({"batch_size": True}, "batch_size=True"),
        ({"length": 0}, "length=0"),
        ({"seed": "a"}, "seed='a'"),
        ({"uneven": "pads"}, "uneven='pads'"),
        ({"rank": 0}, "rank and world_size belong together"),
        ({"rank": 2, "world_size": 2}, "rank=2: expected one from 0 to 1"),
        ({"rank": 0, "world_size": 0}, "world_size=0"),
        ({"rank": 0, "world_size": 20, "uneven": "drop"}, "10 samples make no batch of 4 for 20 ranks"),
        ({"rank": 0, "world_size": 20}, "cannot be shared evenly by 20 ranks"),
        ({"batch_size": 11, "drop_last": True}, "10 samples make no batch of 11 for 1 rank:"),
        ({"weights": [1, 2]}, "weights: expected 10 numbers"),
        ({"weights": [0] * 10}, "and one above 0"),
        ({"weights": [-1] + [1] * 9}, "of at least 0"),
        ({"weights": [float("nan")] + [1] * 9}, "of at least 0"),
        ({"draws": 4}, "give both"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(options, message):
    """With what was expected, when the sampler is made."""
    with pytest.raises(UsageError, match=message):
        Sampler(**{"length": 10, "batch_size": 4, **options})


def test_weights_say_how_often_a_sample_comes():
    """With replacement, and never one of weight 0."""
    weights = np.array([0, 1, 2, 0, 7, 0])
    sampler = Sampler(6, batch_size=1_000, weights=weights, draws=100_000)
    counts = np.bincount(flat(sampler), minlength=6)
    assert counts.sum() == 100_000
    assert (counts[weights == 0] == 0).all()
    assert np.abs(counts / 100_000 - weights / 10).max() < 0.01
    again = Sampler(6, batch_size=7, weights=weights, draws=100_000)
    again.seek(epoch=0, samples=99_990)
    assert flat(again) == flat(Sampler(6, batch_size=10, weights=weights, draws=100_000))[-10:]


@pytest.mark.parametrize(
    "make",
    [
        lambda: RandomSampler(range(50)),
        lambda: RandomSampler(range(50), generator=torch.Generator()),
        lambda: SubsetRandomSampler(range(7, 57)),
        lambda: WeightedRandomSampler([1.0, 2.0, 3.0], 50),
        lambda: [3, 1, 2] * 10,
        lambda: HalfRandom(),
    ],
)
def test_any_sampler_can_be_sought(make):
    """What it yields in an epoch is the same in every process, and the generators of the process do not move."""
    torch.manual_seed(1)
    whole = flat(Sampler.wrap(make(), batch_size=4, seed=1))
    torch.manual_seed(2)
    before = rng.capture()
    other = Sampler.wrap(make(), batch_size=7, seed=1)
    other.seek(epoch=0, samples=20)
    assert flat(other) == whole[20:]
    assert rng.same(before, rng.capture())


class HalfRandom:
    """A sampler of somebody's, that draws from all global generators."""

    def __len__(self):
        return 30

    def __iter__(self):
        for _ in range(10):
            yield random.randrange(100)
            yield int(np.random.randint(100))
            yield int(torch.randint(100, ()))


class Counting:
    """A sampler that is another one each time: it has a state that nobody knows of."""

    passes = 0

    def __len__(self):
        return 10

    def __iter__(self):
        Counting.passes += 1
        return iter([Counting.passes] * 10)


def test_a_sampler_that_is_not_deterministic_is_found_out():
    """By the digest of what it yielded in that epoch."""
    first = Sampler.wrap(Counting(), batch_size=2)
    next(iter(first))
    with pytest.raises(DataOrderError, match=r"samples of epoch 0: [0-9a-f]{16} in the state, [0-9a-f]{16} here"):
        Sampler.wrap(Counting(), batch_size=2).load_state_dict(first.state_dict())


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        (iter([1, 2]), "has no length"),
        ([[1, 2], [3]], "expected numbers of samples"),
        (["a"], "expected numbers of samples"),
    ],
)
def test_what_is_no_sampler_of_single_samples_is_refused(sampler, message):
    """Batches are made here."""
    with pytest.raises(UsageError, match=message):
        list(Sampler.wrap(sampler, batch_size=2))


def test_a_wrapped_sampler_is_told_the_epoch():
    """As a DistributedSampler is by hand."""
    sampler = torch.utils.data.DistributedSampler(range(10), num_replicas=1, rank=0)
    wrapped = Sampler.wrap(sampler, batch_size=5)
    assert flat(wrapped) != flat(wrapped)
    assert sampler.epoch == 1
