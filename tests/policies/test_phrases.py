"""Policies in words."""

from __future__ import annotations

import pytest

from holdfast import (
    At,
    AtEnd,
    AtMostEvery,
    AtStart,
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
)
from holdfast.errors import UsageError
from holdfast.policies.phrases import keep_policy, save_policy


@pytest.mark.parametrize(
    ("phrase", "policy"),
    [
        ("every 200 steps", Every(steps=200)),
        ("every 1 step", Every(steps=1)),
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
        ("on error", OnError()),
        ("on best val_loss", OnBest("val_loss")),
        ("on best val/acc max by 0.5", OnBest("val/acc", "max", 0.5)),
        ("on best loss & at most every 5 minutes", OnBest("loss") & AtMostEvery(minutes=5)),
        (["every 200 steps", "at end"], Every(steps=200) | AtEnd()),
    ],
)
def test_a_phrase_is_the_policy_that_it_says(phrase, policy):
    """Each way to save has a phrase; a list is `|`, an `&` is `&`."""
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
        (["last 3", "best val_loss min 2"], KeepLast(3) | KeepBest("val_loss", 2)),
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
        (keep_policy, "last three", r"at word 2, 'three'"),
        (keep_policy, "newest 3", "Did you mean"),
        (keep_policy, "size many", "expected bytes or a size"),
        (keep_policy, [], "expected a phrase"),
        (keep_policy, 3, "expected a phrase"),
        (keep_policy, ["last 3", 4], "expected a phrase"),
    ],
)  # fmt: skip
def test_what_is_no_phrase_is_refused_with_the_word_and_the_nearest(parse, phrase, said):
    """The message starts with the option's name."""
    with pytest.raises(UsageError, match=said) as error:
        parse(phrase, where="saver[0].option")
    assert str(error.value).startswith("saver[0].option")
