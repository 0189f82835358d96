"""How positions become batches of ranks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.data.division import Division
from holdfast.errors import UsageError


def job(begin, total, world_size, **options):
    """For each batch, the positions that all ranks together consume, in the order of the ranks."""
    ranks = [Division(rank=rank, world_size=world_size, **options) for rank in range(world_size)]
    counts = {one.count(begin, total) for one in ranks}
    assert len(counts) == 1
    (count,) = counts
    parts = [one.positions(begin, total, 0, count) for one in ranks]
    assert {len(one) for one in parts} == {count}
    return [np.concatenate(batch).tolist() for batch in zip(*parts, strict=True)]


@given(
    total=st.integers(1, 300), begin=st.integers(0, 300), batch_size=st.integers(1, 20), world_size=st.integers(1, 64),
    drop_last=st.booleans(), uneven=st.sampled_from(["pad", "drop"]),
)  # fmt: skip
def test_ranks_together_consume_the_positions_in_order(total, begin, batch_size, world_size, drop_last, uneven):
    """From any position on; only what is dropped is missing, only what pads comes twice, and all ranks have as much."""
    options = {"batch_size": batch_size, "drop_last": drop_last, "uneven": uneven}
    batches = job(begin, total, world_size, **options)
    found = [position for batch in batches for position in batch]
    left = max(total - begin, 0)
    whole = left - left % (batch_size * world_size)
    if drop_last:
        expected = whole
    elif uneven == "drop":
        expected = left - left % (batch_size * world_size) % world_size
    else:
        expected = left
    assert found[:expected] == list(range(begin, begin + expected))
    padding = found[expected:]
    assert len(padding) < world_size
    assert padding == [position % total for position in range(total, total + len(padding))]
    if uneven == "drop" or drop_last:
        assert not padding


@given(
    total=st.integers(1, 300), begin=st.integers(0, 300), batch_size=st.integers(1, 20), world_size=st.integers(1, 8),
    data=st.data(),
)  # fmt: skip
def test_a_part_of_the_batches_is_that_part(total, begin, batch_size, world_size, data):
    """Batches that are asked for in pieces are the ones that come at once."""
    division = Division(batch_size=batch_size, rank=world_size - 1, world_size=world_size, uneven="pad")
    count = division.count(begin, total)
    cut = data.draw(st.integers(0, count))
    whole = division.positions(begin, total, 0, count)
    parts = division.positions(begin, total, 0, cut) + division.positions(begin, total, cut, count)
    assert [one.tolist() for one in parts] == [one.tolist() for one in whole]


@given(total=st.integers(1, 200), batch_size=st.integers(1, 20), batches=st.integers(0, 30), other=st.integers(1, 20))
def test_what_was_reached_is_where_another_job_goes_on(total, batch_size, batches, other):
    """Behind so many batches, one with batches of another size has the rest."""
    division = Division(batch_size=batch_size)
    batches = min(batches, division.count(0, total))
    before = [position for one in division.positions(0, total, 0, batches) for position in one.tolist()]
    after = [
        position for one in job(division.reached(0, total, batches), total, 1, batch_size=other) for position in one
    ]
    assert before + after == list(range(total))


@pytest.mark.parametrize("options", [{"drop_last": True}, {"uneven": "drop", "world_size": 7}])
def test_behind_the_last_batch_everything_is_consumed(options):
    """Also what was left out: another job does not begin with it."""
    division = Division(batch_size=4, **options)
    assert division.reached(0, 10, division.count(0, 10)) == 10


def test_what_cannot_be_shared_evenly_is_refused_with_the_ways_out():
    """Nobody pads or drops somebody's samples unasked."""
    with pytest.raises(UsageError, match=r'2 samples .* 4 ranks.*uneven="pad".*uneven="drop" leaves 2 out.*drop_last'):
        Division(batch_size=2, world_size=4).count(0, 10)
    assert Division(batch_size=2, world_size=4).count(0, 12) == 2
