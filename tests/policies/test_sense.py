"""Policies that contradict themselves or each other, and what cannot come round."""

from __future__ import annotations

import pytest

from holdfast import (
    At,
    AtEnd,
    AtMostEvery,
    AtStart,
    BeforeDeadline,
    Every,
    KeepAll,
    KeepBest,
    KeepEvery,
    KeepLast,
    KeepSize,
    KeepWithin,
    OnBest,
    OnError,
    OnSignal,
    Overhead,
    Saver,
)
from holdfast.errors import UsageError
from holdfast.policies.sense import metrics_of, uncounted, unreachable
from holdfast.policies.written import written
from holdfast.types import Progress


@pytest.mark.parametrize(
    ("save", "said"),
    [
        (AtEnd() & OnSignal(), r"AtEnd\(\) & OnSignal\(\): one moment is never both"),
        (Every(steps=5) | AtStart() & OnError(), r"AtStart\(\) & OnError\(\)|OnError\(\)"),
        (AtMostEvery(minutes=5), "no reason to save"),
        (Every(steps=5) | AtMostEvery(minutes=5), "no reason to save"),
        (AtMostEvery(minutes=5) & AtMostEvery(steps=5), "no reason to save"),
    ],
)
def test_a_policy_that_contradicts_itself_is_refused_when_constructed(save, said):
    """`AtEnd() & OnSignal()` would silently never save."""
    with pytest.raises(UsageError, match=said):
        Saver(save=save)


@pytest.mark.parametrize(
    "save",
    [
        OnBest("loss") & AtMostEvery(minutes=5),
        (AtEnd() | OnSignal()) & Overhead(0.01) | Every(steps=5),
        Every(steps=3) & Every(minutes=1),
        At(steps=[5]) & At(steps=[9]),
        lambda moment: False,
    ],
)
def test_what_can_be_due_is_taken(save):
    """However it is put together."""
    Saver(save=save)


def test_keeping_the_worst_of_what_is_saved_as_best_is_refused():
    """A `mode` that was forgotten in one of the two would delete the best."""
    with pytest.raises(UsageError, match="Give both the same mode"):
        Saver(save=OnBest("acc", mode="max") | AtEnd(), keep=KeepLast(1) | KeepBest("acc", 2))
    Saver(save=OnBest("acc", mode="max"), keep=KeepBest("acc", 2, mode="max") | KeepBest("loss"))


@pytest.mark.parametrize(
    ("policy", "length", "said"),
    [
        (Every(epochs=11), {"epochs": 10}, ["Every(epochs=11) never comes round: the run has 10 epochs"]),
        (Every(epochs=10), {"epochs": 10}, []),
        (Every(steps=50) | At(batches=[80, 60]), {"batches": 40, "steps": 40}, [
            "Every(steps=50) never comes round: the run has 40 steps",
            "At(batches=[60, 80]) never comes round: the run has 40 batches",
        ]),
        (At(steps=[10, 100, 200]), {"steps": 40},
         ["At(steps=[10, 100, 200]) never comes round at 100, 200: the run has 40 steps"]),
        (At(steps=[10, 40]), {"steps": 40}, []),
        (OnBest("loss") & AtMostEvery(epochs=2), {"epochs": 1},
         ["AtMostEvery(epochs=2) never comes round: the run has 1 epoch"]),
        (Every(samples=10**9) | Every(minutes=5), {"steps": 1}, []),
    ],
)  # fmt: skip
def test_an_interval_beyond_the_run_is_named(policy, length, said):
    """As soon as the length is known, in its own unit."""
    assert unreachable(policy, length) == said


def test_what_counts_something_that_nobody_counts_is_named():
    """Samples are counted by themselves where batches have a leading dimension, tokens never."""
    policy = Every(tokens=1000) | AtEnd() | At(samples=[5]) & AtMostEvery(steps=2) | Every(minutes=1)
    tokens, samples = uncounted(policy, Progress(step=9))
    assert tokens.startswith("Every(tokens=1000) never comes round: no tokens are counted; tell the loop with tokens=")
    assert samples.startswith("At(samples=[5]) never comes round: no samples are counted")
    assert uncounted(policy, Progress(tokens=1, samples=1)) == []


def test_the_metrics_that_policies_wait_for():
    """Each with the policy that does."""
    save, keep = OnBest("a") & AtMostEvery(steps=2) | AtEnd(), KeepLast(2) | KeepBest("b")
    assert metrics_of(save, keep) == {"a": "OnBest('a')", "b": "KeepBest('b')"}


@pytest.mark.parametrize(
    ("policy", "text"),
    [
        (Every(steps=200), "Every(steps=200)"),
        (OnBest("loss", mode="max") | AtEnd(), "OnBest(metric='loss', mode='max') | AtEnd()"),
        ((Every(fraction=0.05) | Every(minutes=10)) & Overhead(0.01),
         "(Every(fraction=0.05) | Every(minutes=10)) & Overhead(fraction=0.01)"),
        (KeepLast(3) | KeepBest("loss", 2), "KeepLast(count=3) | KeepBest(metric='loss', count=2)"),
        (KeepEvery(days=1) | KeepWithin(hours=6) | KeepSize("5 GB") | KeepAll(),
         "KeepEvery(days=1) | KeepWithin(hours=6) | KeepSize(limit='5 GB') | KeepAll()"),
        (At(steps=[9, 5]) | AtStart() | OnError() | OnSignal(exit_code=75),
         "At(steps=[5, 9]) | AtStart() | OnError() | OnSignal(exit_code=75)"),
        (BeforeDeadline(at="2026-11-26T09:00+01:00") | BeforeDeadline(notice="/run/preempt", stop=True),
         "BeforeDeadline(at='2026-11-26T08:00:00+00:00') | BeforeDeadline(notice='/run/preempt', stop=True)"),
    ],
)  # fmt: skip
def test_a_policy_is_shown_as_one_would_write_it(policy, text):
    """Without what it was not given, in records and in `repr`, which errors show."""
    assert written(policy) == repr(policy) == text


def test_a_callable_is_shown_by_its_name():
    """A policy of one's own is shown as Python shows it."""

    def improved(moment):
        return True

    assert written(Every(steps=2) | improved) == "Every(steps=2) | improved"
