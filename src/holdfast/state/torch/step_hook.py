"""A word before any optimizer of this process steps, whether or not a run knows it."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

Listener = Callable[[torch.optim.Optimizer], None]


class StepHook:
    """Calls ``method`` with each optimizer that is about to step, until it is removed or its object is gone.

    A run that nobody closes is not kept for it, nor is its model.
    """

    def __init__(self, method: Listener) -> None:
        _hook_steps()
        self._method = weakref.WeakMethod(method)
        _hooks.append(self)

    def remove(self) -> None:
        if self in _hooks:
            _hooks.remove(self)

    def call(self, optimizer: torch.optim.Optimizer) -> None:
        method = self._method()
        if method is None:
            self.remove()
        else:
            method(optimizer)


_hooks: list[StepHook] = []


@functools.cache
def _hook_steps() -> None:
    """Torch's own hook is one, and stays: a step fails whose hooks come or go while another thread is in the midst."""
    register_optimizer_step_pre_hook(_before_step)


def _before_step(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    for hook in tuple(_hooks):
        hook.call(optimizer)
