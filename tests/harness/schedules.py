"""A training that saves and changes its state by chance, the same chance in each attempt and in its twin."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from holdfast import Every, KeepLast, Run

BATCHES, EPOCHS = 8, 2
KEPT = 2


class Job:
    """About ``512 * rows`` bytes of state; ``seed`` says what happens in each batch."""

    def __init__(self, seed: int, rows: int) -> None:
        self.seed, self.rows = seed, rows
        torch.manual_seed(seed)
        self.model = nn.Sequential(nn.Embedding(rows, 32), nn.BatchNorm1d(32), nn.Dropout(0.1), nn.Linear(32, 1))
        self.average = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
        make = random.Random(seed).choice(OPTIMIZERS)
        self.optimizer = make(self.model.parameters())
        self.history: dict[str, Any] = {"norms": torch.zeros(0), "seen": []}

    @property
    def state(self) -> dict[str, Any]:
        parts = {"model": self.model, "average": self.average, "optimizer": self.optimizer}
        return {**parts, "history": self.history}

    def batch(self, number: int, save: Callable[[], object]) -> None:
        """Batch ``number`` of the run: saves and changes here and there."""
        chance = random.Random(f"{self.seed}/{number}")
        for change in chance.sample(CHANGES, chance.choice((0, 1, 1, 2))):
            change(self)
        if chance.random() < 0.3:
            save()
        loss = self.model(torch.randint(self.rows, (64,))).square().mean()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.average.update_parameters(self.model)
        self.history["seen"].append(number)
        if chance.random() < 0.3:
            save()


def write(job: Job) -> None:
    with torch.no_grad():
        for one in (*job.model.parameters(), *job.model.buffers()):
            one.add_(1)


def write_through_data(job: Job) -> None:
    for one in job.model.parameters():
        one.data.mul_(0.5)


def exchange_data(job: Job) -> None:
    for one in job.model.parameters():
        one.data = one.data * 0.5 + 0.1


def load(job: Job) -> None:
    job.model.load_state_dict(job.average.module.state_dict())


def write_in_a_thread(job: Job) -> None:
    thread = threading.Thread(target=write, args=(job,))
    thread.start()
    thread.join()


def write_moments(job: Job) -> None:
    for kept in job.optimizer.state.values():
        for one in kept.values():
            if isinstance(one, torch.Tensor) and one.dim():
                one.mul_(0.5)


def step_unknown(job: Job) -> None:
    """An optimizer that is not in the state, for this step only."""
    job.model(torch.arange(0, job.rows, 50)).square().mean().backward()
    torch.optim.SGD(job.model.parameters(), 0.01, fused=True).step()
    job.optimizer.zero_grad()


def grow(job: Job) -> None:
    """A history that gets longer, and an average of it that is changed in place."""
    norm = job.model[0].weight.detach().norm().reshape(1)
    job.history["norms"] = torch.cat([job.history["norms"], norm])
    job.history["norms"][0] += 1


CHANGES = [write, write_through_data, exchange_data, load, write_in_a_thread, write_moments, step_unknown, grow]
OPTIMIZERS: list[Callable[[Any], torch.optim.Optimizer]] = [
    lambda parameters: torch.optim.AdamW(parameters, 0.01, fused=True),
    lambda parameters: torch.optim.AdamW(parameters, 0.01, foreach=True),
    lambda parameters: torch.optim.SGD(parameters, 0.01, momentum=0.9, fused=True),
    lambda parameters: torch.optim.Adam(parameters, 0.01, foreach=False),
]


def twin(seed: int, rows: int, result: str) -> None:
    """The same without holdfast."""
    job = Job(seed, rows)
    for epoch in range(EPOCHS):
        for batch in range(BATCHES):
            job.batch(epoch * BATCHES + batch, lambda: None)
    _write_result(job, result)


def train(seed: int, rows: int, folder: str, result: str, **options: Any) -> None:
    """One attempt; it says when each batch begins, and when it ends itself."""
    job = Job(seed, rows)
    interval = random.Random(seed).randint(1, 4)
    run = Run(folder, job.state, save=Every(batches=interval), keep=KeepLast(KEPT), **options)
    for epoch in run.epochs(EPOCHS):
        for batch in run.batches(range(BATCHES), enumerate=True):
            print(f"batch {epoch * BATCHES + batch[0]}.", flush=True)
            job.batch(epoch * BATCHES + batch[0], run.save)
    run.close()
    _write_result(job, result)
    print("ended", flush=True)


def _write_result(job: Job, path: str) -> None:
    found = {name: one if isinstance(one, dict) else one.state_dict() for name, one in job.state.items()}
    torch.save(found | {"random": torch.get_rng_state()}, f"{path}.new")
    Path(f"{path}.new").replace(path)
