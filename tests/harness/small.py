"""A training of milliseconds, in this process or as what a trainer process does."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from holdfast import Every, HoldfastError, OnError, OnSignal, Run, UsageError
from holdfast.engine.writer_handle import WriterHandle
from holdfast.run.saves import Saves

BATCHES = 4


def nothing(batches: int) -> None:
    """Called in each batch with the number of those before it in the whole run."""


@dataclass
class Small:
    """A model, its optimizer, and a shuffled loader of `BATCHES` batches."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    loader: DataLoader[Any]

    @property
    def state(self) -> dict[str, Any]:
        return {"model": self.model, "optimizer": self.optimizer}

    @property
    def weights(self) -> list[torch.Tensor]:
        """A copy of them."""
        return [one.detach().clone() for one in self.model.parameters()]

    def fit(self, run: Run, epochs: int = 2, each: Callable[[int], object] = nothing) -> None:
        """The loop."""
        for _ in run.epochs(epochs):
            for (inputs,) in run.batches(self.loader):
                each(run.progress.batches)
                run.log(loss=self.step(inputs))

    def step(self, inputs: torch.Tensor) -> torch.Tensor:
        """One batch; its loss."""
        loss: torch.Tensor = self.model(inputs).square().mean()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss


def small(width: int = 8, workers: int = 0, rate: float = 1e-2, batches: int = BATCHES) -> Small:
    """About ``48 * width`` bytes of state in tensors, ``12 * width`` of them weights."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(2, width), nn.Dropout(0.5))
    loader = DataLoader(TensorDataset(torch.randn(4 * batches, 2)), batch_size=4, shuffle=True, num_workers=workers)
    return Small(model, torch.optim.AdamW(model.parameters(), rate), loader)


def train(folder: str, epochs: int = 2, **options: Any) -> Small:
    """A run from its start or its newest checkpoint to its end."""
    job = small()
    with Run(folder, job.state, **{"save": Every(batches=2), **options}) as run:
        job.fit(run, epochs)
    return job


def untouched(epochs: int = 2) -> Small:
    """The same without holdfast."""
    job = small()
    for _ in range(epochs):
        for (inputs,) in job.loader:
            job.step(inputs)
    return job


# What trainer processes do.


def resume(folder: str) -> None:
    """Starts the run again, says where it resumed, and ends with the bits of `untouched`."""
    job = small()
    run = Run(folder, job.state, save=Every(batches=2))
    print(f"resumed from {run.resumed_from}", flush=True)
    job.fit(run)
    run.close()
    print("exact" if _equal(job.weights, untouched().weights) else "different", flush=True)


def die_after_snapshot(folder: str, stop_writer: bool) -> None:
    """Trains until the moment that a snapshot is with the writer, which has not touched it, and dies."""
    job = small()
    run = Run(folder, job.state, save=Every(batches=3))
    original = Saves.save

    def save(self: Saves, *arguments: Any, **options: Any) -> bool:
        writer = self.checkpointer.writer
        writer._await_ready()
        print(f"writer {writer.pid}", flush=True)
        if stop_writer:
            os.kill(writer.pid, signal.SIGSTOP)
        original(self, *arguments, **options)
        os.kill(os.getpid(), signal.SIGKILL)
        return True

    Saves.save = save  # type: ignore[method-assign]  # in this process only
    job.fit(run)


def die_at_once(folder: str) -> None:
    """Asks for a save while its writer is still being started, and dies when that returns."""
    job = small()
    run = Run(folder, job.state)
    run.save()
    os.kill(os.getpid(), signal.SIGKILL)


def wait_for_stopped_writer(folder: str) -> None:
    """Its writer is stopped before it has its lock, so that the first save waits for it."""
    launch = WriterHandle._launch

    def stopped(self: WriterHandle) -> None:
        launch(self)
        os.kill(self.pid, signal.SIGSTOP)
        print(f"writer {self.pid}", flush=True)

    WriterHandle._launch = stopped  # type: ignore[method-assign]  # in this process only
    await_ready = WriterHandle._await_ready

    def told(self: WriterHandle) -> None:
        print("snapshot taken", flush=True)
        await_ready(self)

    WriterHandle._await_ready = told  # type: ignore[method-assign]
    job = small()
    job.fit(Run(folder, job.state, save=Every(batches=3)))


def linger(folder: str, workers: int = 0, policies: bool = True, slow_batch: int | None = None) -> None:
    """Trains for minutes, saying each batch's number; ``slow_batch`` takes longer than anyone waits."""
    job = small(workers=workers)
    save = Every(batches=2) | OnSignal() if policies else Every(batches=2)
    run = Run(folder, job.state, save=save)

    def each(batches: int) -> None:
        print(f"batch {batches}", flush=True)
        # In pieces: a signal that comes right before a sleep begins is not seen until it ends.
        for _ in range(60_000 if batches == slow_batch else 1):
            time.sleep(0.01)

    job.fit(run, 10_000, each)


def fail(folder: str, at: int) -> None:
    """A bare loop that fails in a batch."""
    job = small()
    run = Run(folder, job.state, save=Every(batches=100) | OnError())

    def each(batches: int) -> None:
        if batches == at:
            raise RuntimeError("the user's bug")

    job.fit(run, 2, each)


def fork_a_child(folder: str) -> None:
    """In the midst of training, a forked child does all it can to disturb, and ends like a script."""
    job = small()
    run = Run(folder, job.state, save=Every(batches=2) | OnSignal())

    def each(batches: int) -> None:
        if batches == 3 and os.fork() == 0:
            run.close()
            raise SystemExit(0)
        if batches == 3:
            os.wait()

    job.fit(run, 2, each)
    run.close()
    print("exact" if _equal(job.weights, untouched().weights) else "different", flush=True)


def train_on_in_a_fork(folder: str) -> None:
    """A forked child goes on with its parent's loop, saves and waits; it says what it is told."""
    job = small()
    run = Run(folder, job.state, save=Every(batches=2))

    def each(batches: int) -> None:
        if batches != 3:
            return
        run.wait()
        if os.fork() == 0:
            run.wait()
            for attempt in (run.save, lambda: Run(folder, job.state)):
                try:
                    attempt()
                except HoldfastError as error:
                    print(f"{type(error).__name__}: {error}", flush=True)
            return
        os.wait()

    try:
        job.fit(run, 2, each)
    except UsageError as error:
        print(f"in the loop: {error}", flush=True)
        os._exit(0)
    run.close()
    print("exact" if _equal(job.weights, untouched().weights) else "different", flush=True)


def open_as_nobody(folder: str) -> None:
    """Starts a run without the permission to write."""
    if os.geteuid() == 0:
        os.setgid(65534)
        os.setuid(65534)
    Run(folder, small().state)


def end_by_itself(folder: str) -> None:
    """A run without ``close`` and ``with``, as in the README."""
    job = small()
    job.fit(Run(folder, job.state))


def _equal(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(map(torch.equal, one, other))
