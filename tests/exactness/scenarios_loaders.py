"""Where the batches come from: samplers, workers, iterables, loaders that know where they stand."""

from __future__ import annotations

import itertools
import random
from typing import Any

import numpy as np
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    WeightedRandomSampler,
    random_split,
)

from tests.exactness.scripts import Script, scenario
from tests.exactness.training import BATCH, EPOCHS, POINTS, learn, network, points, shuffled


def trained_on(script: Script, loader: Any) -> dict[str, Any]:
    """A network trained on ``loader``; its private generators are part of what is compared."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    run = script.run({"model": model, "optimizer": optimizer})
    for _ in run.epochs(EPOCHS):
        for x, y in run.batches(loader):
            run.log(loss=learn(model, optimizer, x, y), seen=x.sum())
    generator = getattr(loader, "generator", None)
    return {} if generator is None else {"generator": generator}


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(5)


@scenario(slow=True)
def sequential(script):
    return trained_on(script, DataLoader(points(), batch_size=BATCH))


@scenario()
def shuffle(script):
    return trained_on(script, shuffled())


@scenario()
def shuffle_with_generator(script):
    return trained_on(script, shuffled(generator=seeded()))


@scenario(slow=True)
def drop_last(script):
    return trained_on(script, shuffled(drop_last=True))


@scenario()
def replacement(script):
    return trained_on(script, DataLoader(points(), BATCH, sampler=RandomSampler(points(), replacement=True)))


@scenario(slow=True)
def weighted(script):
    sampler = WeightedRandomSampler(torch.linspace(0.1, 1.0, POINTS), POINTS)
    return trained_on(script, DataLoader(points(), BATCH, sampler=sampler))


@scenario(slow=True)
def batch_sampler(script):
    sampler = BatchSampler(RandomSampler(points(), generator=seeded()), BATCH, drop_last=False)
    return trained_on(script, DataLoader(points(), batch_sampler=sampler))


@scenario(slow=True)
def list_of_samples(script):
    samples = [(x, y) for x, y in points()]
    return trained_on(script, DataLoader(samples, BATCH, shuffle=True))


@scenario()
def list_of_batches(script):
    """No DataLoader at all."""
    batches = list(DataLoader(points(), BATCH))
    return trained_on(script, batches)


@scenario(slow=True)
def split_and_collated(script):
    """The script's own way to put samples together, which draws."""

    def collate(samples: list[Any]) -> tuple[torch.Tensor, ...]:
        random.shuffle(samples)
        return torch.stack([x for x, _ in samples]) + 0.1 * torch.rand(()), torch.stack([y for _, y in samples])

    training, _ = random_split(points(), [10, 4], generator=seeded())
    return trained_on(script, DataLoader(training, BATCH, shuffle=True, collate_fn=collate))


class Eager(Sampler[int]):
    """Draws an epoch's order at once, from the global generator of NumPy."""

    def __len__(self) -> int:
        return POINTS

    def __iter__(self):
        return iter(np.random.permutation(POINTS).tolist())


class Lazy(Eager):
    """Draws every index when it is asked for, from the global generator of torch, as dropout does."""

    def __iter__(self):
        for _ in range(POINTS):
            yield int(torch.randint(POINTS, ()))


class Private(Eager):
    """Has random numbers of its own."""

    def __init__(self) -> None:
        self.random = random.Random(3)

    def __iter__(self):
        for _ in range(POINTS):
            yield self.random.randrange(POINTS)


class Counting(Eager):
    """Its order depends on how often it was asked, which it tells to who asks for its state."""

    def __init__(self) -> None:
        self.passes = 0

    def __iter__(self):
        self.passes += 1
        order = torch.randperm(POINTS, generator=torch.Generator().manual_seed(self.passes))
        return iter(order.tolist())

    def state_dict(self) -> dict[str, int]:
        return {"passes": self.passes}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.passes = state["passes"]


class Positional(Eager):
    """Its state is its place in a pass, as that of torchdata's samplers is; loaded, the next pass begins there."""

    def __init__(self) -> None:
        self.yielded = 0
        self.begin = 0

    def __iter__(self):
        self.yielded, self.begin = self.begin, 0
        for index in torch.randperm(POINTS).tolist()[self.yielded :]:
            self.yielded += 1
            yield index

    def state_dict(self) -> dict[str, int]:
        return {"yielded": self.yielded}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.begin = state["yielded"]


@scenario(slow=True)
def eager_sampler(script):
    return trained_on(script, DataLoader(points(), BATCH, sampler=Eager()))


@scenario()
def lazy_sampler(script):
    return trained_on(script, DataLoader(points(), BATCH, sampler=Lazy()))


