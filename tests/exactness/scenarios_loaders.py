"""Where the batches come from: samplers, workers, random numbers in the data."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
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
