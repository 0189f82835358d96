"""The keyed order: a bijection at every size, and as random as `torch.randperm`."""

import itertools
import math

import numpy as np
import pytest
import torch

from holdfast.data import Permutation
from holdfast.data.permutation import LARGEST
from holdfast.errors import UsageError

AWKWARD = (4_095, 4_096, 4_097, 65_535, 65_536, 65_537, 99_991, 1_000_003, 2_097_151)
STRICT = 1e-4
"""Of how many runs of a test with truly random orders one may fail; seeds are fixed, so none does by chance twice."""


def order(length, seed=0, epoch=0):
    return Permutation(length, seed, epoch)(np.arange(length))


@pytest.mark.parametrize("first", range(1, 10_001, 2_000))
def test_every_number_comes_once_at_every_size(first):
    """From 1 to 10,000."""
    for length in range(first, first + 2_000):
        assert np.array_equal(np.sort(order(length, seed=length)), np.arange(length)), length


@pytest.mark.parametrize("length", AWKWARD)
def test_every_number_comes_once_at_awkward_sizes(length):
    """Around powers of two and squares, and primes."""
    assert np.array_equal(np.sort(order(length, seed=7, epoch=3)), np.arange(length))


@pytest.mark.parametrize("length", [10**10, 2**40 - 1, LARGEST - 1, LARGEST])
def test_no_number_comes_twice_in_parts_of_huge_orders(length):
    """Parts anywhere, the ends included."""
    permutation = Permutation(length)
    places = np.unique(np.concatenate([np.linspace(0, length - 1, 50_000).astype(np.int64), np.arange(50_000)]))
    places = places[(places >= 0) & (places < length)]
    found = permutation(places)
    assert len(np.unique(found)) == len(places)
    assert found.min() >= 0
    assert found.max() < length


def test_an_order_is_the_same_for_ever():
    """A run that resumes next year, on another machine, has the order that it began with."""
    assert order(6).tolist() == [0, 3, 2, 5, 4, 1]
    assert Permutation(10**10, seed=1, epoch=2)([0, 1, 9_999_999_999]).tolist() == [
        785609037,
        9462752919,
        4228382732,
    ]
    assert Permutation(5_000, seed=-1)([0, 4_999]).tolist() == [4914, 1996]


def test_any_shape_of_positions_is_answered_in_it():
    """And parts agree with the whole."""
    whole = order(100_000)
    places = np.array([[0, 99_999], [5, 5]])
    assert np.array_equal(Permutation(100_000)(places), whole[places])
    assert Permutation(100_000)([]).shape == (0,)


@pytest.mark.parametrize("position", [-1, 10, 5_000])
@pytest.mark.parametrize("length", [10, 5_000])
def test_a_position_that_there_is_not_is_refused(length, position):
    """Where NumPy would count from the end."""
    if 0 <= position < length:
        pytest.skip("there is one")
    with pytest.raises(UsageError, match=f"no position {position}"):
        Permutation(length)([0, position])


@pytest.mark.parametrize("length", [-1, LARGEST + 1])
def test_a_length_that_cannot_be_is_refused(length):
    """Either half of a position has 31 bits."""
    with pytest.raises(UsageError, match="expected from 0 to"):
        Permutation(length)


# ---- statistics, each one beside what torch.randperm gives


def keyed(length, count):
    return [order(length, seed=5, epoch=epoch) for epoch in range(count)]


def randperm(length, count):
    generator = torch.Generator().manual_seed(5)
    return [torch.randperm(length, generator=generator).numpy() for _ in range(count)]


def surprise(observed, expected, freedom):
    """How improbable a chi-square of so many degrees is, by Wilson and Hilferty's approximation."""
    chi = ((observed - expected) ** 2 / expected).sum()
    z = ((chi / freedom) ** (1 / 3) - (1 - 2 / (9 * freedom))) / math.sqrt(2 / (9 * freedom))
    return math.erfc(abs(z) / math.sqrt(2))


