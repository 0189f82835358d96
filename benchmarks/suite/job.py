"""A training job with real steps: forward, backward, AdamW."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import xxhash
from torch import nn

from suite.workload import DENSE, PARTIAL, TINY, Workload

LAYERS = 32
TRAINED = 0.01
"""The part of `partial`'s parameters that is trained."""
TINY_WIDTH = 8
ROWS = {"cpu": 16, "cuda": 8192}
"""Rows of a batch. On a GPU so many that forward and backward take longer than to copy the state to the host."""

Updating = Callable[[], AbstractContextManager[object]]
"""What a saver may want around the moment in which the optimizer changes the parameters."""


class Adapted(nn.Module):
    """A frozen layer and what is trained beside it, of low rank."""

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.frozen = nn.Linear(width, width, bias=False).requires_grad_(False)
        self.down, self.up = nn.Linear(width, rank, bias=False), nn.Linear(rank, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(self.frozen(x) + self.up(self.down(x)))


class Residual(nn.Module):
    """Layers one after the other, each beside a way around it, so that 2,500 of them stay numerically tame."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = x + 0.1 * torch.tanh(layer(x))
        return x


def make_model(workload: Workload) -> Residual:
    """Without values: all of them are drawn by `fill`."""
    if workload.name == TINY:
        # A weight and a bias for each layer; to each of them AdamW adds a step and two moments.
        width, count = TINY_WIDTH, workload.tensors // 8
        return Residual([nn.Linear(width, width) for _ in range(count)])
    if workload.name == PARTIAL:
        width = _multiple(math.sqrt(workload.size / 4 / LAYERS))
        rank = max(1, round(TRAINED * width / 2))
        return Residual([Adapted(width, rank) for _ in range(LAYERS)])
    assert workload.name == DENSE
    width = _multiple(math.sqrt(workload.size / 3 / 4 / LAYERS))
    return Residual([nn.Linear(width, width, bias=False) for _ in range(LAYERS)])


def _multiple(width: float) -> int:
    return max(8, round(width / 8) * 8)


def fill(model: nn.Module) -> None:
    """Random values out of one small pool: drawing 2 GiB would be most of a start."""
    pool = torch.rand(1 << 20) - 0.5
    for parameter in model.parameters():
        flat = parameter.detach().view(-1)
        scale = 2 / math.sqrt(parameter.shape[-1])
        for begin in range(0, flat.numel(), pool.numel()):
            part = flat[begin : begin + pool.numel()]
            torch.mul(pool[: part.numel()].to(part.device), scale, out=part)


def state_size(workload: Workload) -> int:
    """Bytes of the tensors of model and optimizer, without making them."""
    with torch.device("meta"):
        parameters = list(make_model(workload).parameters())
    return sum(one.nbytes + (2 * one.nbytes + 4) * one.requires_grad for one in parameters)


class Job:
    """Model, optimizer and data of a workload, made with the same values in every process."""

    def __init__(self, workload: Workload, rows: int | None = None) -> None:
        torch.manual_seed(0)
        self.device = torch.device(workload.device)
        with torch.device("meta"):
            model = make_model(workload)
        self.model = model.to_empty(device=self.device)
        fill(self.model)
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=1e-3, fused=True)
        self.waited = 0.0
        width = next(self.model.parameters()).shape[-1]
        rows = rows or ROWS[self.device.type]
        self.batches = [torch.randn(rows, width, device=self.device) for _ in range(8)]
        self._taken = 0

    def next_batch(self) -> torch.Tensor:
        self._taken += 1
        return self.batches[self._taken % len(self.batches)]

    def loss(self, batch: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(self.model(batch)).square().mean()

    def step(self, updating: Updating = nullcontext) -> None:
        """One batch. ``waited`` is how long ``updating`` kept the optimizer from its work."""
        torch.autograd.backward(self.loss(self.next_batch()))
        begin = time.perf_counter()
        with updating():
            self.waited = time.perf_counter() - begin
            self.optimizer.step()
        self.optimizer.zero_grad()
        self.synchronize()

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def initialise(self) -> None:
        """Gives the optimizer its state without a batch, for loads that can only go into tensors that exist."""
        if self.optimizer.state:
            return
        for parameter in self.trained():
            parameter.grad = torch.zeros_like(parameter)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def trained(self) -> Iterator[nn.Parameter]:
        for group in self.optimizer.param_groups:
            yield from group["params"]

    def state_dict(self) -> dict[str, Any]:
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}

    def tensors(self) -> dict[str, torch.Tensor]:
        """All of the state's tensors, by a name that is the same in every process; the optimizer has its state."""
        found = {f"model.{name}": one for name, one in self.model.state_dict().items()}
        for index, parameter in enumerate(self.trained()):
            for key, value in self.optimizer.state[parameter].items():
                found[f"optimizer.{index}.{key}"] = value
        return found

    def size(self) -> int:
        return sum(one.nbytes for one in self.tensors().values())

    def frozen(self) -> int:
        """Bytes that no step changes."""
        return sum(one.nbytes for one in self.model.parameters() if not one.requires_grad)

    def changed(self) -> int:
        """Bytes that every step changes."""
        return self.size() - self.frozen()

    def scramble(self) -> None:
        """Other values, so that a load that does nothing is found out."""
        with torch.no_grad():
            for one in self.tensors().values():
                one.fill_(-1)

    def digest(self) -> str:
        """Of every bit of the state."""
        digest = xxhash.xxh3_128()
        for name, one in sorted(self.tensors().items()):
            digest.update(name.encode())
            digest.update(one.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()
