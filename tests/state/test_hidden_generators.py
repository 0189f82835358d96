"""Random generators in places where a script does not hold them by a name of its own."""

from __future__ import annotations

import functools
import random
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, default_collate

from holdfast import Every, Run, latest
from holdfast.errors import ExactnessWarning
from holdfast.state.generator import find_generators
from holdfast.state.torch.cursors import make_cursor
from holdfast.state.torch.map_cursor import hidden_state


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def noise(x, g):
    return x + torch.randn(x.shape, generator=g)


class Points(Dataset):
    """Eight points, of which ``transform`` makes samples."""

    def __init__(self, transform=None):
        self.transform = transform

    def __len__(self):
        return 8

    def __getitem__(self, index):
        x = torch.full((2,), float(index))
        return x if self.transform is None else self.transform(x)


class Noise:
    """Noise from a generator of its own, by a call or by a method."""

    def __init__(self):
        self.g = seeded()

    def __call__(self, x):
        return noise(x, self.g)

    def method(self, x):
        return noise(x, self.g)

    def collate(self, samples):
        return noise(default_collate(samples), self.g)


class Collating(Noise):
    def __call__(self, samples):
        return self.collate(samples)


class Compose:
    def __init__(self, *transforms):
        self.transforms = list(transforms)

    def __call__(self, x):
        return functools.reduce(lambda value, one: one(value), self.transforms, x)


def closure():
    g = seeded()
    return lambda x: noise(x, g)


def default():
    return lambda x, g=seeded(): noise(x, g)  # noqa: B008  a generator made once is what is tested


def keyword_default():
    def transform(x, *, g=seeded()):  # noqa: B008  the same
        return noise(x, g)

    return transform


def decorated():
    inner = closure()

    @functools.wraps(inner)
    def outer(x):
        return inner(x)

    return outer


def numpy_method():
    normal = np.random.default_rng(3).normal
    return lambda x: x + float(normal())


TRANSFORMS = {
    "closure": (closure, "dataset.transform.<closure>.g"),
    "default": (default, "dataset.transform.<default>.g"),
    "keyword_default": (keyword_default, "dataset.transform.<default>.g"),
    "decorated": (decorated, "dataset.transform.<closure>.inner.<closure>.g"),
    "partial": (lambda: functools.partial(noise, g=seeded()), "dataset.transform.keywords.g"),
    "method": (lambda: Noise().method, "dataset.transform.<self>.g"),
    "numpy_method": (numpy_method, "dataset.transform.<closure>.normal.<self>"),
    "composed": (lambda: Compose(Noise()), "dataset.transform.transforms.0.g"),
    "composed_closure": (lambda: Compose(closure()), "dataset.transform.transforms.0.<closure>.g"),
}
COLLATES = {
    "object": (Collating, "collate_fn.g"),
    "method": (lambda: Noise().collate, "collate_fn.<self>.g"),
    "closure": (lambda: collating(closure()), "collate_fn.<closure>.transform.<closure>.g"),
    "partial": (lambda: functools.partial(collated, transform=closure()), "collate_fn.keywords.transform.<closure>.g"),
}


def collated(samples, transform):
    return transform(default_collate(samples))


def collating(transform):
    return lambda samples: collated(samples, transform)


def loader_with(transform=None, collate=None, **options):
    return DataLoader(Points(transform), batch_size=2, collate_fn=collate, **options)


@pytest.mark.parametrize("name", list(TRANSFORMS))
def test_a_generator_behind_a_function_of_the_dataset_is_found(name):
    """By a path that tells where it is, the same in every process."""
    make, path = TRANSFORMS[name]
    assert path in make_cursor(loader_with(make()), "here").generators


@pytest.mark.parametrize("name", list(COLLATES))
def test_a_generator_behind_the_collate_function_is_found(name):
    """Likewise."""
    make, path = COLLATES[name]
    assert path in make_cursor(loader_with(collate=make()), "here").generators


def test_those_that_collate_in_workers_are_left_to_the_workers():
    """What the main process holds of them is a copy that nothing draws from."""
    loader = loader_with(collate=Collating(), num_workers=1)
    assert make_cursor(loader, "here").generators == {}


def test_a_generator_that_several_parts_of_a_loader_share_is_found_once():
    """A sampler leads to its dataset, and a batch sampler to its sampler."""
    transform = closure()
    loader = loader_with(transform, collating(transform), shuffle=True, generator=seeded())
    assert sorted(make_cursor(loader, "here").generators) == [
        "dataset.transform.<closure>.g",
        "generator",
        "sampler.generator",
    ]


def test_a_method_leads_to_its_object_and_a_class_to_what_it_keeps():
    """A generator that all objects of a class share, and one in the defaults of a method, are found too."""

    class Shared:
        own = random.Random(0)

        def draw(self, g=random.Random(1)):  # noqa: B008  a generator made once is what is tested
            return g.random()

    assert set(find_generators(Shared().draw)) == {"<self>.own", "<method>.<default>.g"}


