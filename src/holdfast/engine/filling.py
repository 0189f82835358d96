"""The trainer's side of a snapshot: its bytes, front to back, into the arena."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Protocol

from holdfast.engine.behind import Copy
from holdfast.engine.leaves import Source
from holdfast.engine.plan import Plan, Sources


class Reader(Protocol):
    """Who takes the bytes out of the arena while they come in."""

    def filled(self, end: int) -> None:
        """All bytes before ``end`` are in the arena."""
        ...

    def await_drained(self, end: int) -> None:
        """Returns when the bytes before ``end`` are not needed in the arena any more."""
        ...


class Filling:
    """Writes bytes at rising positions into ``arena``: at those themselves, or round and round in its first ``ring``.

    A ring holds at least two pieces, and a whole number of them. The ``reader``, who takes out what is filled in, hears
    after each ``piece`` how far it is.
    """

    def __init__(self, arena: memoryview, reader: Reader | None, piece: int, ring: int | None = None) -> None:
        self._arena, self._reader, self._ring, self._piece = arena, reader, ring, piece
        self._bound = 0

    def put(self, begin: int, end: int, copy: Copy) -> None:
        """Has ``copy`` write the bytes from ``begin`` to ``end``: given a place, and which of its bytes come first."""
        position = begin
        while position < end:
            if position >= self._bound:
                self._go_on(position)
            stop = min(end, self._bound)
            at = position if self._ring is None else position % self._ring
            copy(self._arena[at : at + stop - position], position - begin)
            position = stop

    def _go_on(self, position: int) -> None:
        """Into the next piece. The reader hears first what there is: it may have to write that to make room."""
        self._bound = (position // self._piece + 1) * self._piece
        if self._reader is not None:
            self._reader.filled(position)
            if self._ring is not None:
                self._reader.await_drained(self._bound - self._ring)


def copied_now(source: Source) -> Copy:
    return source.copy_into


def fill(
    filling: Filling, plan: Plan, sources: Sources, begin: int = 0, only: int = -1,
    lying: Collection[str] = (), copy_of: Callable[[Source], Copy] = copied_now,
) -> None:  # fmt: skip
    """Copies the shards that belong to any of the checkpoints ``only``, a bit for each, to places after ``begin``.

    Those of the files ``lying`` there already are left alone. How a tensor is copied, or that it is later, is for
    ``copy_of`` to say. Raises what a source raises.
    """
    for shard in plan.shards:
        if shard.members & only and shard.file not in lying:
            start, leaves = begin + shard.offset, sources[shard.item]
            filling.put(start, start + len(shard.layout.header), _copier(memoryview(shard.layout.header)))
            for name, (first, last) in shard.layout.ranges.items():
                filling.put(start + first, start + last, copy_of(leaves[name]))


def _copier(data: memoryview) -> Copy:
    def copy(destination: memoryview, begin: int) -> None:
        destination[:] = data[begin : begin + len(destination)]

    return copy
