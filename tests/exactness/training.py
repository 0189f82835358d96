"""What the scripts train: a small network with dropout, on a few points. The last batch of an epoch is odd."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

POINTS = 14
BATCH = 4
EPOCHS = 3

loss_of = nn.functional.mse_loss


def points(count: int = POINTS) -> TensorDataset:
    """The same in every process, as a file would be."""
    fixed = torch.Generator().manual_seed(7)
    return TensorDataset(torch.randn(count, 4, generator=fixed), torch.randn(count, 1, generator=fixed))


def network(*extra: nn.Module) -> nn.Sequential:
    """Its dropout draws in every batch, so that wrong random numbers become wrong weights."""
    return nn.Sequential(nn.Linear(4, 8), *extra, nn.Tanh(), nn.Dropout(0.3), nn.Linear(8, 1))


def shuffled(**options: Any) -> DataLoader:
    return DataLoader(points(), batch_size=BATCH, shuffle=True, **options)


def learn(model: nn.Module, optimizer: torch.optim.Optimizer, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """One batch; returns its loss."""
    loss = loss_of(model(x), y)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss


@torch.no_grad()
def evaluate(model: nn.Module) -> float:
    """Accuracy's stand-in, as many scripts do it: with dropout on, because `eval()` was forgotten."""
    x, y = points().tensors
    return float(loss_of(model(x), y))
