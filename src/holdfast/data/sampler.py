"""A batch sampler that is at any position at once, whatever the number of ranks, workers and samples in a batch."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from holdfast.data.batch import Batch
from holdfast.data.division import Division, Uneven
from holdfast.data.order import Drawn, Identity, Order, Sequential, Shuffled, Weighted
from holdfast.errors import DataOrderError, UsageError

_FEWEST, _MOST = 1 << 9, 1 << 14
"""Samples whose numbers are computed at a time: few at first, so that the first batch is there at once."""


class Sampler:
    """Yields batches of sample numbers, as lists, for a DataLoader's ``batch_sampler``; it never holds their order.

    The sample at a position of an epoch depends on ``seed``, epoch and position only. So a position, which is how many
    samples the whole job has consumed, is all there is to store, it is reached at once, and another batch size, number
    of workers or ``world_size`` goes on from it: every sample of the epoch still comes exactly once, in the same order.

    Each pass is an epoch, and the next one begins the epoch after it, also where a pass was left. ``shuffle=False``
    keeps the samples as they are numbered. With ``weights``, one for each sample, ``draws`` samples (as many as there
    are, if it is not given) are drawn with replacement. ``rank`` and ``world_size`` are those of ``torch.distributed``
    if it is initialized; in a job that shards its model too they are those of data parallelism. ``drop_last`` leaves
    out what is too little for a whole step, ``uneven`` is what becomes of samples that ranks cannot share evenly:
    ``"refuse"``, ``"pad"`` or ``"drop"``. A ``fingerprint`` of the dataset, any text, is checked on a resume.

    Raises `UsageError` for numbers that make no sense.

    >>> sampler = Sampler(10, batch_size=4, seed=0)
    >>> list(sampler)
    [[7, 0, 2, 5], [1, 6, 4, 8], [3, 9]]
    >>> sampler.seek(epoch=0, samples=4)
    >>> list(sampler)
    [[1, 6, 4, 8], [3, 9]]
    """

    def __init__(
        self, length: int, *, batch_size: int, shuffle: bool = True, seed: int = 0, weights: ArrayLike | None = None,
        draws: int | None = None, drop_last: bool = False, uneven: Uneven = "refuse", rank: int | None = None,
        world_size: int | None = None, fingerprint: str | None = None,
    ) -> None:  # fmt: skip
        length, seed = _whole("length", length, 1), _whole("seed", seed, None)
        order = _order(length, shuffle, seed, weights, draws)
        self._set_up(order, batch_size, drop_last, uneven, rank, world_size, fingerprint)

    @classmethod
    def wrap(
        cls, sampler: Iterable[int], *, batch_size: int, seed: int = 0, drop_last: bool = False,
        uneven: Uneven = "refuse", rank: int | None = None, world_size: int | None = None,
        fingerprint: str | None = None,
    ) -> Sampler:  # fmt: skip
        """The same for the order of another sampler, such as any of ``torch.utils.data``, of single samples.

        What it yields is written down at the beginning of each epoch, drawn from generators that are seeded by ``seed``
        and epoch: 8 bytes for each sample. Where it yields something else after a resume, that is refused.
        """
        made = cls.__new__(cls)
        order = Drawn(sampler, _whole("seed", seed, None))
        made._set_up(order, batch_size, drop_last, uneven, rank, world_size, fingerprint)
        return made

    def _set_up(
        self, order: Order, batch_size: int, drop_last: bool, uneven: Uneven, rank: int | None, world_size: int | None,
        fingerprint: str | None,
    ) -> None:  # fmt: skip
        self.batch_size = _whole("batch_size", batch_size, 1)
        self.drop_last = drop_last
        if uneven not in ("refuse", "pad", "drop"):
            raise UsageError(f'uneven={uneven!r}: expected "refuse", "pad" or "drop".')
        if (rank is None) != (world_size is None):
            raise UsageError("rank and world_size belong together: give both, or neither.")
        self._order, self._uneven, self._fingerprint = order, uneven, fingerprint
        self._ranks = None if rank is None or world_size is None else _ranks(rank, world_size)
        self._next = self._pass = (0, 0)
        self._yielded, self._over = 0, False
        self._require_batches()

    @property
    def epoch(self) -> int:
        """The epoch of the pass that was begun last; before the first one, of the one to come."""
        return self._pass[0]

    def __len__(self) -> int:
        """Batches of a whole epoch, for each rank."""
        return self._division.count(0, self._order.length)

    def __iter__(self) -> Iterator[Batch]:
        # A loader with workers asks for two iterators, and uses the second: a pass begins with its first batch.
        self._pass, self._yielded, self._over = self._next, 0, False
        return self._batches(*self._pass, self._division)

    def begin(self) -> None:
        """Counts the pass as begun, which its first batch does else: the next one is another epoch."""
        self._next = self._pass[0] + 1, 0

    def seek(self, *, epoch: int, samples: int = 0) -> None:
        """Makes the next pass one of this epoch, from behind the first ``samples`` samples of the whole job on.

        Raises `DataOrderError` for a position beyond the end of the epoch.
        """
        epoch, samples = _whole("epoch", epoch, 0), _whole("samples", samples, 0)
        if samples > self._order.length:
            raise DataOrderError(
                f"position {samples} is beyond the end of an epoch of {self._order.length} samples. Is it the dataset "
                "of the run?"
            )
        self._next = self._pass = epoch, samples
        self._yielded, self._over = 0, False

    @property
    def step(self) -> int:
        """Samples that all ranks together consume at a time."""
        return self._division.step

    def batches_left(self) -> int:
        """How many batches the pass has, from its beginning on."""
        return self._division.count(self._pass[1], self._order.length)

    def consumed(self, batches: int) -> int:
        """How many samples of the epoch the whole job has consumed when so many batches of the pass are done."""
        return self._division.reached(self._pass[1], self._order.length, batches)

    def state_dict(self, batches: int | None = None) -> dict[str, Any]:
        """Where the job stands when ``batches`` batches of the pass are done: epoch, samples, and of what order.

        Without ``batches`` it is all that were yielded, which a loader with workers has not handed out yet; behind the
        end of the pass, the beginning of the next one.
        """
        if batches is None and self._over:
            return self.state_ahead()
        samples = self.consumed(self._yielded if batches is None else batches)
        return self._state(self._pass[0], samples)

    def state_ahead(self) -> dict[str, Any]:
        """Where the next pass begins."""
        return self._state(*self._next)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Makes the next pass the rest of the one that ``state`` is of.

        Raises `DataOrderError` if that was one over other data or in another order, and changes nothing then.
        """
        try:
            epoch, samples, saved = int(state["epoch"]), int(state["samples"]), dict(state["identity"])
        except (KeyError, TypeError, ValueError) as error:
            raise DataOrderError(f"this is no state of a holdfast.data.Sampler: {state!r:.200}") from error
        here = self._identity(epoch)
        different = [
            f"{name}: {saved.get(name, 'nothing')} in the state, {here.get(name, 'nothing')} here"
            for name in {**saved, **here}
            if saved.get(name) != here.get(name)
        ]
        if different:
            raise DataOrderError(
                "the order of the samples is not the one of the run, so its position means something else. Build the "
                "sampler as it was, or start a new run:\n  " + "\n  ".join(different)
            )
        self.seek(epoch=epoch, samples=samples)

    @property
    def _division(self) -> Division:
        rank, world_size = self._ranks if self._ranks is not None else _distributed()
        return Division(
            batch_size=self.batch_size, rank=rank, world_size=world_size, drop_last=self.drop_last,
            uneven=self._uneven,
        )  # fmt: skip

    def _batches(self, epoch: int, begin: int, division: Division) -> Iterator[Batch]:
        self.begin()
        total = self._order.length
        count = division.count(begin, total)
        for first, last in _parts(count, self.batch_size):
            positions = division.positions(begin, total, first, last)
            samples = self._order.at(epoch, np.concatenate(positions)).tolist()
            end = 0
            for one in positions:
                start, end = end, end + len(one)
                self._yielded += 1
                yield Batch(epoch, samples[start:end])
        self._over = True

    def _state(self, epoch: int, samples: int) -> dict[str, Any]:
        return {"epoch": epoch, "samples": samples, "step": self.step, "identity": self._identity(epoch)}

    def _identity(self, epoch: int) -> Identity:
        marks: Identity = {} if self._fingerprint is None else {"fingerprint": self._fingerprint}
        return self._order.identity(epoch) | marks

    def _require_batches(self) -> None:
        if not len(self):
            division = self._division
            raise UsageError(
                f"{self._order.length} samples make no batch of {division.batch_size} for {division.world_size} "
                f"rank{'s' * (division.world_size > 1)}: take smaller batches or fewer ranks, or keep what is left."
            )


