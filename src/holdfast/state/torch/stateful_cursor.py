"""The position of a loader that knows it by itself."""

from __future__ import annotations

import time
from typing import Any

from holdfast.state.stateful import copied
from holdfast.state.torch import rng
from holdfast.state.torch.cursor import Cursor, CursorState, Ticker

_SHARE, _ADVANCE_SECONDS = 0.01, 0.05
"""How much of a pass may go into asking its loader where it stands, and how much before that is earned."""


class StatefulCursor(Cursor):
    """A loader with ``state_dict`` and ``load_state_dict`` of its own, such as torchdata's StatefulDataLoader.

    It can say where it stands now, not where it stood: a save after an exception needs the boundary before the batch
    that was fetched since. So it is asked at each boundary, as long as that takes a hundredth of the time at most.
    """

    kind = "its own state_dict"

    @property
    def stateful(self) -> Any:
        return self.loader

    def open(self, stored: CursorState | None, *, exact: bool, tick: Ticker) -> None:
        self.note_start(stored)
        self._consumed = self._marked = 0
        self._held: CursorState | Exception | None = None
        self._opened, self._asking = time.perf_counter(), 0.0
        if stored is not None:
            self.check(stored)
            self._place(stored)
        if self.woken:
            self._take_up_state()
        self.iterator = iter(self.loader)

    def _place(self, stored: CursorState) -> None:
        self._consumed = stored.consumed
        if stored.consumed:
            self.stateful.load_state_dict(stored.position)
        elif stored.position is not None:
            self.before = stored.position
            self.wake(stored.position)

    def _take_up_state(self) -> None:
        """Some loaders take up a loaded state in ``iter()``, and draw for it."""
        self._before = rng.capture()
        iter(self.loader)
        self._rewind()

    def _rewind(self) -> None:
        rng.restore(self._before)
        self.set_generators(self.start)

    def next(self) -> Any:
        try:
            batch = next(self.iterator)
        except StopIteration:
            if not self.woken:
                raise
            self._rewind()
            self.iterator = iter(self.loader)
            batch = next(self.iterator)
        self.woken = False
        self._consumed += 1
        return batch

    def mark(self) -> None:
        self._marked, self._held = self._consumed, None
        began = time.perf_counter()
        if self._asking <= _ADVANCE_SECONDS + _SHARE * (began - self._opened):
            self.hold()
            self._asking += time.perf_counter() - began

    def hold(self) -> None:
        try:
            self._held = self.state()
        except Exception as error:  # the loader's own: the save that needs the position fails by it, not the training
            self._held = error

    def state(self) -> CursorState | None:
        if isinstance(self._held, Exception):
            raise self._held
        if self._held is not None or self._marked != self._consumed:
            return self._held
        # Many begin a pass only when its first batch is asked for, and say before that where the last one ended.
        position = copied(self.stateful.state_dict()) if self._consumed else self.before
        return CursorState(
            kind=self.kind, consumed=self._consumed, length=self.length, generators=self.start, position=position
        )