@scenario()
def private_sampler(script):
    sampler = Private()
    trained_on(script, DataLoader(points(), BATCH, sampler=sampler))
    return {"random": sampler.random}


@scenario()
def counting_sampler_with_a_state(script):
    sampler = Counting()
    trained_on(script, DataLoader(points(), BATCH, sampler=sampler))
    return {"passes": sampler.passes}


@scenario()
def positional_sampler_with_a_state(script):
    return trained_on(script, DataLoader(points(), BATCH, sampler=Positional()))


# Workers.


@scenario()
def workers(script):
    return trained_on(script, shuffled(num_workers=2))


@scenario(slow=True)
def workers_with_generator(script):
    return trained_on(script, shuffled(num_workers=2, generator=seeded()))


@scenario()
def workers_persistent(script):
    return trained_on(script, shuffled(num_workers=2, persistent_workers=True))


@scenario(slow=True)
def workers_persistent_with_generator(script):
    return trained_on(script, shuffled(num_workers=2, persistent_workers=True, generator=seeded()))


@scenario(slow=True)
def workers_prefetching_four(script):
    return trained_on(script, shuffled(num_workers=2, prefetch_factor=4))


@scenario(slow=True)
def workers_and_an_eager_sampler(script):
    return trained_on(script, DataLoader(points(), BATCH, sampler=Eager(), num_workers=2))


@scenario()
def workers_and_a_lazy_sampler(script):
    return trained_on(script, DataLoader(points(), BATCH, sampler=Lazy(), num_workers=2))


@scenario(slow=True)
def workers_persistent_and_a_lazy_sampler(script):
    loader = DataLoader(points(), BATCH, sampler=Lazy(), num_workers=2, persistent_workers=True)
    return trained_on(script, loader)


@scenario(slow=True)
def workers_and_a_counting_sampler(script):
    sampler = Counting()
    trained_on(script, DataLoader(points(), BATCH, sampler=sampler, num_workers=2))
    return {"passes": sampler.passes}


@scenario(slow=True)
def workers_and_a_positional_sampler(script):
    return trained_on(script, DataLoader(points(), BATCH, sampler=Positional(), num_workers=2))


@scenario(slow=True)
def workers_and_an_iterable(script):
    return trained_on(script, DataLoader(Stream(), BATCH, num_workers=2))


@scenario(slow=True)
def workers_and_a_random_iterable(script):
    """The stream is produced again from its start, in workers that are seeded as before."""
    return trained_on(script, DataLoader(RandomStream(), BATCH, num_workers=2))


# Random numbers in the data.


class Augmented(Dataset[Any]):
    """Random transforms with all three global generators."""

    def __len__(self) -> int:
        return POINTS

    def __getitem__(self, index: int) -> Any:
        x, y = points()[index]
        return x + 0.1 * torch.randn(4) + 0.1 * random.random() + 0.1 * float(np.random.rand()), y


@scenario()
def augmentation(script):
    return trained_on(script, DataLoader(Augmented(), BATCH, shuffle=True))


class Noisy(Augmented):
    """Random transforms with a generator of the dataset's own, which nobody but it draws from."""

    def __init__(self) -> None:
        self.noise = seeded()

    def __getitem__(self, index: int) -> Any:
        x, y = points()[index]
        return x + 0.1 * torch.randn(4, generator=self.noise), y


@scenario()
def augmentation_with_a_generator_of_its_own(script):
    """Skipped batches are not loaded, so nothing draws for them again: the generator is set where it stood."""
    dataset = Noisy()
    trained_on(script, DataLoader(dataset, BATCH, shuffle=True))
    return {"noise": dataset.noise}


@scenario(ways=("ends",), says=("this loader has workers",))
def augmentation_in_workers_saved_at_the_ends_of_epochs(script):
    """Exact where nothing of the workers' random numbers is left: between epochs, without a persistent pool."""
    return trained_on(script, DataLoader(Augmented(), BATCH, shuffle=True, num_workers=2))


class Stream(IterableDataset[Any]):
    """Data in the order of a file, each worker reading its share."""

    def __iter__(self):
        info = torch.utils.data.get_worker_info()
        first, step = (0, 1) if info is None else (info.id, info.num_workers)
        for index in range(first, POINTS, step):
            yield self.sample(index)

    def sample(self, index: int) -> Any:
        return points()[index]


class RandomStream(Stream):
    """Draws for every sample from the global generator."""

    def sample(self, index: int) -> Any:
        x, y = points()[index]
        return x + 0.1 * torch.randn(4), y


@scenario()
def iterable(script):
    return trained_on(script, DataLoader(Stream(), BATCH))


@scenario(slow=True)
def random_iterable(script):
    return trained_on(script, DataLoader(RandomStream(), BATCH))


