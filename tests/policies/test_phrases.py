"""Policies in words."""

from __future__ import annotations

import re
from dataclasses import replace

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
    KeepWhen,
    KeepWithin,
    OnBest,
    OnError,
    OnSignal,
    Overhead,
    When,
)
from holdfast.errors import UsageError
from holdfast.policies.phrases import _KEEP, _SAVE, keep_policy, save_policy

HALF_A_MINUTE = BeforeDeadline(notice="/run/preempt", grace=30)


@pytest.mark.parametrize(
    ("phrase", "policy"),
    [
        ("every 200 steps", Every(steps=200)),
        ("every 1 step", Every(steps=1)),
        ("every epoch", Every(epochs=1)),
        ("Every 5 Steps", Every(steps=5)),
        ("On Best val_Loss MAX", OnBest("val_Loss", mode="max")),
        ("at most every minute & on error", AtMostEvery(minutes=1) & OnError()),
        ("before slurm ends leaving 2 minutes and stop", BeforeDeadline(slurm=True, margin=120, stop=True)),
        ("before 2026-11-26T08:00Z leaving 60 seconds", BeforeDeadline(at="2026-11-26T08:00Z", margin=60)),
        ("before notice /run/preempt within 30 seconds leaving 5 seconds", replace(HALF_A_MINUTE, margin=5)),
        ("every 3 batches", Every(batches=3)),
        ("every 1 batch", Every(batches=1)),
        ("every 2 epochs", Every(epochs=2)),
        ("every 1000 samples", Every(samples=1000)),
        ("every 1000000 tokens", Every(tokens=1000000)),
        ("every 30 seconds", Every(seconds=30)),
        ("every  2.5   minutes", Every(minutes=2.5)),
        ("every 1 hour", Every(hours=1)),
        ("every 5 %", Every(fraction=0.05)),
        ("every 5%", Every(fraction=0.05)),
        ("at steps 100 1000, 10000", At(steps=[100, 1000, 10000])),
        ("at epoch 3", At(epochs=[3])),
        ("at batches 3", At(batches=[3])),
        ("at start", AtStart()),
        ("at end", AtEnd()),
        ("on signal", OnSignal()),
        ("on signal exit 75 requeue", OnSignal(exit_code=75, requeue=True)),
        ("on signal exit 0", OnSignal(exit_code=0)),
        ("on signal requeue", OnSignal(requeue=True)),
        ("on signal kill after 30 seconds", OnSignal(grace=30)),
        ("on error", OnError()),
        ("overhead 1 %", Overhead(0.01)),
        ("overhead 0.5%", Overhead(0.005)),
        ("overhead 1 % with a failure every 6 hours", Overhead(0.01, 6 * 3600)),
        ("overhead 1 % with a failure every 1 day", Overhead(0.01, 86400)),
        ("overhead 1 % with a failure every 1.5 minutes", Overhead(0.01, 90)),
        ("overhead 1 % with a failure every 300 seconds", Overhead(0.01, 300)),
        ("before slurm ends", BeforeDeadline(slurm=True)),
        ("before slurm ends and stop", BeforeDeadline(slurm=True, stop=True)),
        ("before 2026-11-26T08:00Z", BeforeDeadline(at="2026-11-26T08:00:00+00:00")),
        ("before 2026-11-26 09:00:00+01:00 and stop", BeforeDeadline(at="2026-11-26T08:00Z", stop=True)),
        ("before notice /run/preempt", BeforeDeadline(notice="/run/preempt")),
        ("before notice /run/preempt and stop", BeforeDeadline(notice="/run/preempt", stop=True)),
        ("before notice /run/preempt within 30 seconds", HALF_A_MINUTE),
        ("before notice /run/preempt within 0.5 minutes and stop", replace(HALF_A_MINUTE, stop=True)),
        ("on best val_loss", OnBest("val_loss")),
        ("on best val/acc max by 0.5", OnBest("val/acc", mode="max", improvement=0.5)),
        ("every 10 minutes & overhead 1 %", Every(minutes=10) & Overhead(0.01)),
        ("on best loss & at most every 5 minutes", OnBest("loss") & AtMostEvery(minutes=5)),
        (["every 200 steps", "at end"], Every(steps=200) | AtEnd()),
        ("every 100 steps | at end|on error", Every(steps=100) | AtEnd() | OnError()),
        ("at end | every 10 minutes & overhead 1 %", AtEnd() | Every(minutes=10) & Overhead(0.01)),
        (["at start | at end", "on error"], AtStart() | AtEnd() | OnError()),
        (["at start", AtEnd() | OnError(), max], AtStart() | AtEnd() | OnError() | max),
        (AtEnd() | OnError(), AtEnd() | OnError()),
        (max, When(max)),
    ],
)
def test_a_phrase_is_the_policy_that_it_says(phrase, policy):
    """Each way to save has a phrase; a list, which may have policies and callables in it, is `|`."""
    assert save_policy(phrase) == policy


