"""The loader: augmentation that belongs to the sample, and a position that is what was consumed."""

import random

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader as TorchDataLoader
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from holdfast.data import DataLoader, Sampler
from holdfast.errors import DataOrderError, UsageError
from holdfast.state.torch import rng


class Augmented(Dataset):
    """Samples with noise out of every generator that there is, private ones included."""

    def __init__(self, length=20):
        self.length = length
        self.private = np.random.default_rng(0)
        self.own = random.Random(0)
        self.generator = torch.Generator()

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        noise = [
            random.random(), np.random.random(), self.private.random(), self.own.random(),
            torch.rand(()).item(), torch.rand((), generator=self.generator).item(),
        ]  # fmt: skip
        return torch.tensor([float(index), *noise], dtype=torch.float64)


def mixed(samples):
    """A collation that draws too."""
    batch = torch.stack(samples)
    return batch + torch.rand(()) + random.random()


def epochs(loader, count=2):
    return [[batch.clone() for batch in loader] for _ in range(count)]


def equal(one, other):
    return len(one) == len(other) and all(map(torch.equal, one, other))


@pytest.mark.parametrize("collate", [None, mixed])
@pytest.mark.parametrize(
    "workers", [{"num_workers": 1}, {"num_workers": 2}, {"num_workers": 2, "persistent_workers": True}]
)
def test_augmentation_is_the_same_with_any_number_of_workers(workers, collate):
    """Bit for bit, in every epoch, with whatever generator it draws."""
    options = {"batch_size": 4, "shuffle": True, "seed": 5, "collate_fn": collate}
    here = epochs(DataLoader(Augmented(), **options))
    there = epochs(DataLoader(Augmented(), **options, **workers))
    assert all(map(equal, here, there))
    assert not equal(*here)


def test_a_sample_is_augmented_alike_in_batches_of_any_size():
    """It depends on seed, epoch and sample only."""
    one, other = (torch.cat(list(DataLoader(Augmented(), size, shuffle=True))) for size in (3, 8))
    assert torch.equal(one, other)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_random_numbers_of_the_training_do_not_move(num_workers):
    """Neither by the order nor by what samples draw."""
    before = rng.capture()
    epochs(DataLoader(Augmented(), 4, shuffle=True, num_workers=num_workers))
    assert rng.same(before, rng.capture())


@pytest.mark.parametrize(
    "workers", [{}, {"num_workers": 2, "prefetch_factor": 4}, {"num_workers": 1, "persistent_workers": True}]
)
def test_the_position_is_what_was_handed_out(workers):
    """Not what workers have fetched ahead; a fresh loader goes on right there, with another number of workers."""
    whole = list(DataLoader(Augmented(), 4, shuffle=True))
    loader = DataLoader(Augmented(), 4, shuffle=True, **workers)
    batches = iter(loader)
    found = [next(batches), next(batches)]
    state = loader.state_dict()
    del batches
    other = DataLoader(Augmented(), 4, shuffle=True)
    other.load_state_dict(state)
    assert equal(found + list(other), whole)
    assert (other.state_dict()["epoch"], other.state_dict()["samples"]) == (1, 0)


def test_other_parts_of_torchs_loader_are_as_they_were():
    """The dataset and the collation are the ones that were given, its length is that of the epoch."""
    dataset = Augmented()
    loader = DataLoader(dataset, 8, collate_fn=mixed, drop_last=True)
    assert isinstance(loader, TorchDataLoader)
    assert (loader.dataset, loader.collate_fn, len(loader)) == (dataset, mixed, 2)
    next(iter(loader))
    assert (loader.dataset, loader.collate_fn) == (dataset, mixed)


def test_what_torch_collates_is_collated_alike():
    """Dicts, tuples and numbers."""
    samples = [{"x": torch.tensor([float(one)]), "y": (one, "a")} for one in range(5)]
    ours, theirs = list(DataLoader(samples, 2)), list(TorchDataLoader(samples, 2))
    assert str(ours) == str(theirs)


def test_a_wrapped_sampler_decides_the_order():
    """Any of torch's, and one for a sampler of ours that was made before."""
    weights = torch.utils.data.WeightedRandomSampler([0.0, 1.0], 50)
    assert set(torch.cat(list(DataLoader([0, 1], 8, sampler=weights))).tolist()) == {1}
    batches = Sampler(20, batch_size=7, shuffle=False)
    assert [len(one) for one in DataLoader(Augmented(), batch_sampler=batches)] == [7, 7, 6]


class Stream(IterableDataset):
    def __iter__(self):
        return iter(range(3))


@pytest.mark.parametrize(
    ("dataset", "options", "message"),
    [
        (Stream(), {}, "Stream: expected a dataset with samples by number"),
        (iter([1]), {}, "expected a dataset with samples by number"),
        ([1, 2], {"batch_size": 0}, "batch_size=0"),
        ([1, 2], {"batch_size": None}, "batch_size=None"),
        ([], {}, "length=0"),
        ([1, 2], {"generator": torch.Generator()}, "seed=, which takes its place"),
        ([1, 2], {"num_workers": 1, "in_order": False}, "speed of the workers"),
        ([1, 2], {"batch_sampler": [[0, 1]]}, r"expected a holdfast\.data\.Sampler"),
        (
            [1, 2],
            {"batch_sampler": Sampler(2, batch_size=1), "shuffle": True},
            "shuffle: the business of batch_sampler=",
        ),
        ([1, 2], {"sampler": [0, 1], "shuffle": True}, "sampler= decides the order by itself"),
    ],
)
def test_what_it_cannot_do_is_refused(dataset, options, message):
    """When it is made, with what was expected."""
    with pytest.raises(UsageError, match=message):
        DataLoader(dataset, **options)


def test_a_dataset_with_a_fingerprint_is_told_from_another():
    """That of a Hugging Face dataset is in its loader's state by itself."""

    class Fingerprinted(list):
        _fingerprint = "a1"

    state = DataLoader(Fingerprinted([1, 2]), 1).state_dict()
    other = Fingerprinted([1, 2])
    other._fingerprint = "b2"
    with pytest.raises(DataOrderError, match="fingerprint: a1 in the state, b2 here"):
        DataLoader(other, 1).load_state_dict(state)


class Dying(Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        if index == 5:
            raise ValueError("sample 5 is broken")
        return index


@pytest.mark.parametrize("num_workers", [0, 1])
def test_what_a_sample_raises_arrives(num_workers):
    """As from torch's loader, and the random numbers of the training are as they were."""
    before = rng.capture()
    with pytest.raises(ValueError, match="sample 5 is broken"):
        list(DataLoader(Dying(), 2, num_workers=num_workers))
    assert rng.same(before, rng.capture())


def test_tensors_by_number_are_samples_too():
    """Torch's own TensorDataset."""
    (batch,) = DataLoader(TensorDataset(torch.arange(3), torch.arange(3)), 3)
    assert [one.tolist() for one in batch] == [[0, 1, 2], [0, 1, 2]]
