"""A run that takes a moment: tied weights, an integer buffer, two dtypes, AdamW, metrics of which one is nan."""

import math

import torch
from torch import nn

from holdfast import AtEnd, Every, KeepLast, Run

CONFIG = {"lr": 1e-3, "betas": (0.9, 0.99), "data": {"name": "digits"}}


class Tiny(nn.Module):
    """An embedding that is its own head."""

    def __init__(self, width=4):
        super().__init__()
        self.embedding = nn.Embedding(8, width)
        self.norm = nn.LayerNorm(width, dtype=torch.float64)
        self.head = nn.Linear(width, 8, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def forward(self, batch):
        self.seen += len(batch)
        return self.head(self.norm(self.embedding(batch).double()).float())


def train(folder, epochs, fail_at=None, **options):
    """The run's state after ``epochs`` of four batches; a checkpoint after every second, of which the last four stay.

    It fails at the start of batch ``fail_at``.
    """
    torch.manual_seed(0)
    model = Tiny()
    optimizer = torch.optim.AdamW(model.parameters(), lr=CONFIG["lr"])
    options = {"save": Every(steps=2) | AtEnd(), "keep": KeepLast(4), "config": CONFIG} | options
    with Run(folder, state={"model": model, "optimizer": optimizer}, **options) as run:
        for _ in run.epochs(epochs):
            for batch in run.batches([torch.arange(4) + start for start in range(4)]):
                if run.progress.batches == fail_at:
                    raise RuntimeError("the same failure")
                loss = model(batch).square().mean()
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                run.log(loss=loss, bound=math.nan)
                run.wait()  # so that no save has to wait for the one before it
    return model, optimizer
