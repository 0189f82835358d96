"""A DataLoader whose batch sampler is at any position at once: nothing is drawn or loaded to get there."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import msgspec

from holdfast.state.torch.cursor import CursorState, Ticker
from holdfast.state.torch.index_stream import Replay
from holdfast.state.torch.map_cursor import MapCursor


@runtime_checkable
class Seekable(Protocol):
    """A batch sampler, such as `holdfast.data.Sampler`, whose position is a number."""

    @property
    def step(self) -> int: ...
    def begin(self) -> None: ...
    def seek(self, *, epoch: int, samples: int = 0) -> None: ...
    def batches_left(self) -> int: ...
    def state_dict(self, batches: int | None = None) -> dict[str, Any]: ...
    def state_ahead(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class PositionCursor(MapCursor):
    """One pass over a DataLoader with a `Seekable` batch sampler.

    Batches are counted on from those of the checkpoint, also where they have another size now.
    """

    kind = "position"
    ends_whole = True

    def open(self, stored: CursorState | None, *, exact: bool, tick: Ticker) -> None:
        if stored is not None:
            self.check_kind(stored)
            self._seek(stored.position, exact)
            self.regrouped = stored.position.get("step") != self.stateful.step
        self.note_start(stored)
        self._first = stored.consumed if stored is not None else 0
        self.tap.replay = Replay(first=self._first, digests=stored.digests if stored is not None else {})
        self.begin()
        if self._first:
            self.stateful.begin()  # of loaders in step, one that is at its end may not be asked again
        self.length = self._first + self.stateful.batches_left()

    def _seek(self, position: Any, exact: bool) -> None:
        if exact:
            self.stateful.load_state_dict(position)
        else:
            self.stateful.seek(epoch=int(position["epoch"]), samples=int(position["samples"]))

    def wake(self, state: Any) -> None:
        self.stateful.load_state_dict(state)

    def told(self) -> Any:
        return self.stateful.state_ahead()

    def state(self) -> CursorState:
        consumed, digest = self.marked
        position = self.stateful.state_dict(consumed - self._first)
        return msgspec.structs.replace(
            super().state(), position=position, digests={consumed: digest} if consumed else {}
        )
