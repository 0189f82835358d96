"""Who draws when: seeding inside the epochs, draws around the loops, three global generators at once."""

from __future__ import annotations

import random

import numpy as np
import torch

from tests.exactness.scripts import scenario
from tests.exactness.training import BATCH, EPOCHS, POINTS, learn, network, points, shuffled


def made():
    model = network()
    return model, torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)


@scenario()
def seeding_each_epoch(script):
    (model, optimizer), loader = made(), shuffled()
    run = script.run({"model": model, "optimizer": optimizer})
    for epoch in run.epochs(EPOCHS):
        torch.manual_seed(epoch)
        for x, y in run.batches(loader):
            run.log(loss=learn(model, optimizer, x, y))


@scenario(slow=True)
def seeding_once_before_everything(script):
    """The most common script of all: seeded at its top, in every attempt again."""
    torch.manual_seed(0)
    (model, optimizer), loader = made(), shuffled()
    run = script.run({"model": model, "optimizer": optimizer})
    for _ in run.epochs(EPOCHS):
        for x, y in run.batches(loader):
            run.log(loss=learn(model, optimizer, x, y))


@scenario(slow=True)
def seeding_between_run_and_epochs(script):
    (model, optimizer), loader = made(), shuffled()
    run = script.run({"model": model, "optimizer": optimizer})
    torch.manual_seed(3)
    for _ in run.epochs(EPOCHS):
        for x, y in run.batches(loader):
            run.log(loss=learn(model, optimizer, x, y))


@scenario()
def permutation_before_the_inner_loop(script):
    """The order of minimind: drawn in the epoch's head, handed to a loader made of it."""
    model, optimizer = made()
    xs, ys = points().tensors
    run = script.run({"model": model, "optimizer": optimizer})
    for _ in run.epochs(EPOCHS):
        order = torch.randperm(POINTS)
        batches = [(xs[chosen], ys[chosen]) for chosen in order.split(BATCH)]
        for x, y in run.batches(batches):
            run.log(loss=learn(model, optimizer, x, y))


@scenario(slow=True)
def permutation_of_a_subset(script):
    """The same with a DataLoader over the chosen points, which shuffles them once more."""
    model, optimizer = made()
    run = script.run({"model": model, "optimizer": optimizer})
    for _ in run.epochs(EPOCHS):
        chosen = torch.utils.data.Subset(points(), torch.randperm(POINTS)[:10].tolist())
        loader = torch.utils.data.DataLoader(chosen, BATCH, shuffle=True)
        for x, y in run.batches(loader):
            run.log(loss=learn(model, optimizer, x, y))


@scenario()
def draws_in_the_body_before_the_loop_and_after_it(script):
    (model, optimizer), loader = made(), shuffled()
    run = script.run({"model": model, "optimizer": optimizer})
    for _ in run.epochs(EPOCHS):
        run.log(head=random.random() + np.random.rand() + float(torch.rand(())))
        shift = torch.rand(4)
        for x, y in run.batches(loader):
            noise = random.gauss(0, 0.1) + np.random.normal(0, 0.1)
            run.log(loss=learn(model, optimizer, x + shift + noise, y))
        run.log(tail=random.random() + np.random.rand() + float(torch.rand(())))


class DrawingAtOnce:
    """An iterable that draws its order in `iter()` itself, and not when it is asked for the first batch."""

    def __iter__(self):
        xs, ys = points().tensors
        return iter([(xs[chosen], ys[chosen]) for chosen in torch.randperm(POINTS).split(BATCH)])


@scenario()
def draws_before_the_loop_that_are_kept_in_values(script):
    """After a restart they are not made again, and what `iter()` draws is the same nevertheless."""
    model, optimizer = made()
    run = script.run({"model": model, "optimizer": optimizer})
    for epoch in run.epochs(EPOCHS):
        if run.values.get("epoch") != epoch:
            run.values.update(epoch=epoch, shift=torch.rand(4).tolist())
        for x, y in run.batches(DrawingAtOnce()):
            run.log(loss=learn(model, optimizer, x + torch.tensor(run.values["shift"]), y))


@scenario(slow=True)
def augmentation_in_the_loop(script):
    (model, optimizer), loader = made(), shuffled()
    run = script.run({"model": model, "optimizer": optimizer})
    for _ in run.epochs(EPOCHS):
        for x, y in run.batches(loader):
            mixed, share = torch.randperm(len(x)), np.random.beta(0.4, 0.4)
            run.log(loss=learn(model, optimizer, share * x + (1 - share) * x[mixed], y))
