"""Random numbers that belong to a sample: seeded by it, and gone without a trace in the training process."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch.utils.data import get_worker_info

from holdfast.data.batch import Batch
from holdfast.data.keys import key, number, words
from holdfast.state.torch import rng

SEED = 24
"""Bytes of a seed: 64 bits for each of three global generators."""
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
        for sample in batch:
            seed_all(key("holdfast.data sample 1", self._seed, batch.epoch, sample, size=SEED), self._generators)
            found.append(self._dataset[sample])
        seed_all(key("holdfast.data batch 1", self._seed, batch.epoch, batch[0], size=SEED), self._generators)
        return self._collate(found)


def as_it_is(batch: Any) -> Any:
    """The collation of what is collated already."""
    return batch


@contextlib.contextmanager
def seeded(holder: Any, seed: bytes) -> Iterator[None]:
    """Global generators and those that ``holder`` has are seeded, and put back at the end."""
    generators = rng.find_generators(holder, depth=_DEPTH)
    own = {path: rng.generator_state(one) for path, one in generators.items()}
    before = rng.capture()
    seed_all(seed, generators)
    try:
        yield
    finally:
        rng.restore(before)
        for path, one in generators.items():
            rng.set_generator_state(one, own[path])


def seed_all(seed: bytes, generators: Mapping[str, Any]) -> None:
    """Seeds the global generators on the CPU by the `SEED` bytes of ``seed``, and each of ``generators`` by others.

    Each gets a number of its own: from the same one, those of Python and NumPy would draw the same.
    """
    python, numpy, cpu = words(seed)
    random.seed(python)
    _seed_numpy(numpy)
    torch.default_generator.manual_seed(cpu)
    for index, one in enumerate(generators.values()):
        _seed(one, number("holdfast.data generator 1", python, index))


def _seed_numpy(seed: int) -> None:
    bits: Any = np.random.get_state.__self__._bit_generator  # type: ignore[attr-defined]  # somebody may have set it
    if type(bits) is np.random.MT19937:
        np.random.seed((seed & 0xFFFFFFFF, seed >> 32))
    else:
        np.random.set_state(type(bits)(seed).state)


def _seed(generator: Any, seed: int) -> None:
    if isinstance(generator, random.Random):
        generator.seed(seed)
    elif isinstance(generator, torch.Generator):
        generator.manual_seed(seed)
    elif isinstance(generator, np.random.Generator):
        generator.bit_generator.state = type(generator.bit_generator)(seed).state
    else:
        generator.set_state(type(generator._bit_generator)(seed).state)