class Batches:
    """An iterable of the script's own: a random walk through the data, with the numbers of the global generator."""

    def __iter__(self):
        xs, ys = points().tensors
        drift = torch.zeros(4)
        for _ in range(4):
            drift = drift + 0.1 * torch.randn(4)
            chosen = torch.randint(POINTS, (BATCH,))
            yield xs[chosen] + drift, ys[chosen]


@scenario()
def drawing_generator(script):
    return trained_on(script, Batches())


@scenario(slow=True)
def cycle_over_a_loader(script):
    """An endless iterator, made once and asked for some batches in each epoch."""
    model, loader = network(), shuffled()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)

    class Endless:
        def __iter__(self):
            while True:
                yield from loader

    run = script.run({"model": model, "optimizer": optimizer})
    for _ in run.epochs(EPOCHS):
        for x, y in run.batches(Endless(), limit=6):
            run.log(loss=learn(model, optimizer, x, y), seen=x.sum())


@scenario()
def cycle_through_itertools(script):
    """`itertools.cycle`, which keeps the first pass's batches: the whole training is one epoch of it."""
    model, loader = network(), shuffled()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    run = script.run({"model": model, "optimizer": optimizer})
    for _ in run.epochs(EPOCHS):
        for x, y in run.batches(Cycled(loader), limit=6):
            run.log(loss=learn(model, optimizer, x, y), seen=x.sum())


class Cycled:
    def __init__(self, loader: DataLoader[Any]) -> None:
        self.loader = loader

    def __iter__(self):
        return itertools.cycle(self.loader)


# Loaders with a state, and loaders made anew.


class StatefulLoader:
    """Knows where it stands, as torchdata's StatefulDataLoader does."""

    def __init__(self) -> None:
        self.order: list[int] = []
        self.at = 0
        self.resumed = False

    def __iter__(self):
        if not self.resumed:
            self.order, self.at = torch.randperm(POINTS).tolist(), 0
        self.resumed = False
        xs, ys = points().tensors
        while self.at < POINTS:
            chosen = self.order[self.at : self.at + BATCH]
            self.at += BATCH
            yield xs[chosen], ys[chosen]

    def __len__(self) -> int:
        return -(-POINTS // BATCH)

    def state_dict(self) -> dict[str, Any]:
        return {"order": list(self.order), "at": self.at}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.order, self.at, self.resumed = list(state["order"]), state["at"], True


class CountingLoader(StatefulLoader):
    """Its order depends on the number of the pass, which its state tells too."""

    passes = 0

    def __iter__(self):
        if not self.resumed:
            self.passes += 1
        for x, y in super().__iter__():
            yield x + 0.1 * self.passes, y

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "passes": self.passes}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.passes = state["passes"]


class EagerLoader(CountingLoader):
    """As torchdata's: `iter()` draws a seed and takes up a state, and that of a finished pass begins the next."""

    finished = False

    def __iter__(self):
        torch.empty((), dtype=torch.int64).random_()
        if self.resumed and self.finished:
            self.resumed = False
            torch.empty((), dtype=torch.int64).random_()
        self.finished = False
        batches = super().__iter__()
        return itertools.chain(batches, self.finish())

    def finish(self):
        self.finished = True
        yield from ()

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "finished": self.finished}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.finished = state["finished"]


@scenario()
def loader_with_its_own_state(script):
    return trained_on(script, StatefulLoader())


@scenario(slow=True)
def loader_that_counts_its_passes(script):
    loader = CountingLoader()
    trained_on(script, loader)
    return {"passes": loader.passes}


@scenario()
def loader_that_begins_the_next_pass_by_itself(script):
    loader = EagerLoader()
    trained_on(script, loader)
    return {"passes": loader.passes}


@scenario(slow=True)
def two_loops_over_a_loader_that_counts(script):
    model, loader = network(), CountingLoader()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    run = script.run({"model": model, "optimizer": optimizer})
    for _ in run.epochs(EPOCHS):
        for x, y in run.batches(loader):
            run.log(loss=learn(model, optimizer, x, y))
        for x, y in run.batches(loader):
            run.log(loss=learn(model, optimizer, x, y))
    return {"passes": loader.passes}


def made_anew(script: Script, seed_of: Any) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    run = script.run({"model": model, "optimizer": optimizer})
    for epoch in run.epochs(EPOCHS):
        loader = shuffled(generator=torch.Generator().manual_seed(seed_of(epoch)))
        for x, y in run.batches(loader):
            run.log(loss=learn(model, optimizer, x, y), seen=x.sum())


@scenario(slow=True)
def new_loader_seeded_by_epoch(script):
    made_anew(script, lambda epoch: epoch)


@scenario()
def new_loader_seeded_alike(script):
    made_anew(script, lambda epoch: 3)
