"""`torch.save` and `torch.load`."""

from __future__ import annotations

import torch

from suite.contenders.base import BySteps, Wait, at_once, copy_tensors


class TorchSave(BySteps):
    name = "torch.save"
    durable = "nothing"

    def save(self) -> Wait:
        torch.save(self.job.state_dict(), self.next_path(".pt"))
        return at_once

    def load(self) -> None:
        """By mapping the file, and copying out of it: the fastest way to load such a file into tensors that exist."""
        loaded = torch.load(self.newest(), mmap=True, weights_only=True, map_location="cpu")
        self.job.model.load_state_dict(loaded["model"])
        copy_tensors(loaded["optimizer"]["state"], self.job.optimizer.state_dict()["state"])

    def resume(self) -> None:
        loaded = torch.load(self.newest(), mmap=True, weights_only=True, map_location="cpu")
        self.job.model.load_state_dict(loaded["model"])
        self.job.optimizer.load_state_dict(loaded["optimizer"])
