"""A torch DataLoader whose order and augmentation depend on seed, epoch and sample only."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from numpy.typing import ArrayLike
from torch.utils.data import DataLoader as TorchDataLoader
from torch.utils.data import IterableDataset, default_collate

from holdfast.data.division import Uneven
from holdfast.data.keys import number
from holdfast.data.sampler import Sampler
from holdfast.data.seeding import Seeded, as_it_is
from holdfast.errors import UsageError


class DataLoader(TorchDataLoader[Any]):
    """torch's DataLoader with a `Sampler`, and random numbers for each sample.

    What Python's, NumPy's and torch's generators give inside ``dataset[i]``, and what those give that the dataset and
    its transforms hold, depends on ``seed``, the epoch and ``i`` only; inside ``collate_fn``, on the first sample of
    the batch. So augmentation is the same, bit for bit, with any number of workers, persistent ones too, and after any
    resume. The generators of the training process are left as they were.

    Takes what torch's takes and what `Sampler` does. ``sampler`` is any sampler of single samples, wrapped by
    `Sampler.wrap`; ``batch_sampler`` is a `Sampler`. A ``fingerprint`` of the dataset is checked on a resume; that of a
    Hugging Face dataset is taken by itself. `state_dict` is where the job stands behind the batches that were handed
    out, not behind those that workers have fetched ahead.

    Raises `UsageError` for a dataset that has no samples by number, and for options that are not for this.

    >>> loader = DataLoader(range(10), batch_size=4, shuffle=True, seed=0)
    >>> first = [batch.tolist() for batch in loader]
    >>> loader.load_state_dict({**loader.state_dict(), "epoch": 0, "samples": 4})
    >>> [batch.tolist() for batch in loader] == first[1:]
    True
    """

    def __init__(
        self, dataset: Any, batch_size: int = 1, shuffle: bool = False, sampler: Iterable[int] | None = None,
        batch_sampler: Sampler | None = None, num_workers: int = 0,
        collate_fn: Callable[[list[Any]], Any] | None = None, *, seed: int = 0, weights: ArrayLike | None = None,
        draws: int | None = None, drop_last: bool = False, uneven: Uneven = "refuse", rank: int | None = None,
        world_size: int | None = None, fingerprint: str | None = None, **options: Any,
    ) -> None:  # fmt: skip
        _check(dataset, batch_size, options)
        given = {
            "batch_size": batch_size != 1, "shuffle": shuffle, "sampler": sampler is not None, "drop_last": drop_last,
            "weights": weights is not None, "draws": draws is not None, "uneven": uneven != "refuse",
            "rank": rank is not None, "world_size": world_size is not None, "fingerprint": fingerprint is not None,
        }  # fmt: skip
        common: dict[str, Any] = {
            "batch_size": batch_size, "seed": seed, "drop_last": drop_last, "uneven": uneven, "rank": rank,
            "world_size": world_size, "fingerprint": fingerprint or _fingerprint(dataset),
        }  # fmt: skip
        if batch_sampler is not None:
            _check_alone(batch_sampler, [name for name, is_given in given.items() if is_given])
        elif sampler is not None:
            if shuffle or weights is not None or draws is not None:
                raise UsageError("sampler= decides the order by itself: without shuffle=, weights= and draws=.")
            batch_sampler = Sampler.wrap(sampler, **common)
        else:
            batch_sampler = Sampler(len(dataset), shuffle=shuffle, weights=weights, draws=draws, **common)
        self.seed = seed
        self._handed_out, self._over = 0, False
        # Its own: torch draws a seed for the workers in each pass, which would be one number less for the training.
        generator = torch.Generator()
        generator.manual_seed(number("holdfast.data workers 1", seed))
        super().__init__(
            dataset, batch_sampler=batch_sampler, num_workers=num_workers, collate_fn=collate_fn or default_collate,
            generator=generator, **options,
        )  # fmt: skip

    @property
    def random_by_sample(self) -> bool:
        """Whether random numbers in workers depend on the sample only, so that a resume repeats them."""
        return True

    def __iter__(self) -> Any:
        self._handed_out, self._over = 0, False
        return _Pass(self, super().__iter__())

    def state_dict(self) -> dict[str, Any]:
        """Where the whole job stands behind the batches that this rank was handed out; see `Sampler.state_dict`."""
        sampler: Any = self.batch_sampler
        found: dict[str, Any] = sampler.state_ahead() if self._over else sampler.state_dict(self._handed_out)
        return found

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Makes the next pass the rest of the one that ``state`` is of. Raises what `Sampler.load_state_dict` does."""
        sampler: Any = self.batch_sampler
        sampler.load_state_dict(state)
        self._handed_out, self._over = 0, False

    def _get_iterator(self) -> Any:
        """Where torch takes what its workers get: they get the dataset in its seeded form, and nobody else does."""
        attributes = self.__dict__
        kept = {name: attributes[name] for name in ("dataset", "collate_fn")}
        attributes |= {"dataset": Seeded(self.dataset, self.collate_fn, self.seed), "collate_fn": as_it_is}
        try:
            return super()._get_iterator()
        finally:
            attributes |= kept


class _Pass:
    """An iterator over the batches of one pass, which counts them."""

    def __init__(self, loader: DataLoader, batches: Iterator[Any]) -> None:
        self._loader, self._batches = loader, batches

    def __iter__(self) -> _Pass:
        return self

    def __next__(self) -> Any:
        try:
            batch = next(self._batches)
        except StopIteration:
            self._loader._over = True
            raise
        self._loader._handed_out += 1
        return batch


def _check(dataset: Any, batch_size: object, options: Mapping[str, Any]) -> None:
    """Raises `UsageError` for what this loader cannot do."""
    if isinstance(dataset, IterableDataset) or not (hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")):
        raise UsageError(
            f"{type(dataset).__qualname__}: expected a dataset with samples by number, dataset[i], and a length. One "
            "that can only be iterated goes into torch's DataLoader, and that into run.batches(), which replays it."
        )
    if batch_size is None:
        raise UsageError("batch_size=None: expected a whole number from 1 on; a sample alone is a batch of 1.")
    if "generator" in options:
        raise UsageError("generator=: order and augmentation come from seed=, which takes its place.")
    if not options.get("in_order", True):
        raise UsageError("in_order=False: the order of the batches would depend on the speed of the workers.")


def _check_alone(sampler: object, given: list[str]) -> None:
    """Raises `UsageError` for a batch sampler that is none of ours, or options that are its business."""
    if not isinstance(sampler, Sampler):
        raise UsageError(
            f"batch_sampler={sampler!r:.80}: expected a holdfast.data.Sampler. A sampler of single samples goes into "
            "sampler=."
        )
    if given:
        raise UsageError(f"{', '.join(given)}: the business of batch_sampler=; give it to that.")


def _fingerprint(dataset: Any) -> str | None:
    """What a Hugging Face dataset says of its content."""
    found = getattr(dataset, "_fingerprint", None)
    return found if isinstance(found, str) else None