def _parts(count: int, batch_size: int) -> Iterator[tuple[int, int]]:
    """``count`` batches in parts, each twice as large as the one before up to a most.

    >>> list(_parts(10, 256)), list(_parts(2, 10**6))
    ([(0, 2), (2, 6), (6, 10)], [(0, 1), (1, 2)])
    """
    first, samples = 0, _FEWEST
    while first < count:
        last = min(first + max(samples // batch_size, 1), count)
        yield first, last
        first, samples = last, min(2 * samples, _MOST)


def _order(length: int, shuffle: bool, seed: int, weights: ArrayLike | None, draws: int | None) -> Order:
    if weights is None:
        if draws is not None:
            raise UsageError("draws= is how many samples are drawn by weights=: give both.")
        return Shuffled(length, seed) if shuffle else Sequential(length)
    given = np.asarray(weights)
    if given.shape != (length,):
        raise UsageError(f"weights: expected {length} numbers, one for each sample; got an array of {given.shape}.")
    return Weighted(given, length if draws is None else _whole("draws", draws, 1), seed)


def _ranks(rank: int, world_size: int) -> tuple[int, int]:
    world_size = _whole("world_size", world_size, 1)
    if not 0 <= _whole("rank", rank, 0) < world_size:
        raise UsageError(f"rank={rank}: expected one from 0 to {world_size - 1}.")
    return rank, world_size


def _distributed() -> tuple[int, int]:
    """Rank and world size of the process group, if there is one."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()


def _whole(name: str, value: Any, least: int | None) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or (least is not None and value < least):
        expected = "a whole number" if least is None else f"a whole number from {least} on"
        raise UsageError(f"{name}={value!r}: expected {expected}.")
    return int(value)
