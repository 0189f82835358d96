"""Random numbers that belong to a sample: seeded by it, and gone without a trace in the training process."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy import random as numpy_random
from torch.utils.data import get_worker_info

from holdfast.data.batch import Batch
from holdfast.data.keys import hashes, key, number, words
from holdfast.state.torch import rng

_DEPTH = 5
"""Attributes down to which private generators of a dataset and its transforms are looked for."""


class Seeded:
    """A dataset whose randomness depends on the sample, and the collation of batches of it.

    Before each sample the generators of Python, NumPy and torch, and those that the dataset holds, are seeded by
    ``seed``, epoch and sample; before a batch is collated, by its first sample. In the training process, whose random
    numbers are none of its business, the global ones are put back behind each batch.
    """

    def __init__(self, dataset: Any, collate: Callable[[list[Any]], Any], seed: int) -> None:
        self._dataset, self._collate, self._seed = dataset, collate, seed
        self._generators: dict[str, Any] | None = None

    def __getitems__(self, batch: Batch) -> Any:
        """The collated batch, which is what torch's fetcher asks a dataset for."""
        if get_worker_info() is not None:
            return self._fetched(batch)
        before = rng.capture()
        try:
            return self._fetched(batch)
        finally:
            rng.restore(before)

    def _fetched(self, batch: Batch) -> Any:
        if self._generators is None:  # looked for where they are used: a worker has copies
            self._generators = rng.find_generators((self._dataset, self._collate), depth=_DEPTH)
        found = []
        for sample, seeds in zip(batch, _seeds("sample", self._seed, batch.epoch, batch), strict=True):
            seed_all(*seeds, self._generators)
            found.append(self._dataset[sample])
        for seeds in _seeds("batch", self._seed, batch.epoch, batch[:1]):
            seed_all(*seeds, self._generators)
        return self._collate(found)


def _seeds(purpose: str, seed: int, epoch: int, samples: list[int]) -> Iterator[tuple[int, int, int]]:
    """For each of ``samples``, numbers of 64 bits for three generators.

    From the same number, those of Python and NumPy would draw the same.
    """
    starts = words(key(f"holdfast.data {purpose} 1", seed, epoch, size=24))
    numbers = np.array(samples, np.int64)
    python, numpy, cpu = (hashes(start, numbers).tolist() for start in starts)
    return zip(python, numpy, cpu, strict=True)


def as_it_is(batch: Any) -> Any:
    """The collation of what is collated already."""
    return batch


@contextlib.contextmanager
def seeded(holder: Any, seed: int, epoch: int) -> Iterator[None]:
    """Global generators and those that ``holder`` has are seeded, and put back at the end."""
    generators = rng.find_generators(holder, depth=_DEPTH)
    own = {path: rng.generator_state(one) for path, one in generators.items()}
    before = rng.capture()
    python, numpy, cpu = words(key("holdfast.data sampler 1", seed, epoch, size=24))
    seed_all(python, numpy, cpu, generators)
    try:
        yield
    finally:
        rng.restore(before)
        for path, one in generators.items():
            rng.set_generator_state(one, own[path])


def seed_all(python: int, numpy: int, cpu: int, generators: Mapping[str, Any]) -> None:
    """Seeds the global generators on the CPU by numbers of 64 bits, and each of ``generators`` by another one."""
    random.seed(python)
    try:
        numpy_random.seed(numpy >> 32)  # 32 bits: for more, NumPy takes five times as long, in each sample
    except TypeError:  # somebody has set a generator of another kind
        bits: Any = numpy_random.get_state.__self__._bit_generator  # type: ignore[attr-defined]
        numpy_random.set_state(type(bits)(numpy).state)
    torch.default_generator.manual_seed(cpu)
    for index, one in enumerate(generators.values()):
        _seed(one, number("holdfast.data generator 1", python, index))


def _seed(generator: Any, seed: int) -> None:
    if isinstance(generator, random.Random):
        generator.seed(seed)
    elif isinstance(generator, torch.Generator):
        generator.manual_seed(seed)
    elif isinstance(generator, numpy_random.Generator):
        generator.bit_generator.state = type(generator.bit_generator)(seed).state
    else:
        generator.set_state(type(generator._bit_generator)(seed).state)