def test_a_name_without_a_value_and_functions_in_circles_end_the_search():
    """Closures may be read before they are complete."""

    def ring():
        return ring, absent, g

    g = random.Random(0)
    assert list(find_generators(ring)) == ["<closure>.g"]
    if g is None:
        absent = 0


def test_global_names_of_functions_are_not_searched():
    """A module's namespace leads everywhere."""
    assert find_generators(lambda: GLOBAL) == {}


GLOBAL = random.Random(0)


def test_the_search_in_a_large_web_of_objects_is_short():
    """It runs in every pass, so it gives up where only data can be."""
    web = [[SimpleNamespace(rows=[object() for _ in range(8)]) for _ in range(64)] for _ in range(64)]
    start = time.perf_counter()
    assert find_generators(web) == {}
    assert time.perf_counter() - start < 1


class Job:
    """A small training whose weights depend on every sample that it has seen."""

    def __init__(self, loader):
        torch.manual_seed(0)
        self.model = nn.Linear(2, 1)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01)
        self.loader = loader

    def train(self, folder, stop=None, every=3):
        """Returns the weights after two epochs, or None where it stops: as if killed after the last save."""
        state = {"model": self.model, "optimizer": self.optimizer}
        with Run(folder, state, save=Every(batches=every)) as run:
            for _ in run.epochs(2):
                for x in run.batches(self.loader):
                    if run.progress.batches == stop:
                        raise Stopped
                    self.model(x).square().mean().backward()
                    self.optimizer.step()
                    self.optimizer.zero_grad()
                    run.wait()
        return self.model.weight.detach()


class Stopped(Exception):
    """In place of a kill: this policy saves nothing on an error."""


QUICK = [("closure", None, 5), ("closure", None, 7), ("keyword_default", None, 7), ("composed_closure", None, 7),
         ("numpy_method", None, 7), (None, "object", 5), (None, "method", 7), (None, "partial", 7)]  # fmt: skip
EVERY = [(name, None, stop) for name in TRANSFORMS for stop in (5, 7)]
EVERY += [(None, name, stop) for name in COLLATES for stop in (5, 7)]
SLOW = [pytest.param(*one, marks=pytest.mark.slow) for one in EVERY if one not in QUICK]


@pytest.mark.parametrize(("transform", "collate", "stop"), [*QUICK, *SLOW])
def test_a_resumed_run_sees_the_numbers_of_one_that_was_not_interrupted(tmp_path, transform, collate, stop):
    """The weights after a stop in either epoch are those of the twin, bit for bit."""

    def make():
        one, other = TRANSFORMS.get(transform), COLLATES.get(collate)
        return loader_with(one and one[0](), other and other[0](), shuffle=True)

    whole = Job(make()).train(tmp_path / "twin")
    with pytest.raises(Stopped):
        Job(make()).train(tmp_path / "run", stop=stop)
    assert latest(tmp_path / "run").progress.batches == stop // 3 * 3  # neither epoch ends there
    assert torch.equal(Job(make()).train(tmp_path / "run"), whole)


class Counting(Points):
    """Counts what it hands out, and lets the samples depend on it."""

    def __init__(self):
        super().__init__()
        self.count, self.name = 0, "counting"

    def __getitem__(self, index):
        self.count += 1
        return super().__getitem__(index) + self.count


class CountingStream(IterableDataset):
    def __init__(self):
        self.passes = 0

    def __iter__(self):
        self.passes += 1
        return iter(torch.full((4, 2), float(self.passes)))


@pytest.mark.parametrize(
    ("dataset", "name"),
    [
        (Counting, "dataset.count"),
        (CountingStream, "dataset.passes"),
        (lambda: Subset(Counting(), range(4)), "dataset.dataset.count"),
    ],
    ids=["map", "iterable", "subset"],
)
def test_a_number_that_a_dataset_changes_is_named(tmp_path, dataset, name):
    """From pass to pass, as no resume can know it; said once."""
    with pytest.warns(ExactnessWarning) as told:
        Job(DataLoader(dataset(), batch_size=2)).train(tmp_path / "run", every=100)
    assert [name in str(one.message) for one in told] == [True]


class Restorable(Counting):
    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = state["count"]


class Scheduled(Points):
    epoch = 0

    def set_epoch(self, epoch):
        self.epoch = epoch


@pytest.mark.parametrize(
    "loader",
    [
        lambda: DataLoader(Counting(), num_workers=1),
        lambda: DataLoader(Restorable()),
        lambda: DataLoader(Scheduled()),
        lambda: DataLoader([torch.ones(1)]),
    ],
    ids=["workers", "state_dict", "set_epoch", "list"],
)
def test_what_the_workers_copy_or_the_script_restores_is_not_watched(loader):
    """Neither are the datasets of torch itself."""
    one = loader()
    getattr(one.dataset, "set_epoch", lambda _: None)(3)
    assert hidden_state(one) == {}
