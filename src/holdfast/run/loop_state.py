"""Which loop, which batch, and what a resume in the midst of it needs."""

from __future__ import annotations

import msgspec

from holdfast.run.boundary import Boundary
from holdfast.run.position import Mode, Position, Stored
from holdfast.run.settings import Settings
from holdfast.state.torch import rng
from holdfast.state.torch.cursor import Cursor, CursorState
from holdfast.state.torch.loader_memory import LoaderMemory
from holdfast.types import Progress


class LoopState:
    """Follows the loops: their numbers, their loaders, and the random states at their ends and beginnings.

    ``settings`` are what the script gave its optimizers and schedulers.
    """

    def __init__(self, settings: Settings) -> None:
        self.mode: Mode = "epochs"
        self.total: int | None = None
        self.position = Position()
        self.memory = LoaderMemory()
        self.cursors: list[Cursor] = []
        self.ends: list[rng.RngState] = []
        self.epoch_random: rng.RngState | None = None
        self._settings = settings
        self._epoch_length: int | None = None
        self._expected: int | None = None
        self._loops = self._validations = 0
        self._loop_random: rng.RngState | None = None
        self._iteration: str | None = None

    def load(self, stored: Stored) -> None:
        """What a checkpoint keeps, but for the position: that is reached in stages."""
        self._epoch_length = stored.epoch_length
        self.memory.load(stored.memory)
        self.epoch_random, self.ends = stored.epoch, list(stored.ends)

    def start_epoch(self, *, anew: bool) -> None:
        """Right before the body of an epoch; not ``anew`` if a resume is about to run it for the second time."""
        self._loops = self._validations = 0
        if anew:
            self.epoch_random, self.ends = rng.capture(), []

    @property
    def next_number(self) -> int:
        """The number that the next loop of this epoch will have."""
        return self._loops

    def start_loop(self) -> int:
        """Numbers the train loops of an epoch by call order."""
        self._loops += 1
        return self._loops - 1

    def start_validation(self, cursors: list[Cursor]) -> None:
        """Brings the generators of a validation's loaders to their place. They are numbered apart, downwards from -1.

        Its passes are not followed, only what lives on from one to the next.
        """
        self._validations += 1
        self.memory.carry(-self._validations, cursors)
        self.memory.note(-self._validations, cursors)

    def note_iteration(self, random: rng.RngState) -> None:
        """Right before the loaders' ``iter()``."""
        self._loop_random, self._iteration = random, rng.digest(random)

    def take_iteration(self) -> str | None:
        """The digest of the random state before ``iter()``, once for each loop."""
        digest, self._iteration = self._iteration, None
        return digest

    def enter_loop(self, number: int, cursors: list[Cursor], *, resumed: bool, epoch_length: int | None) -> None:
        """Right before a loop's first batch; one that is ``resumed`` has its position already.

        ``epoch_length`` is how many batches the epoch will have if no other loop comes behind this one.
        """
        self.cursors, self._expected = cursors, epoch_length
        if resumed:
            self.memory.settle(number)
            self._iteration = None
        else:
            self.position = Position(epoch=self.position.epoch, loop=number)

    def share(self, progress: Progress) -> float | None:
        """How much of the run is done, from 0 to 1; None where its length is not known.

        How long an epoch is, its loaders say in the first one, as far as it has come, and what was counted there says
        in the later ones.
        """
        if self.total is None:
            return None
        if self.mode == "steps":
            return progress.batches / self.total
        length = self._epoch_length or self._expected
        within = min(progress.batch / length, 1.0) if length else 0.0
        return min((progress.epoch + within) / self.total, 1.0)

    def next_batch(self) -> Position:
        """Where the loop is when the batch that it has handed out is done."""
        return msgspec.structs.replace(self.position, batch=self.position.batch + 1)

    def end_loop(self, exhausted: bool) -> None:
        """Behind a loop's last batch, or where it was left: ``exhausted`` if a loader had no more."""
        self.ends.append(rng.capture())
        alone = exhausted and len(self.cursors) == 1
        for cursor in self.cursors:
            self.memory.end(cursor, alone or (cursor.length is not None and self.position.batch >= cursor.length))

    def end_epoch(self, batches: int) -> None:
        """Behind the last statement of an epoch's body, which had so many ``batches``."""
        self._epoch_length = batches or None
        self.leave_epoch()

    def leave_epoch(self) -> None:
        """Behind an epoch, whether it came to its end or not."""
        self.position = Position(epoch=self.position.epoch + 1)
        self._loops = self._validations = 0
        self.cursors, self.ends = [], []

    def mark(self) -> None:
        """Remembers this boundary."""
        for cursor in self.cursors:
            cursor.mark()
        self.memory.mark()

    def stored(self, boundary: Boundary) -> Stored | None:
        """What a checkpoint of ``boundary`` keeps of the loops; None if a loader's position is lost."""
        cursors: list[CursorState] = []
        for cursor in self.cursors if boundary.position.loop is not None else ():
            state = cursor.state()
            if state is None:
                return None
            cursors.append(state)
        return Stored(
            position=boundary.position, mode=self.mode, boundary=boundary.random, epoch=self.epoch_random,
            loop=self._loop_random, ends=self.ends[: boundary.position.loop], cursors=cursors,
            memory=self.memory.to_tree(), settings=self._settings,
            epoch_length=self._epoch_length,
        )  # fmt: skip
