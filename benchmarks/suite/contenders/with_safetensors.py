"""`safetensors.torch.save_file`, with the optimizer's state as tensors beside the model's."""

from __future__ import annotations

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from suite.contenders.base import BySteps, Wait, at_once


class Safetensors(BySteps):
    name = "safetensors"
    durable = "nothing"
    packages = ("safetensors", "torch")

    def save(self) -> Wait:
        save_file(self.job.tensors(), self.next_path(".safetensors"))
        return at_once

    def load(self) -> None:
        with torch.no_grad(), safe_open(self.newest(), framework="pt") as file:
            for name, tensor in self.job.tensors().items():
                tensor.copy_(file.get_tensor(name))
