"""A word before any optimizer of this process steps."""

from __future__ import annotations

import gc
import weakref

import torch

from holdfast.state.torch.step_hook import StepHook


class Listener:
    """Remembers which optimizers are about to step."""

    def __init__(self) -> None:
        self.heard: list[torch.optim.Optimizer] = []

    def hear(self, optimizer: torch.optim.Optimizer) -> None:
        self.heard.append(optimizer)


def test_every_optimizer_is_heard_of_until_the_hook_is_removed() -> None:
    """Also one that was made later."""
    listener = Listener()
    hook = StepHook(listener.hear)
    optimizer = torch.optim.SGD([torch.zeros(2, requires_grad=True)], 0.1)
    optimizer.step()
    hook.remove()
    optimizer.step()
    assert listener.heard == [optimizer]


def test_a_listener_that_nobody_has_any_more_is_let_go() -> None:
    """What torch keeps for ever is only its own hook, which then does nothing."""
    listener = Listener()
    hook, there = StepHook(listener.hear), weakref.ref(listener)
    del listener
    gc.collect()
    assert there() is None
    torch.optim.SGD([torch.zeros(2, requires_grad=True)], 0.1).step()
    hook.remove()
