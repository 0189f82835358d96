"""Loaders and samplers of `holdfast.data`: their order and augmentation depend on seed, epoch and sample only."""

from __future__ import annotations

import torch
from torch.utils.data import DataLoader as TorchDataLoader

from holdfast.data import DataLoader, Sampler
from tests.exactness.scenarios_loaders import Augmented, trained_on
from tests.exactness.scripts import scenario
from tests.exactness.training import BATCH, EPOCHS, POINTS, learn, network, points


def made(script):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    return model, optimizer, script.run({"model": model, "optimizer": optimizer})


@scenario(slow=True)
def in_the_process(script):
    trained_on(script, DataLoader(Augmented(), BATCH, shuffle=True))


@scenario()
def augmentation_in_workers(script):
    """What no plain loader can do in mid-epoch."""
    trained_on(script, DataLoader(Augmented(), BATCH, shuffle=True, num_workers=2, prefetch_factor=3))


@scenario(slow=True)
def augmentation_in_persistent_workers(script):
    trained_on(script, DataLoader(Augmented(), BATCH, shuffle=True, num_workers=2, persistent_workers=True))


@scenario(first={"num_workers": 2, "persistent_workers": True})
def another_number_of_workers(script):
    """Two in the first attempt, none in the next."""
    trained_on(script, DataLoader(Augmented(), BATCH, shuffle=True, **script.options))


@scenario(slow=True)
def weighted(script):
    trained_on(script, DataLoader(points(), BATCH, weights=range(POINTS)))


@scenario(slow=True)
def wrapped(script):
    """A sampler of torch's, which draws from its generator in each epoch."""
    sampler = torch.utils.data.RandomSampler(range(POINTS), generator=torch.Generator())
    trained_on(script, DataLoader(points(), BATCH, sampler=sampler))


@scenario()
def sampler_in_a_loader_of_torchs(script):
    """Whose workers get their seed from the generators of the process."""
    sampler = Sampler(POINTS, batch_size=BATCH, seed=2)
    trained_on(script, TorchDataLoader(points(), batch_sampler=sampler, num_workers=2))


@scenario(slow=True)
def sampler_in_a_persistent_loader_of_torchs(script):
    sampler = Sampler(POINTS, batch_size=BATCH, seed=2)
    loader = TorchDataLoader(points(), batch_sampler=sampler, num_workers=1, persistent_workers=True)
    trained_on(script, loader)


@scenario()
def left_early(script):
    """The next pass is the next epoch."""
    model, optimizer, run = made(script)
    loader = DataLoader(Augmented(), BATCH, shuffle=True)
    for _ in run.epochs(EPOCHS):
        for index, (x, y) in run.batches(loader, enumerate=True):
            run.log(loss=learn(model, optimizer, x, y))
            if index == 2:
                break


@scenario(slow=True)
def by_steps(script):
    model, optimizer, run = made(script)
    for x, y in run.steps(DataLoader(Augmented(), BATCH, shuffle=True, num_workers=1), 11):
        run.log(loss=learn(model, optimizer, x, y))


@scenario(slow=True)
def two_in_step_and_one_behind(script):
    model, optimizer, run = made(script)
    one, other = (DataLoader(Augmented(), BATCH, shuffle=True, seed=seed) for seed in (1, 2))
    for _ in run.epochs(EPOCHS):
        for (x, _), (_, y) in run.batches(one, other):
            run.log(loss=learn(model, optimizer, x, y))
        for x, y in run.batches(one):
            run.log(again=learn(model, optimizer, x, y))


@scenario(slow=True)
def made_anew_in_each_epoch(script):
    """Its place is the epoch that the script gives it."""
    model, optimizer, run = made(script)
    for epoch in run.epochs(EPOCHS):
        loader = DataLoader(Augmented(), BATCH, shuffle=True)
        loader.batch_sampler.seek(epoch=epoch)
        for x, y in run.batches(loader):
            run.log(loss=learn(model, optimizer, x, y))
