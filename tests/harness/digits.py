"""A small training as a user writes it: shuffled map-style data, dropout, BatchNorm, AdamW, a scheduler."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from holdfast import Every, KeepLast, Run, Saver
from tests.harness.injection import syscalls

EPOCHS = 3
BATCHES = 8


@dataclass
class Job:
    """Everything that the script makes before its loop."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler
    loader: DataLoader[Any]
    losses: list[float] = field(default_factory=list)

    @property
    def state(self) -> dict[str, Any]:
        return {"model": self.model, "optimizer": self.optimizer, "scheduler": self.scheduler}


def make(workers: int = 0, width: int = 64) -> Job:
    torch.manual_seed(20)
    images = torch.randn(32 * BATCHES - 5, 1, 8, 8)
    labels = (images.sum((1, 2, 3)) > 0).long()
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.Flatten(),
        nn.Dropout(0.2), nn.Linear(1024, width), nn.ReLU(), nn.Linear(width, 2),
    )  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    loader = DataLoader(TensorDataset(images, labels), batch_size=32, shuffle=True, num_workers=workers)
    return Job(model, optimizer, scheduler, loader)


def fit(job: Job, epochs: Iterable[int], batches: Callable[[], Iterable[Any]], log: Callable[..., object]) -> None:
    """The loop, the same with holdfast and without."""
    for _ in epochs:
        for images, labels in batches():
            loss = nn.functional.cross_entropy(job.model(images), labels)
            loss.backward()
            job.optimizer.step()
            job.optimizer.zero_grad()
            log(loss=loss)
        job.scheduler.step()


def write_result(job: Job, path: str) -> None:
    """The final state, whole or not at all."""
    state = {name: one.state_dict() for name, one in job.state.items()} | {"random": torch.get_rng_state()}
    torch.save(state, f"{path}.new")
    Path(f"{path}.new").replace(path)


def twin(result: str, workers: int = 0) -> None:
    """The same training without holdfast; its losses go into ``<result>.losses``."""
    job = make(workers)
    losses: list[float] = []
    fit(job, range(EPOCHS), lambda: job.loader, lambda loss: losses.append(loss.item()))
    assert all(map(math.isfinite, losses))
    Path(f"{result}.losses").write_text("\n".join(map(repr, losses)))
    write_result(job, result)


def train(
    folder: str, result: str, workers: int = 0, faults: list[dict[str, Any]] | None = None, other: str | None = None
) -> None:
    """The training under holdfast. ``faults`` are put in the way of this process; the model also goes to ``other``."""
    job = make(workers)
    syscalls.install(faults or [])
    savers = [Saver(save=Every(batches=2), keep=KeepLast(2))]
    if other is not None:
        savers.append(Saver(other, save=Every(batches=3), keep=KeepLast(2), items=["model"]))
    run = Run(folder, state=job.state, savers=savers)
    fit(job, run.epochs(EPOCHS), lambda: run.batches(job.loader), run.log)
    run.close()
    write_result(job, result)
    os.write(1, b"finished\n")
