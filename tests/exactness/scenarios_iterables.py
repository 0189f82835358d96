"""Batches from what is no plain loader of samples: streams, endless iterators, loaders that know their place."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset
from torchdata.stateful_dataloader import StatefulDataLoader

from tests.exactness.scenarios_loaders import trained_on
from tests.exactness.scripts import Script, scenario
from tests.exactness.training import BATCH, EPOCHS, POINTS, learn, network, points, shuffled


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


@scenario(slow=True)
def workers_and_an_iterable(script):
    return trained_on(script, DataLoader(Stream(), BATCH, num_workers=2))


@scenario(slow=True)
def workers_and_a_random_iterable(script):
    """The stream is produced again from its start, in workers that are seeded as before."""
    return trained_on(script, DataLoader(RandomStream(), BATCH, num_workers=2))


@scenario()
def iterable(script):
    return trained_on(script, DataLoader(Stream(), BATCH))


@scenario(slow=True)
def random_iterable(script):
    return trained_on(script, DataLoader(RandomStream(), BATCH))


@scenario()
def random_iterable_with_a_limit(script):
    """Behind the last batch that is wanted, none is fetched: it would draw."""
    model, loader = network(), DataLoader(RandomStream(), BATCH)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    run = script.run({"model": model, "optimizer": optimizer})
    for _ in run.epochs(EPOCHS):
        for x, y in run.batches(loader, limit=3):
            run.log(loss=learn(model, optimizer, x, y), seen=x.sum())


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


class UnknownLength(StatefulLoader):
    """As a stream's loader, which is asked for its next batch before the one at hand is saved."""

    __len__ = None  # type: ignore[assignment]


@scenario(ways=("at", "after", "raise"))
def loader_with_its_own_state_and_no_length(script):
    """Saves that are due, and the one on an error, hold the boundary before the batch that was fetched since."""
    model, loader = network(), UnknownLength()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    run = script.run({"model": model, "optimizer": optimizer})
    for _ in run.epochs(EPOCHS):
        for x, y in run.batches(loader):
            script.fail_here()
            run.log(loss=learn(model, optimizer, x, y), seen=x.sum())


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


class StatefulStream(Stream):
    """A stream whose workers say how far they have read."""

    def __init__(self) -> None:
        self.read = 0
        self.resumed = False

    def __iter__(self):
        skipped = self.read if self.resumed else 0
        self.read, self.resumed = skipped, False
        for sample in itertools.islice(super().__iter__(), skipped, None):
            self.read += 1
            yield sample

    def state_dict(self) -> dict[str, int]:
        return {"read": self.read}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.read, self.resumed = state["read"], True


@scenario(slow=True)
def torchdata_in_random_order(script):
    return trained_on(script, StatefulDataLoader(points(), BATCH, shuffle=True))


@scenario(slow=True)
def torchdata_with_a_stream_and_workers(script):
    return trained_on(script, StatefulDataLoader(StatefulStream(), BATCH, num_workers=2))


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
