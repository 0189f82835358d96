"""An interval that bounds what it costs, in loops with a fake clock."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast import Every, Overhead
from holdfast.errors import UsageError
from holdfast.policies.moment import Costs, Moment
from holdfast.types import Progress

seconds = st.floats(0.001, 10)
costs = st.builds(
    Costs, blocking=seconds, slowdown=st.floats(0, 10), persist=st.floats(0, 100), batch=seconds, measured=st.just(True)
)
fractions = st.floats(0.001, 0.5)


@dataclass(frozen=True)
class Save:
    """One save of a simulated run: when it began, what all those before it took, and how long the last one was ago."""

    begin: float
    spent: float
    since: float
    before: Costs


def simulate(policy: Overhead, steps: Iterable[float], saves: list[Costs], estimate: Costs) -> list[Save]:
    """A loop of ``steps`` seconds each, whose saves cost ``saves`` in turn, until those are used up."""
    found, clock, saved, spent, newest = list[Save](), 0.0, 0.0, 0.0, estimate
    for step in steps:
        clock += step
        moment = Moment(
            previous=Progress(), progress=Progress(elapsed=clock), saved=Progress(elapsed=saved), costs=newest
        )
        if policy.due(moment) is not None:
            found.append(Save(clock, spent, clock - saved, newest))
            if len(found) > len(saves):
                return found
            saved, newest = clock, saves[len(found) - 1]
            spent += newest.training
            clock += newest.training
    return found


@given(
    fraction=fractions, estimate=costs, saves=st.lists(costs, min_size=1, max_size=12),
    steps=st.lists(st.floats(0.01, 1000), min_size=20, max_size=200),
)  # fmt: skip
def test_saving_never_takes_more_than_its_part_of_the_time(fraction, estimate, saves, steps):
    """Whatever saves and steps cost, right before each save all those before it are within the bound."""
    for save in simulate(Overhead(fraction), steps, saves, estimate):
        assert save.spent <= fraction * save.begin * (1 + 1e-9)


@given(saves=st.lists(costs, min_size=1, max_size=8), steps=st.lists(st.floats(0.01, 100), min_size=20, max_size=200))
def test_no_save_is_due_before_the_one_before_it_could_be_written(saves, steps):
    """Also where writing takes longer than the bound asks for, with and without a failure rate."""
    for policy in (Overhead(0.5), Overhead(0.5, mean_time_between_failures=1.0)):
        for save in simulate(policy, steps, saves, saves[0]):
            assert save.since >= save.before.persist


@given(
    fraction=st.floats(0.002, 0.1), blocking=st.floats(0.01, 10), slowdown=st.floats(0, 10),
    factor=st.sampled_from([0.25, 1.0, 4.0]), before=st.integers(3, 10), after=st.integers(1, 10),
)  # fmt: skip
def test_it_uses_most_of_what_it_may_while_the_cost_changes(fraction, blocking, slowdown, factor, before, after):
    """At least two thirds, and no save is forgone, when saves become four times as dear or as cheap midway."""
    first = Costs(blocking=blocking, slowdown=slowdown, measured=True)
    then = Costs(blocking=factor * blocking, slowdown=factor * slowdown, measured=True)
    step = 0.05 * min(first.training, then.training) / fraction
    found = simulate(Overhead(fraction), [step] * 10_000, [first] * before + [then] * after, first)
    assert len(found) == before + after + 1
    for save in found[3:]:
        assert save.spent >= 2 / 3 * fraction * save.begin


def now(since: float, cost: Costs, *, elapsed: float = 1000.0, share: float | None = None, **more: Any) -> Moment:
    return Moment(
        previous=Progress(), progress=Progress(elapsed=elapsed), saved=Progress(elapsed=elapsed - since), share=share,
        costs=cost, **more,
    )  # fmt: skip


def test_a_save_of_a_third_of_a_second_is_due_every_thirty():
    """At 1 %: the time that training stands still and the time that it is slowed down, both earned by a hundred."""
    cost = Costs(blocking=0.1, slowdown=0.2, persist=4, measured=True)
    assert Overhead(0.01).due(now(29.9, cost)) is None
    assert Overhead(0.01).due(now(30.1, cost)) == "overhead 1 % (every 30 s)"


@pytest.mark.parametrize("event", ["start", "end", "signal", "error"])
def test_events_are_no_reason(event):
    """The policies that answer to them are others."""
    assert Overhead(0.01).due(now(900, Costs(), event=event)) is None


def test_it_holds_others_back():
    """Joined by `&`: a save at each step that is asked for, as far as that is affordable."""
    both = Every(batches=1) & Overhead(0.01)
    cost = Costs(blocking=1.0, measured=True)
    progress = {"previous": Progress(), "saved": Progress()}
    assert both.due(Moment(progress=Progress(batches=5, elapsed=99.0), costs=cost, **progress)) is None
    assert both.due(Moment(progress=Progress(batches=5, elapsed=101.0), costs=cost, **progress)) is not None


@given(cost=costs, fraction=fractions, failures=st.floats(1, 1e7))
def test_with_a_failure_rate_the_interval_is_that_of_young_where_it_is_longer(cost, fraction, failures):
    """√(2 × cost × mean time between failures), and never below the bound or the time to write."""
    chosen = Overhead(fraction, mean_time_between_failures=failures).choice(now(0, cost))
    young = math.sqrt(2 * cost.training * failures)
    assert chosen.seconds == max(young, cost.training / fraction, cost.persist)


@given(cost=costs, failures=st.floats(100, 1e7), since=st.floats(1e-3, 1000), share=st.floats(0.001, 1))
def test_what_is_left_of_the_run_is_divided_into_equal_parts(cost, failures, since, share):
    """Neither below the bound nor above the interval that it would be otherwise."""
    policy = Overhead(0.05, mean_time_between_failures=failures)
    longest, shortest = policy.choice(now(since, cost)).seconds, Overhead(0.05).choice(now(since, cost)).seconds
    moment = now(since, cost, share=share)
    chosen = policy.choice(moment).seconds
    assert shortest <= chosen <= longest
    assert moment.left is not None
    parts = (since + moment.left) / chosen
    assert chosen == shortest or parts == 0 or math.isclose(parts, round(parts), rel_tol=1e-9)


def test_the_last_saves_come_at_equal_distances():
    """Of 250 seconds that are left, with an interval of 100: three parts instead of 100, 100 and 50."""
    policy = Overhead(0.5, mean_time_between_failures=5000)
    assert policy.choice(now(0, Costs(blocking=1.0, measured=True), elapsed=250, share=0.5)).seconds == 250 / 3


@pytest.mark.parametrize(
    ("cost", "failures", "said"),
    [
        (Costs(blocking=0.3), None, r"a save, not measured yet, stops training for 0\.3 s, which has to be"),
        (Costs(blocking=0.1, slowdown=0.2, measured=True), None, r"stops .* 0\.1 s and slows it by 0\.2 s, which has"),
        (Costs(blocking=0.1, persist=90, measured=True), None, r"it takes 1 min 30 s to write a save"),
        (Costs(blocking=0.1, measured=True), 1e5, r"with a failure every 1 d 3 h, a save .* pays off every"),
        (Costs(blocking=0.1, measured=True), 1.0, r"has to be at most 1 % of the time"),
    ],
)  # fmt: skip
def test_the_choice_says_what_decided(cost, failures, said):
    """A person can follow why the interval is what it is."""
    choice = Overhead(0.01, mean_time_between_failures=failures).choice(now(0, cost))
    assert re.search(said, choice.because), choice.because


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, math.nan, "0.01", True, None])
def test_a_fraction_that_is_none_is_refused(fraction):
    """All of the time, or none of it, is no bound."""
    with pytest.raises(UsageError, match=r"Overhead\(fraction="):
        Overhead(fraction)


@pytest.mark.parametrize("failures", [0, -1, math.nan, math.inf, "6 hours", True])
def test_a_failure_rate_that_is_none_is_refused(failures):
    """Seconds are expected, and said."""
    with pytest.raises(UsageError, match=r"Overhead\(mean_time_between_failures=.*expected seconds above 0"):
        Overhead(0.01, mean_time_between_failures=failures)
