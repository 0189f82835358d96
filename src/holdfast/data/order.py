"""Which sample stands at which position of an epoch."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sized
from typing import Any, Protocol

import blake3
import numpy as np
from numpy.typing import ArrayLike

from holdfast.data.keys import hashes, number
from holdfast.data.permutation import Indices, Permutation
from holdfast.errors import UsageError

Identity = dict[str, int | str]
"""What has to be the same for a position to mean the same, by the words that name it in an error."""


class Order(Protocol):
    """A sequence of ``length`` samples for each epoch, any part of which can be had by itself."""

    length: int

    def at(self, epoch: int, positions: Indices) -> Indices:
        """The samples at ``positions``, which are below ``length``, as int64."""

    def identity(self, epoch: int) -> Identity:
        """What this order is; ``epoch`` matters to those that only that epoch's samples tell apart."""


class Sequential:
    """The samples as they are numbered, in each epoch."""

    def __init__(self, length: int) -> None:
        self.length = length

    def at(self, epoch: int, positions: Indices) -> Indices:
        return positions

    def identity(self, epoch: int) -> Identity:
        return {"order": "sequential", "length": self.length}


class Shuffled:
    """Every sample once in each epoch, in an order of its own."""

    def __init__(self, length: int, seed: int) -> None:
        self.length, self._seed = length, seed

    def at(self, epoch: int, positions: Indices) -> Indices:
        return _permutation(self.length, self._seed, epoch)(positions)

    def identity(self, epoch: int) -> Identity:
        return {"order": "shuffled", "length": self.length, "seed": self._seed}


class Weighted:
    """``length`` draws with replacement, in which a sample comes as often as its weight says."""

    def __init__(self, weights: ArrayLike, length: int, seed: int) -> None:
        self.length, self._seed = length, seed
        given = np.asarray(weights, np.float64)
        if given.ndim != 1 or not given.size or not np.isfinite(given).all() or (given < 0).any() or not given.any():
            raise UsageError(
                f"weights: expected one number of at least 0 for each sample, and one above 0; got {weights!r:.80}."
            )
        self._cumulative = np.cumsum(given)
        self._last = int(np.flatnonzero(given)[-1])
        self._digest = blake3.blake3(given.astype("<f8").tobytes()).hexdigest(length=8)

    def at(self, epoch: int, positions: Indices) -> Indices:
        start = number("holdfast.data weights 1", self._seed, epoch)
        shares = (hashes(start, positions) >> np.uint64(11)) * (self._cumulative[-1] / (1 << 53))
        found: Indices = np.searchsorted(self._cumulative, shares, side="right").astype(np.int64)
        return np.minimum(found, self._last, out=found)

    def identity(self, epoch: int) -> Identity:
        return {"order": "weighted", "length": self.length, "seed": self._seed, "weights": self._digest}


class Drawn:
    """What a sampler of somebody else's yields, written down once for each epoch.

    It draws from generators that are seeded by ``seed`` and epoch, and leaves those of the process as they were. Its
    ``set_epoch(epoch)`` is called if it has one.
    """

    def __init__(self, sampler: Iterable[int], seed: int) -> None:
        if not isinstance(sampler, Sized):
            raise UsageError(f"{type(sampler).__qualname__} has no length: expected a sampler whose len() is known.")
        self.length, self._sampler, self._seed = len(sampler), sampler, seed
        self._drawn: tuple[int, Indices, str] | None = None

    def at(self, epoch: int, positions: Indices) -> Indices:
        return self._of_epoch(epoch)[0][positions]

    def identity(self, epoch: int) -> Identity:
        kind, (_, digest) = type(self._sampler).__qualname__, self._of_epoch(epoch)
        return {"order": kind, "length": self.length, "seed": self._seed, f"samples of epoch {epoch}": digest}

    def _of_epoch(self, epoch: int) -> tuple[Indices, str]:
        """The samples, and their digest, which each save asks for."""
        if self._drawn is None or self._drawn[0] != epoch:
            samples = self._draw(epoch)
            self._drawn = epoch, samples, blake3.blake3(samples.astype("<i8").tobytes()).hexdigest(length=8)
        return self._drawn[1:]

    def _draw(self, epoch: int) -> Indices:
        from holdfast.data.seeding import seeded

        set_epoch: Any = getattr(self._sampler, "set_epoch", None)
        with seeded(self._sampler, self._seed, epoch):
            if callable(set_epoch):
                set_epoch(epoch)
            found = list(self._sampler)
        if len(found) != self.length:
            raise UsageError(
                f"{type(self._sampler).__qualname__} yielded {len(found)} samples in epoch {epoch}, and its length is "
                f"{self.length}. Expected as many as it says."
            )
        try:
            return np.fromiter(found, np.int64, len(found))
        except (TypeError, ValueError) as error:
            raise UsageError(
                f"{type(self._sampler).__qualname__} yields {found[0]!r:.80}: expected numbers of samples. Give a "
                "sampler of single samples; batches are made of them."
            ) from error


@functools.lru_cache(4)
def _permutation(length: int, seed: int, epoch: int) -> Permutation:
    return Permutation(length, seed, epoch)
