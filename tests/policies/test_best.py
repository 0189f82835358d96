"""Saving and keeping what is best."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast import KeepBest, OnBest
from holdfast.errors import UsageError
from holdfast.policies.keep import Kept
from holdfast.policies.moment import Moment
from holdfast.types import Progress

values = st.lists(st.one_of(st.none(), st.floats(-10, 10), st.just(math.nan), st.just(math.inf)), max_size=30)


def saves(policy: OnBest, series: list[float | None], memory: dict[str, Any] | None = None) -> list[int]:
    """At which of the moments a save was due, with what is remembered handed on from one to the next."""
    memory, found = {} if memory is None else memory, list[int]()
    for index, value in enumerate(series):
        logged = {} if value is None else {policy.metric: value}
        moment = Moment(previous=Progress(), progress=Progress(), logged=logged, memory=dict(memory))
        if policy.due(moment) is not None:
            found.append(index)
            memory.update(policy.remember(moment))
    return found


@given(series=values, improvement=st.floats(0, 2))
def test_a_save_is_due_exactly_when_the_value_is_better_than_at_the_last_one(series, improvement):
    """Against a loop over plain numbers; what was not logged, or is no number, is never better."""
    best, expected = None, list[int]()
    for index, value in enumerate(series):
        if value is None or math.isnan(value):
            continue
        if best is None or best - value > improvement:
            best = value
            expected.append(index)
    assert saves(OnBest("loss", improvement=improvement), series) == expected


@given(series=values, at=st.integers(0, 30))
def test_a_restart_anywhere_changes_nothing(series, at):
    """The memory is all there is: a run that was split at any point saves at the same moments."""
    memory: dict[str, Any] = {}
    first = saves(OnBest("loss", mode="max"), series[:at], memory)
    second = saves(OnBest("loss", mode="max"), series[at:], memory)
    assert first + [at + index for index in second] == saves(OnBest("loss", mode="max"), series)


def test_small_steps_add_up():
    """Improvements that are too small one by one are seen once they are enough together."""
    assert saves(OnBest("loss", improvement=1.0), [10, 9.5, 9.1, 8.9, 8.5]) == [0, 3]


def kept(policy: KeepBest, series: list[float | None]) -> dict[str, str]:
    ones = [
        Kept(name=str(index), progress=Progress(step=index), metrics={} if value is None else {"loss": value})
        for index, value in enumerate(series)
    ]
    return dict(policy.reasons(ones))


@given(series=values, count=st.integers(1, 4))
def test_the_best_stay_and_nothing_else(series, count):
    """Against sorting: the lowest different values, each by the first checkpoint that had it."""
    numbers = [value for value in series if value is not None and not math.isnan(value)]
    expected = {str(series.index(value)) for value in sorted(set(numbers))[:count]}
    assert set(kept(KeepBest("loss", count), series)) == expected


def test_a_stale_metric_does_not_fill_the_ranks():
    """Checkpoints after an evaluation carry its value until the next: only the first of them was evaluated."""
    assert set(kept(KeepBest("loss", 2), [0.5, 0.5, 0.5, 0.7, 0.7])) == {"0", "3"}


@pytest.mark.parametrize("kind", [OnBest, KeepBest])
@pytest.mark.parametrize("arguments", [{"metric": ""}, {"metric": 3}, {"metric": "loss", "mode": "lowest"}])
def test_a_metric_that_is_none_is_refused(kind, arguments):
    """With the expected form in the message."""
    with pytest.raises(UsageError, match="expected"):
        kind(**arguments)


def test_the_mode_may_come_second_where_nothing_else_does():
    """`KeepBest` takes a count there, and says how the mode is given."""
    assert OnBest("acc", "max") == OnBest("acc", mode="max")
    with pytest.raises(UsageError, match=r"KeepBest\('acc', 'max'\): .* how many to keep; give mode='max' by name"):
        KeepBest("acc", "max")  # type: ignore[arg-type]


def test_an_improvement_below_nothing_is_refused():
    """It would save what is worse."""
    with pytest.raises(UsageError, match="improvement"):
        OnBest("loss", improvement=-0.1)
