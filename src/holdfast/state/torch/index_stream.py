"""The indices a map-style loader draws: skipped without loading, digested, compared on resume."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterator
from typing import Any

import msgspec
import xxhash

from holdfast.errors import DataOrderError
from holdfast.state.torch import rng
from holdfast.state.torch.trail import Trail


class Drawn(msgspec.Struct, frozen=True):
    """One drawn batch of indices: its number of samples, and the digest of all draws up to it."""

    samples: int
    digest: str


class Replay(msgspec.Struct, frozen=True):
    """What a resumed pass has to do first: ``skip`` draws; and what it must find: digests by number of draws.

    A sampler that begins behind its ``first`` draws has nothing to skip.
    """

    skip: int = 0
    digests: dict[int, str] = {}
    first: int = 0


class IndexStream:
    """Iterates an index sampler for one pass; a ``woken`` one for the pass after it, if this one is empty.

    ``ahead`` holds the draws that were prefetched but not yet consumed; ``consumed`` is the last
    one that was.
    """

    def __init__(self, sampler: Any, replay: Replay, trail: Trail, where: str, woken: bool = False) -> None:
        self._sampler, self._replay, self._where, self._woken = sampler, replay, where, woken
        self.trail = trail
        self.count = replay.first
        self.ahead: deque[Drawn] = deque()
        self._digest = replay.digests.get(replay.first, "")
        self.consumed = Drawn(0, self._digest)
        self._source: Iterator[Any] = iter(sampler)

    def __iter__(self) -> IndexStream:
        return self

    def __next__(self) -> Any:
        self.skip()
        return self._draw()

    def skip(self) -> None:
        """Draws, without loading anything, what the run had consumed before."""
        while self.count < self._replay.skip:
            try:
                self._draw()
            except StopIteration:
                raise DataOrderError(
                    f"{self._where}: the checkpoint was taken after {self._replay.skip} batches, but this loader "
                    f"ends after {self.count}. Use the dataset and batch size of the run, or start a new run folder."
                ) from None
            self.consume()

    def consume(self) -> int:
        """Marks the oldest draw as handed out; returns its number of samples."""
        self.consumed = self.ahead.popleft() if self.ahead else self.consumed
        return self.consumed.samples

    def _draw(self) -> Any:
        indices = self.trail.draw(self.count, self._next)
        self.count += 1
        self._digest = _chain(self._digest, indices)
        expected = self._replay.digests.get(self.count)
        if expected is not None and expected != self._digest:
            raise DataOrderError(
                f"{self._where}: batch {self.count} of the resumed epoch does not consist of the samples it consisted "
                "of before the restart. The dataset, the sampler or its seed has changed, or the sampler keeps a state "
                "of its own: give it state_dict and load_state_dict. To continue at this position in "
                "the new order all the same, call run.batches(loader, exact=False)."
            )
        self.ahead.append(Drawn(len(indices) if isinstance(indices, (list, tuple)) else 1, self._digest))
        return indices

    def _next(self) -> Any:
        """The next of the source."""
        if not self._woken:
            return next(self._source)
        self._woken, before = False, rng.capture()
        first = next(self._source, None)
        if first is not None:
            return first
        rng.restore(before)
        self._source = iter(self._sampler)
        return next(self._source)


class IndexTap:
    """Stands in for a loader's index sampler, so that each pass goes through an `IndexStream`.

    A persistent pool of workers keeps the index sampler of its first pass for ever; this stays
    in place, and takes what the next pass needs from ``replay`` and ``trail``.
    """

    def __init__(self, sampler: Any, where: str) -> None:
        self.sampler, self.where = sampler, where
        self.replay = Replay()
        self.trail = Trail(watch=False)
        self.stream: IndexStream | None = None
        self.empty = self.woken = False

    def __iter__(self) -> Iterator[Any]:
        if self.empty:
            return iter(())
        self.stream = IndexStream(self.sampler, self.replay, self.trail, self.where, self.woken)
        return self.stream

    def __len__(self) -> int:
        return len(self.sampler)


def _chain(digest: str, indices: Any) -> str:
    hasher = xxhash.xxh3_64(digest.encode())
    try:
        hasher.update(array("q", indices if isinstance(indices, (list, tuple)) else [indices]))
    except (TypeError, OverflowError):
        hasher.update(_encoded(indices))
    return hasher.hexdigest()


def _encoded(indices: Any) -> bytes:
    """Keys that are not whole numbers. Never their repr: it may hold an address, which changes with each process."""
    try:
        return msgspec.json.encode(indices)
    except (TypeError, msgspec.EncodeError):
        return b"opaque"
