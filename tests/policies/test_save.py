"""Save policies."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast import AtEnd, Every, OnError, OnSignal
from holdfast.errors import UsageError
from holdfast.policies.moment import Moment
from holdfast.policies.save import AnyOf, includes
from holdfast.types import Progress


def between(before: Progress, now: Progress, event: str = "boundary") -> Moment:
    return Moment(previous=before, progress=now, event=event)


@pytest.mark.parametrize(
    ("policy", "before", "now"),
    [
        (Every(steps=5), Progress(step=4), Progress(step=5)),
        (Every(batches=5), Progress(batches=9), Progress(batches=10)),
        (Every(epochs=2), Progress(epoch=1), Progress(epoch=2)),
        (Every(samples=100), Progress(samples=96), Progress(samples=128)),
        (Every(minutes=0.5), Progress(elapsed=29.9), Progress(elapsed=30.0)),
    ],
)
def test_every_is_due_when_a_multiple_is_crossed_and_not_before(policy, before, now):
    """Each unit counts its own field of the progress."""
    assert policy.due(between(before, now)) is not None
    assert policy.due(between(before, before)) is None


@given(interval=st.integers(1, 50), jumps=st.lists(st.integers(0, 120), max_size=40))
def test_no_multiple_is_missed_or_counted_twice_however_counts_jump(interval, jumps):
    """A save is due at a point if and only if a multiple lies in (before, now]."""
    step = 0
    for jump in jumps:
        crossed = any(count % interval == 0 for count in range(step + 1, step + jump + 1))
        due = Every(steps=interval).due(between(Progress(step=step), Progress(step=step + jump)))
        assert (due is not None) == crossed
        step += jump


@pytest.mark.parametrize(
    "arguments",
    [{}, {"steps": 0}, {"steps": -1}, {"steps": 1.5}, {"steps": True}, {"minutes": 0}, {"minutes": math.nan},
     {"minutes": math.inf}, {"epochs": "2"}, {"steps": 5, "epochs": 1}],
)  # fmt: skip
def test_an_interval_that_means_nothing_is_refused_when_constructed(arguments):
    """`Every(steps=0)` is an error at once, not a loop that never saves."""
    with pytest.raises(UsageError):
        Every(**arguments)


@pytest.mark.parametrize(("policy", "event"), [(AtEnd(), "end"), (OnSignal(), "signal"), (OnError(), "error")])
def test_event_policies_answer_to_their_event_only(policy, event):
    """They are due at their event and at no boundary."""
    assert policy.due(between(Progress(), Progress(), event)) is not None
    assert policy.due(between(Progress(), Progress(step=99))) is None


def test_or_is_flat_and_names_every_reason():
    """`a | b | c` is one union, and its reason tells which of them were due."""
    policy = Every(steps=2) | (Every(batches=3) | AtEnd())
    assert isinstance(policy, AnyOf)
    assert len(policy.policies) == 3
    assert (
        policy.due(between(Progress(step=1, batches=2), Progress(step=2, batches=3)))
        == "every 2 steps, every 3 batches"
    )
    assert includes(policy, AtEnd)
    assert not includes(policy, OnError)


def test_or_with_something_else_is_a_type_error():
    """A policy combines with policies only."""
    with pytest.raises(TypeError):
        Every(steps=2) | "every 2 steps"  # type: ignore[operator]
