"""Policies that count, against a model that looks at every single count."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast import At, AtMostEvery, Every, OnBest
from holdfast.errors import UsageError
from holdfast.policies.moment import Moment
from holdfast.types import Progress

jumps = st.lists(st.integers(0, 120), max_size=40)


def between(before: Progress, now: Progress, **more: object) -> Moment:
    return Moment(previous=before, progress=now, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("policy", "before", "now"),
    [
        (Every(steps=5), Progress(step=4), Progress(step=5)),
        (Every(batches=5), Progress(batches=9), Progress(batches=10)),
        (Every(epochs=2), Progress(epoch=1), Progress(epoch=2)),
        (Every(samples=100), Progress(samples=96), Progress(samples=128)),
        (Every(tokens=1000), Progress(tokens=999), Progress(tokens=4000)),
        (Every(seconds=10), Progress(elapsed=29.9), Progress(elapsed=30.0)),
        (Every(minutes=0.5), Progress(elapsed=29.9), Progress(elapsed=30.0)),
        (Every(hours=1), Progress(elapsed=3599.9), Progress(elapsed=3600.0)),
    ],
)
def test_every_is_due_when_a_multiple_is_crossed_and_not_before(policy, before, now):
    """Each unit counts its own field of the progress."""
    assert policy.due(between(before, now)) is not None
    assert policy.due(between(before, before)) is None


@given(interval=st.integers(1, 50), jumps=jumps)
def test_no_multiple_is_missed_or_counted_twice_however_counts_jump(interval, jumps):
    """A save is due at a point if and only if a multiple lies in (before, now]."""
    step = 0
    for jump in jumps:
        crossed = any(count % interval == 0 for count in range(step + 1, step + jump + 1))
        due = Every(steps=interval).due(between(Progress(step=step), Progress(step=step + jump)))
        assert (due is not None) == crossed
        step += jump


@given(points=st.lists(st.integers(1, 300), min_size=1, max_size=8), jumps=jumps)
def test_each_given_point_is_reached_once_however_counts_jump(points, jumps):
    """`At` fires at a point or right behind it, and each point belongs to exactly one moment."""
    step, named = 0, list[int]()
    for jump in jumps:
        due = At(steps=points).due(between(Progress(step=step), Progress(step=step + jump)))
        named += [int(one) for one in due.removeprefix("at steps ").split(", ")] if due else []
        step += jump
    assert named == sorted({one for one in points if one <= step})


@given(parts=st.integers(1, 40), total=st.integers(1, 400))
def test_a_fraction_comes_so_often_over_the_run(parts, total):
    """`Every(fraction=1 / n)` over any number of batches fires n times, or at every batch if there are fewer."""
    policy = Every(fraction=1 / parts)
    shares = [done / total for done in range(total + 1)]
    moments = [
        between(Progress(), Progress(), previous_share=before, share=now) for before, now in itertools.pairwise(shares)
    ]
    assert sum(policy.due(one) is not None for one in moments) == min(parts, total)


def test_a_fraction_of_an_unknown_length_is_never_due():
    """In a loop by hand nobody knows how long the run is."""
    assert Every(fraction=0.5).due(between(Progress(), Progress(step=9))) is None


def test_what_was_done_before_the_length_was_known_counts():
    """A save from before says no share: all of the run so far is looked at."""
    late = between(Progress(), Progress(step=9), previous_share=None, saved_share=None, share=0.3)
    assert Every(fraction=0.25).due(late) is not None
    assert (Every(fraction=0.25) & AtMostEvery(steps=5)).due(late) is not None
    assert Every(fraction=0.5).due(late) is None


def test_both_of_two_intervals_have_to_come_round():
    """`&` looks at all since the newest save: no boundary has to be a multiple of both."""
    both = Every(steps=100) & Every(minutes=5)
    saved = Progress(step=100, elapsed=10)
    only_steps = between(Progress(step=199, elapsed=50), Progress(step=200, elapsed=51), saved=saved)
    then_minutes = between(Progress(step=230, elapsed=299), Progress(step=231, elapsed=300), saved=saved)
    assert both.due(only_steps) is None
    assert both.due(then_minutes) == "every 100 steps and every 5 minutes"


def test_a_limit_is_no_reason_by_itself():
    """`AtMostEvery` holds others back until enough has passed since the newest save."""
    policy = OnBest("loss") & AtMostEvery(minutes=5)
    early = between(Progress(), Progress(elapsed=299), logged={"loss": 1.0})
    late = between(Progress(), Progress(elapsed=300), logged={"loss": 1.0})
    assert policy.due(early) is None
    assert policy.remember(early) == {}
    assert policy.due(late) is not None
    assert policy.remember(late) == {"best loss min": 1.0}
    assert policy.due(between(Progress(), Progress(elapsed=900))) is None


@pytest.mark.parametrize(
    ("policy", "now", "reason"),
    [
        (Every(epochs=1), Progress(epoch=1), "every epoch"),
        (Every(tokens=1_000_000), Progress(tokens=1_000_000), "every 1000000 tokens"),
        (AtMostEvery(minutes=1), Progress(elapsed=60), "at most every minute"),
        (Every(hours=1.5), Progress(elapsed=5400), "every 1.5 hours"),
        (Every(fraction=0.07), Progress(), "every 7 % of the run"),
        (Every(steps=1) | Every(steps=1), Progress(step=1), "every step"),
        (Every(steps=1) & Every(steps=1), Progress(step=1), "every step"),
    ],
)
def test_a_reason_reads_well(policy, now, reason):
    """One of a unit is named without its number, a large number in full, and what two say is said once."""
    assert policy.due(between(Progress(), now, previous_share=0.0, share=0.1)) == reason


@pytest.mark.parametrize("kind", [Every, AtMostEvery])
@pytest.mark.parametrize(
    "arguments",
    [{}, {"steps": 0}, {"steps": -1}, {"steps": 1.5}, {"steps": True}, {"minutes": 0}, {"minutes": math.nan},
     {"minutes": math.inf}, {"epochs": "2"}, {"steps": 5, "epochs": 1}],
)  # fmt: skip
def test_an_interval_that_means_nothing_is_refused_when_constructed(kind, arguments):
    """`Every(steps=0)` is an error at once, not a loop that never saves."""
    with pytest.raises(UsageError, match=kind.__name__):
        kind(**arguments)


@pytest.mark.parametrize("fraction", [0, -0.1, 1.5, math.nan])
def test_a_fraction_outside_of_the_run_is_refused(fraction):
    """The run has one length."""
    with pytest.raises(UsageError, match="fraction"):
        Every(fraction=fraction)


@pytest.mark.parametrize(
    "arguments", [{}, {"steps": []}, {"steps": 5}, {"steps": [0]}, {"steps": "12"}, {"steps": [1.5]}]
)
def test_points_that_mean_nothing_are_refused(arguments):
    """A list of whole numbers above 0 is expected, and said."""
    with pytest.raises(UsageError, match="At"):
        At(**arguments)