@pytest.mark.parametrize(
    ("phrase", "policy"),
    [
        ("last 3", KeepLast(3)),
        ("best val_loss", KeepBest("val_loss")),
        ("best val_loss min 2", KeepBest("val_loss", 2)),
        ("best acc max", KeepBest("acc", mode="max")),
        ("every 24 hours", KeepEvery(hours=24)),
        ("every 1 day", KeepEvery(days=1)),
        ("every 1000 steps", KeepEvery(steps=1000)),
        ("within 6 hours", KeepWithin(hours=6)),
        ("size 50 GiB", KeepSize("50 GiB")),
        ("all", KeepAll()),
        ("every day", KeepEvery(days=1)),
        ("Last 3", KeepLast(3)),
        (["last 3", "best val_loss min 2"], KeepLast(3) | KeepBest("val_loss", 2)),
        ("last 3 | best val_loss min 2", KeepLast(3) | KeepBest("val_loss", 2)),
        (["last 3", KeepBest("val_loss"), sorted], KeepLast(3) | KeepBest("val_loss") | sorted),
        (sorted, KeepWhen(sorted)),
    ],
)
def test_a_keep_phrase_is_the_policy_that_it_says(phrase, policy):
    """The same for what stays."""
    assert keep_policy(phrase) == policy


@pytest.mark.parametrize(
    ("parse", "phrase", "said"),
    [
        (save_policy, "evry 200 steps", r"'evry 200 steps' is no phrase \(at word 1, 'evry'\)\. Did you mean"),
        (save_policy, "every 200 stpes", r"at word 3, 'stpes'"),
        (save_policy, "on sigterm", 'Did you mean "on signal"'),
        (save_policy, "every 0 steps", r"'every 0 steps': Every\(steps=0\)"),
        (save_policy, "every 1.5 steps", "whole number"),
        (save_policy, "at end & at strat", 'Did you mean "at start"'),
        (save_policy, "every 200", "it ends too early"),
        (save_policy, "every 3 weeks", r"at word 3, 'weeks'"),
        (save_policy, "on best acc max bye 3", r"at word 5, 'bye'"),
        (save_policy, "on signal exit", r"ends too early\)\. Did you mean \"on signal exit 75 requeue kill after"),
        (save_policy, "on signal exit 300", r"OnSignal\(exit_code=300\): expected a whole number from 0 to 255"),
        (save_policy, "overhead 1", r"ends too early\)\. Did you mean \"overhead 1 %\""),
        (save_policy, "overhead 100 %", r"Overhead\(fraction=1.0\)"),
        (save_policy, "overhead 1 % with a failure evry 6 hours", r"at word 7, 'evry'"),
        (save_policy, "overhead 1 % with a failure every 6 epochs", r"at word 9, 'epochs'"),
        (save_policy, "before slurm end", r"at word 3, 'end'\)\. Did you mean \"before slurm ends\""),
        (save_policy, "before slurm ends and stpo", r"at word 5, 'stpo'\).* \"before slurm ends and stop\""),
        (save_policy, "before 2026-11-26T08:00", "nobody knows whose clock"),
        (save_policy, "before 2026-13-26T08:00Z", "is no instant"),
        (save_policy, "before tomorrow", r"at word 2, 'tomorrow'.*before 2026-11-26T08:00Z"),
        (save_policy, "before notice", r"ends too early\)\. Did you mean \"before notice /run/preempt\""),
        (save_policy, "before notice /tmp/x withn 30 seconds", r"at word 4, 'withn'"),
        (keep_policy, "last three", r"at word 2, 'three'"),
        (keep_policy, "newest 3", "Did you mean"),
        (keep_policy, "size many", "expected bytes, or a number of kB"),
        (keep_policy, [], r"option=\[\]: expected a KeepPolicy such as KeepLast\(3\), a phrase such as"),
        (save_policy, 3, r"option=3: expected a SavePolicy such as Every\(steps=200\), a phrase such as"),
        (save_policy, Every, "option=<class .*>: expected a SavePolicy"),
        (keep_policy, ["last 3", 4], r"option\[1\]=4: expected a KeepPolicy"),
        (keep_policy, [KeepLast(3), Every(steps=2)], r"option\[1\]=Every\(steps=2\): expected a KeepPolicy"),
        (save_policy, "at end | ", r"'at end \|' has no phrase on one side of '\|'"),
        (save_policy, "& at end", r"'& at end' has no phrase on one side of '&'"),
        (save_policy, " ", "'' is empty"),
        (keep_policy, "last 3 |", r"'last 3 \|' has no phrase on one side"),
        (save_policy, "every 5 steps or 10 minutes", r"word 4, 'or'; two phrases are joined by '\|'"),
        (keep_policy, "last 3 and best val_loss", r"word 3, 'and'; two phrases are joined by '\|'"),
        (save_policy, "at end | at strat", 'Did you mean "at start"'),
        (save_policy, "last 3", "is no phrase .*It is one of keep=."),
        (keep_policy, "every 200 samples", "It is one of save=."),
        (save_policy, "every 10 steps, at end", r'Did you mean "every 10 steps \| at end"'),
        (keep_policy, "last 2; best val_loss min 2", r'Did you mean "last 2 \| best val_loss min 2"'),
        (keep_policy, "last 3 | lst 2", "'lst 2' is no phrase"),
        (keep_policy, "last 3 & all", r"'last 3 & all' is no phrase .*'&'; two phrases are joined by '\|'"),
    ],
)  # fmt: skip
def test_what_is_no_phrase_is_refused_with_the_word_and_the_nearest(parse, phrase, said):
    """The message starts with the option's name."""
    with pytest.raises(UsageError, match=said) as error:
        parse(phrase, where="saver[0].option")
    assert str(error.value).startswith("saver[0].option")


