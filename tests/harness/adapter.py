"""A frozen base and a small part that is trained, as when a large model is adapted."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from holdfast import Every, KeepLast, Run, SaveError
from holdfast.run.saves import Held, Saves
from tests.harness.history import History

FROZEN = "model-2.safetensors"
WIDTH = 192
"""Of the base, which takes 147 kB then: more than what does not get a file of its own."""


class Adapted(nn.Module):
    """A frozen linear layer and a trained one behind it."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.base = nn.Linear(width, width, bias=False).requires_grad_(False)
        self.head = nn.Linear(width, 1)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.head(self.base(inputs))
        return outputs


def adapted(width: int = WIDTH) -> tuple[Adapted, torch.optim.Optimizer]:
    """The same weights each time."""
    torch.manual_seed(5)
    model = Adapted(width)
    return model, torch.optim.AdamW(model.head.parameters(), 1e-2)


Act = Callable[[int, Adapted], object]


def adapt(
    folder: str | Path, batches: int, act: Act = lambda *_: None, made: Callable[[], Any] = adapted, **options: Any
) -> Adapted:
    """Trains for so many batches, each of which is saved; ``act`` is called at the beginning of each, from 1.

    The save of the one before is durable then.
    """
    model, optimizer = made()
    options = options if "savers" in options else {"save": Every(batches=1), "keep": KeepLast(100)} | options
    with Run(folder, {"model": model, "optimizer": optimizer}, **options) as run:
        for _ in run.epochs(1):
            for inputs in run.batches([torch.ones(2, WIDTH)] * batches):
                with contextlib.suppress(SaveError):  # one that failed has warned
                    run.wait()
                act(run.progress.batch + 1, model)
                model(inputs).square().mean().backward()
                optimizer.step()
                optimizer.zero_grad()
    return model


def inodes(folder: str | Path, file: str = FROZEN) -> list[int]:
    """Which file on disk each checkpoint has, oldest first, as small numbers in the order of their first appearance."""
    found: dict[int, int] = {}
    paths = [Path(folder, name, file) for name in History(Path(folder)).checkpoints]
    return [found.setdefault(os.stat(path).st_ino, len(found)) for path in paths if path.exists()]


# What trainer processes do.


def train(folder: str, batches: int) -> None:
    """Ends with a word on whether the weights are those of a run that was left alone."""
    model = adapt(folder, batches)
    twin, optimizer = adapted()
    for _ in range(batches):
        twin(torch.ones(2, WIDTH)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    same = all(map(torch.equal, model.parameters(), twin.parameters()))
    print("exact" if same else "different", flush=True)


def die_after_snapshot(folder: str, at: int) -> None:
    """Dies when the snapshot of that save is with the writer, which is stopped and has not touched it."""
    commit = Saves.commit

    def committed(self: Saves, held: Held) -> bool:
        writer = self.checkpointer.writer
        if held.persist.ordinal == at:
            print(f"writer {writer.pid}", flush=True)
            os.kill(writer.pid, signal.SIGSTOP)
        commit(self, held)
        if held.persist.ordinal == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return True

    Saves.commit = committed  # type: ignore[method-assign]  # in this process only
    adapt(folder, at + 1)
