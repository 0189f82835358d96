"""Orbax's `StandardCheckpointer`, which saves asynchronously; torch's tensors are handed to it as NumPy arrays."""

from __future__ import annotations

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

from typing import Any

import orbax.checkpoint as ocp
import torch

from suite.contenders.base import BySteps, Wait


class Orbax(BySteps):
    name = "Orbax"
    asynchronous = True
    durable = "nothing"
    packages = ("orbax-checkpoint", "jax", "torch")

    def open(self) -> None:
        self._checkpointer = ocp.StandardCheckpointer()

    def _arrays(self) -> dict[str, Any]:
        """Over the same memory, where that is the host's."""
        return {name: one.detach().cpu().numpy() for name, one in self.job.tensors().items()}

    def save(self) -> Wait:
        self._checkpointer.save(self.next_path().absolute(), self._arrays())
        wait: Wait = self._checkpointer.wait_until_finished
        return wait

    def load(self) -> None:
        """Into arrays of its own, which it cannot choose, and from there into the tensors."""
        loaded = self._checkpointer.restore(self.newest().absolute(), self._arrays())
        with torch.no_grad():
            for name, tensor in self.job.tensors().items():
                tensor.copy_(torch.from_numpy(loaded[name]))

    def close(self) -> None:
        self._checkpointer.close()
