"""The global random state before each draw of a sampler or iterable that shares it with training."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from holdfast.state.torch import rng

T = TypeVar("T")

LIMIT = 4096
"""Entries of about 10 kB each. Beyond it, the pass can no longer be replayed exactly, and says so."""


class Trail:
    """Records, and on a replay restores, the random state in which each draw was made.

    A sampler that draws from the global generators in the midst of training sees the numbers that
    training left it. Drawing again from the start finds other numbers, so every draw is repeated in
    the state it was made in. What is recorded is only what a replay would not reach by itself: the
    first draw, and draws before which someone else had drawn. Nothing is drawn, reseeded or given
    a stream of its own, so the script runs as it would without holdfast.

    ``watch`` says whether draws after the first may use the global generators; it costs about 60 µs a draw.
    """

    def __init__(self, watch: bool, entries: dict[int, rng.RngState] | None = None) -> None:
        self.watch = watch
        self.entries = dict(entries or {})
        self.overflowed = False
        self._replayed = max(self.entries, default=-1) + 1
        self._after: rng.RngState | None = None

    def draw(self, index: int, next_one: Callable[[], T]) -> T:
        """Makes draw number ``index``: in its recorded state if it has one, else recording it."""
        if index in self.entries:
            rng.restore(self.entries[index])
        if index > 0 and not self.watch:
            return next_one()
        before = rng.capture()
        result = next_one()
        after = rng.capture()
        if index >= self._replayed and not rng.same(before, after):
            self._record(index, before)
        self._after = after
        return result

    def _record(self, index: int, before: rng.RngState) -> None:
        if self._after is not None and rng.same(before, self._after):
            return
        if len(self.entries) >= LIMIT:
            self.overflowed = True
        else:
            self.entries[index] = before
