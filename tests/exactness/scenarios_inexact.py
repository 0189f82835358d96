"""Scripts that no resume can repeat by their nature. Each has to be refused, or to be told that it is inexact."""

from __future__ import annotations

import itertools

import torch
from torch.utils.data import DataLoader

from tests.exactness.scenarios_loaders import Augmented, Counting, Positional, trained_on
from tests.exactness.training import BATCH, EPOCHS, learn, network, points, shuffled


class Forgetful(Counting):
    """Counts its passes and tells nobody."""

    state_dict = load_state_dict = None  # type: ignore[assignment]  # as if it had never had them

    def __getattribute__(self, name: str):
        if name in ("state_dict", "load_state_dict"):
            raise AttributeError(name)
        return super().__getattribute__(name)


def hidden_counter(script):
    trained_on(script, DataLoader(points(), BATCH, sampler=Forgetful()))


def random_in_workers(script):
    trained_on(script, DataLoader(Augmented(), BATCH, shuffle=True, num_workers=2))


def random_in_persistent_workers(script):
    trained_on(script, DataLoader(Augmented(), BATCH, shuffle=True, num_workers=2, persistent_workers=True))


def made(script):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    return model, optimizer, script.run({"model": model, "optimizer": optimizer})


def zipped(script):
    model, optimizer, run = made(script)
    one, other = shuffled(), shuffled()
    for _ in run.epochs(EPOCHS):
        for (x, _), (_, y) in zip(run.batches(one), run.batches(other), strict=True):
            learn(model, optimizer, x, y)


def zipped_with_a_plain_loader(script):
    model, optimizer, run = made(script)
    one, other = shuffled(), shuffled()
    for _ in run.epochs(EPOCHS):
        for (x, _), (_, y) in zip(run.batches(one), other, strict=True):
            learn(model, optimizer, x, y)


def enumerated_outside(script):
    model, optimizer, run = made(script)
    loader = shuffled()
    for _ in run.epochs(EPOCHS):
        for _, (x, y) in enumerate(run.batches(loader)):
            learn(model, optimizer, x, y)


def sliced_outside(script):
    model, optimizer, run = made(script)
    loader = shuffled()
    for _ in run.epochs(EPOCHS):
        for x, y in itertools.islice(run.batches(loader), 3):
            learn(model, optimizer, x, y)


def iterator_kept_over_epochs(script):
    model, optimizer, run = made(script)
    endless = itertools.cycle(shuffled())
    for _ in run.epochs(EPOCHS):
        for x, y in run.batches(endless, limit=3):
            learn(model, optimizer, x, y)


def enumerated_steps(script):
    model, optimizer, run = made(script)
    for _, (x, y) in enumerate(run.steps(shuffled(), 6)):
        learn(model, optimizer, x, y)


def left_early_with_a_state_of_its_own(script):
    model, optimizer, run = made(script)
    loader = DataLoader(points(), BATCH, sampler=Positional())
    for _ in run.epochs(EPOCHS):
        for x, y in run.batches(loader, limit=3):
            learn(model, optimizer, x, y)
