"""The writer's view of a snapshot that is still on its way into the arena."""

from __future__ import annotations

from collections.abc import Callable

from holdfast.engine.messages import Complete, Drained, Filled, Persist, ToTrainer, ToWriter

Heard = tuple[ToWriter | None, list[int]]
"""A message of the trainer, with the descriptors that came along; None if it is gone."""


class Abandoned(Exception):
    """The trainer, or its death, has ended a snapshot before it was complete; ``heard`` is by what."""

    def __init__(self, heard: Heard) -> None:
        super().__init__()
        self.heard = heard


class Arrived:
    """A snapshot that lies in the arena, whole."""

    repeatable = True
    """Whether what was written may be written once more: the bytes stay where they are."""
    whole = True
    """Whether training goes on: what the trainer waits for does not have to share the cores then."""

    def await_bytes(self, end: int) -> None:
        """Returns when all bytes before ``end`` have arrived."""

    def locate(self, position: int) -> int:
        """Where in the arena the byte number ``position`` of the snapshot is."""
        return position

    def release(self, end: int) -> None:
        """Nobody needs the bytes before ``end`` any more."""


class Arriving(Arrived):
    """A snapshot that the trainer of `Persist` fills in, and perhaps streams through an arena that is smaller.

    `await_bytes` and `await_whole` raise `Abandoned` if anything else is heard than that it goes on.
    """

    def __init__(
        self,
        request: Persist,
        hear: Callable[[], Heard],
        is_heard: Callable[[], bool],
        answer: Callable[[ToTrainer], None],
    ) -> None:
        self.repeatable = not request.streams
        self._request, self._hear, self._is_heard, self._answer = request, hear, is_heard, answer
        self._filled = self._base = self._released = 0
        self.whole = False

    def await_bytes(self, end: int) -> None:
        while not self.whole and self._is_heard():
            self._listen()
        while self._filled < self._base + end:
            self._listen()

    def await_whole(self) -> None:
        """Returns when the trainer has said that the snapshot is to be committed."""
        while not self.whole:
            self._listen()

    def locate(self, position: int) -> int:
        return (self._base + position) % self._request.ring if self._request.streams else position

    def release(self, end: int) -> None:
        pieces = (self._base + end) // self._request.piece
        if self._request.streams and pieces > self._released:
            self._released = pieces
            self._answer(Drained(self._request.serial, self._base + end))

    def next_round(self) -> None:
        """One of the checkpoints is written, or has failed: a snapshot that streams comes once more for the next."""
        self.release(self._request.size)
        self._base += self._request.size

    def _listen(self) -> None:
        heard = self._hear()
        match heard[0]:
            case Filled(end):
                self._filled = end
            case Complete():
                self.whole = True
            case _:
                raise Abandoned(heard)
