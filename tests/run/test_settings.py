"""Settings edited in the script between two attempts, which the restored state overrides, do not go unnoticed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler

from holdfast import HoldfastWarning, Run
from holdfast.run.settings import overridden, settings


def made(total: int = 10, **options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.AdamW(model.parameters(), **options)
    return {"optimizer": optimizer}, {"scheduler": lr_scheduler.CosineAnnealingLR(optimizer, total)}


def told(before: Any, now: Any, rates: Any = None) -> list[str]:
    return overridden(settings(*before), settings(*now), {"optimizer": [0.001]} if rates is None else rates)


def test_the_same_settings_are_not_mentioned():
    """Also after steps, which change what follows from them."""
    optimizers, schedulers = made(lr=0.1)
    before = settings(optimizers, schedulers)
    assert overridden(before, settings(*made(lr=0.1)), {}) == []


def test_each_changed_setting_of_an_optimizer_is_named():
    """With what it was in the script, and the learning rate that the run goes on with."""
    (message,) = told(made(lr=0.1), made(lr=0.2, weight_decay=0.3, betas=(0.8, 0.9)))
    assert "lr=0.2 (before: 0.1)" in message
    assert "weight_decay=0.3 (before: 0.01)" in message
    assert "betas=0.8, 0.9 (before: 0.9, 0.999)" in message
    assert "restores lr=0.001" in message


def test_a_rate_that_is_the_restored_one_is_not_mentioned():
    """A schedule had brought it there before the checkpoint."""
    assert told(made(lr=0.1), made(lr=0.001)) == []


def test_a_group_that_is_added_in_mid_run_is_not_mentioned():
    """A restart has to make it before the run, where the first start did not have it yet; an edit of the other is."""

    def with_group(rate: float) -> tuple[dict[str, Any], dict[str, Any]]:
        optimizers, schedulers = made(lr=rate)
        optimizers["optimizer"].add_param_group({"params": [torch.nn.Parameter(torch.ones(1))], "lr": 0.5})
        return optimizers, schedulers

    assert told(made(lr=0.1), with_group(0.1), {"optimizer": [0.1, 0.5]}) == []
    (message,) = told(made(lr=0.1), with_group(0.3), {"optimizer": [0.1, 0.5]})
    assert "lr=0.3, 0.5 (before: 0.1)" in message


def test_a_longer_schedule_is_named():
    """`T_max` lies in the scheduler's state, so the restored one keeps the old length."""
    (message,) = told(made(lr=0.1, total=10), made(lr=0.1, total=20))
    assert "gives scheduler T_max=20 (before: 10)" in message


def test_schedules_in_a_chain_are_told_apart():
    """By their place in the chain."""

    def chain(total: int) -> tuple[dict[str, Any], dict[str, Any]]:
        optimizers, _ = made(lr=0.1)
        optimizer = optimizers["optimizer"]
        parts: list[Any] = [lr_scheduler.LinearLR(optimizer), lr_scheduler.StepLR(optimizer, total)]
        return optimizers, {"scheduler": lr_scheduler.SequentialLR(optimizer, parts, [3])}

    (message,) = told(chain(5), chain(6))
    assert "1.step_size=6 (before: 5)" in message


def test_a_rate_in_a_tensor_is_compared_by_its_value():
    """Capturable optimizers keep it on the device."""
    assert told(made(lr=torch.tensor(0.5), capturable=False, foreach=False), made(lr=0.5, foreach=False)) == []


def test_an_edited_schedule_is_named_when_the_run_goes_on(tmp_path):
    """End to end, once; a third start without an edit says nothing."""

    def attempt(total: int, epochs: int) -> None:
        optimizers, schedulers = made(total, lr=0.1)
        with Run(tmp_path / "run", state=optimizers | schedulers) as run:
            for _ in run.epochs(epochs):
                optimizers["optimizer"].step()
                schedulers["scheduler"].step()

    attempt(10, 1)
    with pytest.warns(HoldfastWarning, match="T_max=20"):
        attempt(20, 2)
    attempt(20, 3)
