"""A training on random crops of the photographs that scikit-learn brings along, whose every part may change."""

from __future__ import annotations

import json
import os
import random
import signal
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_sample_images
from torch import nn
from torch.utils.data import Dataset

from holdfast import Every, KeepLast, Run
from holdfast.data import DataLoader

LENGTH, EPOCHS, SIDE = 26, 2, 24


class Crops(Dataset[tuple[torch.Tensor, int]]):
    """Crops at random places, mirrored and brightened at random by three generators; with each its number."""

    def __init__(self) -> None:
        self.images = [torch.from_numpy(np.ascontiguousarray(one)) for one in load_sample_images().images]

    def __len__(self) -> int:
        return LENGTH

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image = self.images[index % len(self.images)]
        top, left = (random.randrange(length - SIDE) for length in image.shape[:2])
        crop = image[top : top + SIDE, left : left + SIDE].permute(2, 0, 1).float() / 255
        if torch.rand(()) < 0.5:
            crop = crop.flip(-1)
        return crop * float(0.8 + 0.4 * np.random.random()), index


def network() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(3)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Dropout(0.2), nn.LazyLinear(2)
    )
    model(torch.zeros(2, 3, SIDE, SIDE))
    return model, torch.optim.AdamW(model.parameters(), 1e-3)


def learn(model: nn.Module, optimizer: torch.optim.Optimizer, crops: torch.Tensor, numbers: torch.Tensor) -> None:
    nn.functional.cross_entropy(model(crops), numbers % 2).backward()
    optimizer.step()
    optimizer.zero_grad()


def twin(weights: str) -> None:
    """Without a run, and without a worker."""
    model, optimizer = network()
    loader = DataLoader(Crops(), 4, shuffle=True, seed=8)
    for _ in range(EPOCHS):
        for crops, numbers in loader:
            learn(model, optimizer, crops, numbers)
    torch.save(model.state_dict(), weights)


def train(folder: str, weights: str, seen: str, die_at: int | None = None, batch_size: int = 4, **options: Any) -> None:
    """With a checkpoint behind each batch; ``die_at`` is a batch of the attempt in which it is killed.

    Each batch writes into ``seen`` which epoch it belongs to and which samples it has.
    """
    model, optimizer = network()
    loader = DataLoader(Crops(), batch_size, shuffle=True, seed=8, **options)
    run = Run(folder, {"model": model, "optimizer": optimizer}, save=Every(batches=1), keep=KeepLast(2))
    batches = 0
    for epoch in run.epochs(EPOCHS):
        for crops, numbers in run.batches(loader):
            run.wait()
            batches += 1
            if batches == die_at:
                os.kill(os.getpid(), signal.SIGKILL)
            learn(model, optimizer, crops, numbers)
            with Path(seen).open("a") as file:
                file.write(json.dumps([epoch, numbers.tolist()]) + "\n")
    run.close()
    torch.save(model.state_dict(), weights)
