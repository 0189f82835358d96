"""Keep policies that look at counts, times and sizes, and what they keep while checkpoints come and go."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast import KeepAll, KeepBest, KeepEvery, KeepLast, KeepSize, KeepWithin
from holdfast.errors import UsageError
from holdfast.policies.keep import KeepPolicy, Kept, plan
from holdfast.types import Progress

DAY = 86400.0


def kept(policy: KeepPolicy, checkpoints: list[Kept]) -> list[str]:
    return [name for name, reason in plan(policy, checkpoints, {}).items() if reason is not None]


def made(number: int, **fields: Any) -> Kept:
    return Kept(name=str(number), progress=Progress(step=fields.pop("step", number)), **fields)


def live(policy: KeepPolicy, arriving: list[Kept]) -> list[str]:
    """What is left when after each commit what may go is deleted, as a run does it."""
    there: list[Kept] = []
    for one in arriving:
        there.append(one)
        reasons = plan(policy, there, {one.name: "newest"})
        there = [each for each in there if reasons[each.name] is not None]
    return [one.name for one in there]


@given(steps=st.lists(st.integers(1, 60), max_size=30), interval=st.integers(1, 100))
def test_the_first_at_or_behind_each_mark_stays(steps, interval):
    """Against looking for each mark by itself, with everything still there."""
    counts = [sum(steps[: index + 1]) for index in range(len(steps))]
    ones = [made(index, step=count) for index, count in enumerate(counts)]
    marks = range(interval, max(counts, default=0) + 1, interval)
    expected = {str(next(index for index, count in enumerate(counts) if count >= mark)) for mark in marks}
    assert set(kept(KeepEvery(steps=interval), ones)) == expected


@given(steps=st.lists(st.integers(1, 60), min_size=1, max_size=30), interval=st.integers(1, 100))
def test_deleting_on_the_way_changes_nothing_about_marks(steps, interval):
    """What was kept at a mark is still the first at it when those between the marks are gone."""
    counts = [sum(steps[: index + 1]) for index in range(len(steps))]
    ones = [made(index, step=count) for index, count in enumerate(counts)]
    policy = KeepEvery(steps=interval)
    assert set(live(policy, ones)) == {*kept(policy, ones), ones[-1].name}


@given(
    metrics=st.lists(st.one_of(st.just(math.nan), st.integers(0, 9)), min_size=1, max_size=30), count=st.integers(1, 3)
)
def test_deleting_on_the_way_never_loses_a_best_one(metrics, count):
    """The best of all that ever were are there at the end."""
    ones = [made(index, metrics={"loss": float(value)}) for index, value in enumerate(metrics)]
    policy = KeepBest("loss", count)
    assert set(kept(policy, ones)) <= set(live(policy, ones))


def test_the_first_of_each_day_stays():
    """Days are those of the clock, so a restart or a pause does not move them."""
    ones = [made(index, created=day * DAY) for index, day in enumerate([10.1, 10.9, 11.2, 11.3, 14.0])]
    assert kept(KeepEvery(days=1), ones) == ["0", "2", "4"]


def test_a_clock_that_was_ahead_hides_no_mark():
    """The days that come after it is set right have a first one too."""
    ones = [made(index, created=day * DAY) for index, day in enumerate([1000.5, 10.1, 10.2, 11.3, 12.1])]
    assert kept(KeepEvery(days=1), ones) == ["0", "1", "3", "4"]


def test_a_clock_that_jumps_back_keeps_a_day_once():
    """Each day has one that is its first."""
    ones = [made(index, created=day * DAY) for index, day in enumerate([10.1, 9.5, 10.2, 11.0])]
    assert kept(KeepEvery(days=1), ones) == ["0", "1", "3"]


def test_what_is_recent_stays():
    """Seen from the newest, not from now: a run that was paused for a week loses nothing."""
    ones = [made(index, created=hour * 3600.0) for index, hour in enumerate([0, 5, 6, 11])]
    assert kept(KeepWithin(hours=6), ones) == ["1", "2", "3"]
    assert kept(KeepWithin(hours=6), []) == []


@pytest.mark.parametrize(("limit", "expected"), [(35, ["2", "3"]), ("5 B", ["3"]), ("1 kB", ["0", "1", "2", "3"])])
def test_the_newest_within_a_size_stay(limit, expected):
    """Never none: one that is larger than the limit by itself stays alone."""
    assert kept(KeepSize(limit), [made(index, size=15) for index in range(4)]) == expected


def test_checkpoints_saved_on_an_error_take_no_place():
    """Neither in a count, nor in a size, nor at a mark."""
    ones = [made(index, size=10, on_error=index == 2) for index in range(1, 4)]
    assert kept(KeepLast(2), ones) == ["1", "2", "3"]
    assert kept(KeepSize(20), ones) == ["1", "2", "3"]
    assert kept(KeepEvery(steps=2), ones) == ["3"]


def test_a_union_keeps_what_any_of_them_keeps_with_all_reasons():
    """`|` of policies and of callables, which name what stays."""
    ones = [made(index) for index in range(6)]
    policy = KeepLast(2) | KeepEvery(steps=2) | (lambda checkpoints: [checkpoints[1].name])
    reasons = plan(policy, ones, {})
    assert reasons == {
        "0": None, "1": "<lambda>", "2": "every 2 steps", "3": None, "4": "last 2, every 2 steps", "5": "last 2"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        (KeepEvery(steps=1), "every step"),
        (KeepWithin(days=1), "within 1 day"),
        (KeepSize(500), "within 500 B"),
        (KeepBest("loss"), "best by loss (2)"),
        (KeepLast(1) | KeepLast(1), "last 1"),
    ],
)
def test_a_reason_to_keep_reads_well(policy, reason):
    """With its unit, and once if two policies of a union have the same."""
    assert plan(policy, [made(1, metrics={"loss": 2.0}, created=1.0)], {}) == {"1": reason}


def test_a_rule_that_fails_is_named_with_its_place():
    """Its own error stays what it is."""
    with pytest.raises(ZeroDivisionError) as error:
        plan(KeepLast(1) | (lambda checkpoints: 1 / 0), [made(0)], {})
    assert re.fullmatch(r"raised by the keep policy <lambda> \(.*test_keep_marks\.py:\d+\)", error.value.__notes__[0])


def test_a_rule_may_say_why():
    """A callable that returns a mapping gives reasons of its own."""
    assert plan(KeepLast(1) | (lambda checkpoints: {"0": "dear to me"}), [made(0), made(1)], {})["0"] == "dear to me"


def test_a_rule_may_return_the_checkpoints_themselves():
    """It would be natural, and to take none of them for a name would delete them all."""
    assert kept(KeepLast(1) | (lambda checkpoints: checkpoints[:1]), [made(0), made(1), made(2)]) == ["0", "2"]


@pytest.mark.parametrize("answer", [["step-7"], [7], [None], {"step-7": "mine"}])
def test_a_rule_that_names_what_is_not_there_is_an_error(answer):
    """What it means to keep would otherwise be deleted."""
    with pytest.raises(UsageError, match=r"<lambda> \(.*test_keep_marks\.py:\d+\) names .* is no checkpoint it was"):
        plan(KeepLast(1) | (lambda checkpoints: answer), [made(0), made(1)], {})


def test_everything_may_stay():
    """`KeepAll` is how one says so."""
    assert kept(KeepAll(), [made(0), made(1)]) == ["0", "1"]


@pytest.mark.parametrize(
    "make",
    [lambda: KeepEvery(), lambda: KeepEvery(steps=0), lambda: KeepEvery(steps=1.5), lambda: KeepEvery(days=math.nan),
     lambda: KeepEvery(steps=1, days=1), lambda: KeepWithin(), lambda: KeepWithin(hours=-1),
     lambda: KeepWithin(hours=True), lambda: KeepSize(0), lambda: KeepSize("many"), lambda: KeepSize("5 parsecs"),
     lambda: KeepSize("9" * 400 + " GB"),
     lambda: KeepBest("loss", 0), lambda: KeepLast(2) | 3, lambda: "last 3" | KeepLast(2),
     lambda: KeepLast(1) | KeepAll],
)  # fmt: skip
def test_what_means_nothing_is_refused_when_constructed(make):
    """By name, before anything is saved under it."""
    with pytest.raises(UsageError):
        make()