@pytest.mark.parametrize(
    ("parse", "phrase", "meant"),
    [
        (save_policy, "every 10 min", "every 10 minutes"),
        (save_policy, "every 2 hrs", "every 2 hours"),
        (save_policy, "every 5 secs", "every 5 seconds"),
        (save_policy, "every 30s", "every 30 seconds"),
        (save_policy, "every 10,000 steps", "every 10000 steps"),
        (save_policy, "every 1_000_000 tokens", "every 1000000 tokens"),
        (save_policy, "every 1e3 steps", "every 1000 steps"),
        (save_policy, "every 10k steps", "every 10000 steps"),
        (save_policy, "every 2m tokens", "every 2000000 tokens"),
        (save_policy, "every 200steps", "every 200 steps"),
        (save_policy, "every10 minutes", "every 10 minutes"),
        (save_policy, "every 50 stpes", "every 50 steps"),
        (save_policy, "at most every 1.5 h", "at most every 1.5 hours"),
        (save_policy, "on signal kill after 30 s", "on signal kill after 30 seconds"),
        (save_policy, "before notice /tmp/every5s within 30 secs and stop",
         "before notice /tmp/every5s within 30 seconds and stop"),
        (keep_policy, "within 6h", "within 6 hours"),
        (keep_policy, "last3", "last 3"),
    ],
)  # fmt: skip
def test_the_phrase_that_was_meant_is_named(parse, phrase, meant):
    """With the number and unit that were given, so that it can be copied."""
    with pytest.raises(UsageError) as error:
        parse(phrase)
    assert str(error.value).endswith(f'. Did you mean "{meant}"?')
    parse(meant)


@pytest.mark.parametrize("phrase", ["every steps", "every 10,5 minutes", "every 9e99 steps", "every 1e3"])
def test_what_cannot_be_told_is_not_guessed(phrase):
    """A plain example is shown instead."""
    with pytest.raises(UsageError, match="There are also"):
        save_policy(phrase)


def test_a_number_in_another_notation_is_the_word_that_is_wrong():
    """Not the end of the phrase."""
    with pytest.raises(UsageError, match=r"\(at word 2, '10,000'\)"):
        save_policy("every 10,000 steps")


@pytest.mark.parametrize(
    ("parse", "example"),
    [(save_policy, one) for form in _SAVE for one in form.examples]
    + [(keep_policy, one) for form in _KEEP for one in form.examples],
)
def test_what_a_message_shows_as_an_example_is_a_phrase(parse, example):
    """Whoever copies it gets a policy, the one that its form builds and none of another form."""
    forms = _SAVE if parse is save_policy else _KEEP
    assert len([form for form in forms if re.fullmatch(form.pattern, example)]) == 1
    assert parse(example) == parse(f"  {example.replace(' ', '   ')} ")


@pytest.mark.parametrize(
    "arguments",
    [{"exit_code": one} for one in (-1, 256, 1.0, True, "75")]
    + [{"requeue": 1}, {"requeue": None}, {"grace": 0}, {"grace": "30"}, {"grace": float("inf")}],
)
def test_an_exit_that_means_nothing_is_refused(arguments):
    """The shell sees a byte."""
    with pytest.raises(UsageError, match=rf"OnSignal\({next(iter(arguments))}="):
        OnSignal(**arguments)
