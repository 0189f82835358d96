"""How much room a keep policy will need."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast import KeepAll, KeepBest, KeepEvery, KeepLast, KeepSize
from holdfast.policies.forecast import AHEAD, Shortage, shortage
from holdfast.policies.keep import Kept
from holdfast.types import Progress


def made(number: int, size: int = 100) -> Kept:
    return Kept(
        name=str(number), progress=Progress(step=10 * number), metrics={"loss": 1 / number}, created=60.0 * number,
        size=size,
    )  # fmt: skip


@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_last_ones_need_room_for_one_more_than_they_are(count):
    """A checkpoint is committed before another goes: a disk that is too small by one byte is told, a larger one not."""
    needed = 100 * count
    assert shortage(KeepLast(count), [made(1)], needed) is None
    assert shortage(KeepLast(count), [made(1)], needed - 1) == Shortage(count, needed)


def test_what_grows_without_end_is_told_long_before_it_is_full():
    """`KeepAll` and marks need more with every save."""
    assert shortage(KeepAll(), [made(1)], 1000) == Shortage(11, 1100)
    assert shortage(KeepEvery(steps=20) | KeepLast(1), [made(1), made(2)], 600) is not None
    assert shortage(KeepAll(), [made(1)], 100 * AHEAD) is None


def test_the_best_ones_count_as_so_many():
    """Whatever their values will be."""
    assert shortage(KeepBest("loss", 3), [made(1)], 400) is None
    assert shortage(KeepBest("loss", 3), [made(1)], 200) is not None


def test_a_size_settles_at_that_size_and_one_more():
    """The one that is being written comes on top."""
    assert shortage(KeepSize(500), [made(1)], 500) is None
    assert shortage(KeepSize(500), [made(1)], 499) == Shortage(5, 500)


@given(sizes=st.lists(st.integers(1, 50), min_size=1, max_size=6), count=st.integers(1, 4), free=st.integers(0, 500))
def test_a_shortage_is_told_if_and_only_if_a_disk_would_overflow(sizes, count, free):
    """Against saving them one by one on a disk of that size."""
    there = [made(number, size) for number, size in enumerate(sizes, 1)]
    disk, used, full = free + sum(sizes), list(sizes), False
    for _ in range(AHEAD):
        used.append(sizes[-1])
        full = full or sum(used) > disk
        used = used[-count:]
    assert (shortage(KeepLast(count), there, free) is not None) == full