both = pytest.mark.parametrize("orders", [keyed, randperm])


@both
@pytest.mark.parametrize("length", [2, 3, 4, 5])
def test_orders_of_few_are_equally_frequent(orders, length):
    """Each of the 2, 6, 24 or 120, over 200 times as many epochs."""
    names = {one: number for number, one in enumerate(itertools.permutations(range(length)))}
    found = np.bincount([names[tuple(one.tolist())] for one in orders(length, 200 * len(names))], minlength=len(names))
    assert surprise(found, 200.0, len(names) - 1) > STRICT


@both
@pytest.mark.parametrize("length", [20, 4_097, 100_003])
def test_each_number_comes_to_each_place_equally_often(orders, length):
    """Numbers and places in 20 bins each, over the epochs."""
    count = 400_000 // length + 20
    bins = np.zeros((20, 20))
    places = np.arange(length) * 20 // length
    for one in orders(length, count):
        np.add.at(bins, (places, one * 20 // length), 1)
    sizes = np.bincount(places, minlength=20)
    assert surprise(bins, np.outer(sizes, sizes) * count / length, 19 * 19) > STRICT


@both
@pytest.mark.parametrize("length", [4_097, 100_003, 1_000_000])
@pytest.mark.parametrize("lag", [1, 2, 317, 1_000])
def test_neighbours_are_not_alike(orders, length, lag):
    """The serial correlation, which is 0 ± 1/√n; 317 is next to a base of the digits of 100,003."""
    for one in orders(length, 3):
        values = one.astype(np.float64)
        found = np.corrcoef(values[:-lag], values[lag:])[0, 1]
        assert abs(found) < 4.5 / math.sqrt(length)


@both
@pytest.mark.parametrize("length", [4_097, 100_003])
def test_differences_of_neighbours_are_those_of_random_numbers(orders, length):
    """Modulo the length they are spread evenly: an order that steps has few of them."""
    found = np.zeros(64)
    for one in orders(length, 10):
        found += np.bincount((np.diff(one) % length) * 64 // length, minlength=64)
    # A difference of zero never comes, which the first of the bins lacks; at these sizes nobody sees it.
    sizes = np.bincount(np.arange(length) * 64 // length, minlength=64)
    assert surprise(found, sizes * (length - 1) * 10 / length, 63) > STRICT


@both
@pytest.mark.parametrize("length", [1_000, 100_003])
def test_epochs_are_not_alike(orders, length):
    """Neighbouring epochs do not correlate, and about one number stands where it stood before, as Poisson says."""
    several = orders(length, 200)
    fixed = [int((one == other).sum()) for one, other in itertools.pairwise(several)]
    expected = [math.exp(-1), math.exp(-1), math.exp(-1) / 2, 1 - 2.5 * math.exp(-1)]
    found = np.bincount(np.minimum(fixed, 3), minlength=4)
    assert surprise(found, np.array(expected) * len(fixed), 3) > STRICT
    for one, other in itertools.pairwise(several[:20]):
        assert abs(np.corrcoef(one, other)[0, 1]) < 4.5 / math.sqrt(length)


@both
def test_runs_up_are_as_long_as_random_ones(orders):
    """Ascents of two, three and four numbers have probabilities of 1/2, 1/6 and 1/24."""
    length = 100_003
    for one in orders(length, 3):
        up = np.diff(one) > 0
        for steps, share in ((1, 1 / 2), (2, 1 / 6), (3, 1 / 24)):
            runs = np.lib.stride_tricks.sliding_window_view(up, steps).all(axis=1).mean()
            assert abs(runs - share) < 4.5 * math.sqrt(steps * share / length)


def test_seeds_and_lengths_are_other_orders():
    """A neighbouring seed, epoch or length shares nothing that shows."""
    first = order(100_003)
    others = [order(100_003, seed=1), order(100_003, epoch=1), order(100_004)[:-1]]
    for other in others:
        assert abs(np.corrcoef(first, other)[0, 1]) < 4.5 / math.sqrt(100_003)
