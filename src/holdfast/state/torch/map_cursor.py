"""A torch DataLoader over map-style data: positions are skipped by index, and nothing is loaded for it."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from holdfast.state.torch import rng
from holdfast.state.torch.cursor import Cursor, CursorState, Ticker
from holdfast.state.torch.index_stream import IndexTap, Replay
from holdfast.state.torch.trail import Trail
from holdfast.state.torch.worker_shield import WorkerShield

_DRAW_AT_ONCE = (
    SequentialSampler, RandomSampler, SubsetRandomSampler, WeightedRandomSampler, DistributedSampler,
    list, tuple, range,
)  # fmt: skip
"""Samplers known to touch the global generators no later than at their first index."""


class MapCursor(Cursor):
    """One pass over a plain DataLoader with a map-style dataset."""

    kind = "index"
    loader: DataLoader[Any]

    def __init__(self, loader: DataLoader[Any], where: str) -> None:
        super().__init__(loader, where)
        self._slot = "batch_sampler" if loader.batch_sampler is not None else "sampler"
        self.tap = _tap(loader, self._slot, where)
        self._stateful = _own_state(loader)
        self._sampler_start: Any = None

    def open(self, stored: CursorState | None, *, exact: bool, tick: Ticker) -> None:
        if stored is not None and exact:
            self.check(stored)
        self.note_start(stored)
        self._note_sampler(stored)
        skip = stored.consumed if stored is not None else 0
        self.tap.replay = Replay(skip, stored.digests if stored is not None and exact else {})
        self.tap.trail = Trail(not draws_at_once(self.tap.sampler), stored.trail if stored is not None else None)
        self.tap.woken = self.woken
        self.begin()
        self._stream.skip()

    def begin(self) -> None:
        """Creates the iterator, and has the loader draw its indices through the tap."""
        with self._tapped():
            self.iterator = iter(self.loader)
        assert self.tap.stream is not None, "a DataLoader's iterator asks for its indices"
        self._stream = self.tap.stream

    def _note_sampler(self, stored: CursorState | None) -> None:
        if self._stateful is None:
            return
        if stored is not None and stored.sampler is not None:
            self.wake(stored.sampler)
        self._sampler_start = copy.deepcopy(self._stateful.state_dict())

    def next(self) -> Any:
        batch = next(self.iterator)
        self._samples = self._stream.consume()
        return batch

    def samples(self, batch: Any) -> int:
        return self._samples

    def digest(self) -> str | None:
        return self._stream.consumed.digest

    def mark(self) -> None:
        stream = self._stream
        self.marked = stream.count - len(stream.ahead), stream.consumed.digest

    def state(self) -> CursorState:
        stream = self._stream
        consumed, digest = self.marked
        first_ahead = stream.count - len(stream.ahead) + 1
        digests = {consumed: digest} if consumed else {}
        digests |= {first_ahead + index: drawn.digest for index, drawn in enumerate(stream.ahead)}
        return CursorState(
            kind=self.kind, consumed=consumed, length=self.length, digests=digests, trail=dict(stream.trail.entries),
            generators=self.start, sampler=self._sampler_start, overflowed=stream.trail.overflowed,
            warm=self.warm_start,
        )  # fmt: skip

    @property
    def stateful(self) -> Any:
        return self._stateful

    @property
    def warm(self) -> bool:
        return self.loader.persistent_workers and self.loader._iterator is not None

    def prime(self) -> None:
        if self.warm or not self.loader.persistent_workers:
            return
        states, before = self.generator_states(), rng.capture()
        self.tap.empty = True
        try:
            with self._tapped():
                iter(self.loader)
        finally:
            self.tap.empty = False
            self.set_generators(states)
            rng.restore(before)

    def find_generators(self) -> dict[str, Any]:
        loader = self.loader
        places: dict[str, object] = {"sampler": loader.sampler, "batch_sampler": loader.batch_sampler}
        if loader.num_workers == 0:
            places |= {"dataset": loader.dataset, "collate_fn": loader.collate_fn}
        # One search for all of them: what a sampler knows of the dataset is not to be found once more.
        found = rng.find_generators(places, depth=5)
        return found if loader.generator is None else {"generator": loader.generator, **found}

    @contextlib.contextmanager
    def _tapped(self) -> Iterator[None]:
        """The loader refuses to have its sampler replaced for good, and should not have it: only while iter() runs."""
        attributes = self.loader.__dict__
        kept = attributes[self._slot], attributes["worker_init_fn"]
        attributes[self._slot] = self.tap
        if self.loader.num_workers:
            attributes["worker_init_fn"] = WorkerShield(kept[1])
        try:
            yield
        finally:
            attributes[self._slot], attributes["worker_init_fn"] = kept


def _tap(loader: DataLoader[Any], slot: str, where: str) -> IndexTap:
    """The tap that a persistent pool already holds, or a new one."""
    held = getattr(loader._iterator, "_index_sampler", None)
    return held if isinstance(held, IndexTap) else IndexTap(getattr(loader, slot), where)


def _own_state(loader: DataLoader[Any]) -> Any:
    """The sampler that can say where it stands, if there is one."""
    for sampler in (loader.batch_sampler, loader.sampler, getattr(loader.batch_sampler, "sampler", None)):
        if hasattr(sampler, "state_dict") and hasattr(sampler, "load_state_dict"):
            return sampler
    return None


def draws_at_once(sampler: Any) -> bool:
    """Whether ``sampler`` is known to leave the global generators alone after its first index."""
    if type(sampler) is BatchSampler:
        return draws_at_once(sampler.sampler)
    return type(sampler) in _DRAW_AT_ONCE


def random_in_workers(loader: Any) -> bool:
    """Whether the workers of a plain loader may draw random numbers that no resume in mid-epoch can repeat.

    Those of an iterable dataset draw them again when it is replayed, unless they have lived through an epoch before.
    """
    if not isinstance(loader, DataLoader) or loader.num_workers == 0 or _fixed(loader.dataset):
        return False
    if getattr(loader, "random_by_sample", False):
        return False
    return loader.persistent_workers or not isinstance(loader.dataset, IterableDataset)


def _fixed(dataset: Any) -> bool:
    """Datasets of torch that hold their samples and change nothing about them."""
    if type(dataset) is Subset:
        return _fixed(dataset.dataset)
    if type(dataset) is ConcatDataset:
        return all(_fixed(one) for one in dataset.datasets)
    return type(dataset) in (TensorDataset, list)


def hidden_state(loader: Any) -> dict[str, object]:
    """Plain attributes of a sampler or a dataset that is not torch's own and offers no ``state_dict``."""
    if not isinstance(loader, DataLoader):
        return {}
    samplers = (loader.batch_sampler, loader.sampler) if _own_state(loader) is None else ()
    found = _hidden_in_dataset(loader)
    for owner in samplers:
        if owner is not None and not draws_at_once(owner):
            found |= _plain_attributes(owner, type(owner).__name__)
    return found


def _hidden_in_dataset(loader: DataLoader[Any]) -> dict[str, object]:
    """None with workers, which have copies of the dataset, or if the loader or the dataset can say where it stands."""
    owner, path = loader.dataset, "dataset"
    while type(owner) is Subset:
        owner, path = owner.dataset, f"{path}.dataset"
    if loader.num_workers or hasattr(loader, "state_dict") or hasattr(owner, "state_dict") or _fixed(owner):
        return {}
    return _plain_attributes(owner, path)


def _plain_attributes(owner: Any, path: str) -> dict[str, object]:
    return {
        f"{path}.{name}": value
        for name, value in getattr(owner, "__dict__", {}).items()
        if isinstance(value, (int, float, str)) and not (name == "epoch" and hasattr(owner, "set_epoch"))
    }
