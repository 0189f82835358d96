"""A word before any optimizer of this process steps, whether or not the run knows it."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.hooks import RemovableHandle


def before_any_step(method: Callable[[torch.optim.Optimizer], None]) -> RemovableHandle:
    """Calls ``method`` with the optimizer, as long as the object that it belongs to is there.

    torch keeps such hooks for ever: a run that nobody closes would never go, nor would its model.
    """
    reference = weakref.WeakMethod(method)

    def hook(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        found = reference()
        if found is not None:
            found(optimizer)

    # It stays behind when the object goes: to remove it then could be in the midst of a step, which goes through them.
    return register_optimizer_step_pre_hook(hook)
