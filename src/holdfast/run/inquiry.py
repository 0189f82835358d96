"""The policies are asked at each point of the run, and the user is told of those that will never say yes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping

from holdfast.policies.moment import Event
from holdfast.run.loop_state import LoopState
from holdfast.run.position import Mode
from holdfast.run.recorder import Recorder
from holdfast.run.saves import Saves
from holdfast.run.schedule import Schedule
from holdfast.run.stops import Stops
from holdfast.types import Progress


class Inquiry:
    """Has the policies of all savers look at the run."""

    def __init__(self, saves: Saves, recorder: Recorder, loop: LoopState, stops: Stops) -> None:
        self._saves, self._recorder, self._loop, self._stops = saves, recorder, loop, stops
        self._undo: Callable[[], None] | None = None
        """Takes back that the policies were asked about the end, if it is none."""

    def ask(self, event: Event, progress: Progress) -> list[Schedule]:
        """Those for whom a save is due at this moment, which is at ``progress``."""
        return self._ask(event, progress, self._recorder.take())

    def ask_about_end(self, progress: Progress) -> None:
        """The end comes without a boundary: what was logged since the last one counts. Asked once for each end."""
        if self._undo is None:
            undo = self._saves.ask_in_vain()
            self._ask("end", progress, {**self._recorder.take(), **self._recorder.pending()})
            self._undo = undo

    def ask_about_leaving(self, progress: Progress) -> None:
        """A loop was left in an epoch, which may be the end."""
        # What a policy of the user's own raises is raised when the end is certain, and it is asked again.
        with contextlib.suppress(Exception):
            self.ask_about_end(progress)

    def go_on(self) -> None:
        """What looked like the end was none."""
        if self._undo is not None:
            self._undo()
        self._undo = None

    def ask_between_loops(self, progress: Progress) -> list[Schedule]:
        """What was logged behind a loop is of the weights that it ended with, not of those of the next one's batch."""
        logged = self._recorder.pending()
        return self._ask("boundary", progress, logged) if logged else []

    def _ask(self, event: Event, progress: Progress, logged: Mapping[str, float]) -> list[Schedule]:
        return self._saves.ask(progress, event, logged, self._stops.deadlines(), self._loop.share)

    # What is said of policies.

    def know_length(self, mode: Mode, total: int) -> None:
        """The run has so many epochs or steps."""
        self._loop.total = total
        counts = {"epochs": total} if mode == "epochs" else {"batches": total, "steps": total}
        self._saves.advice.length(**counts)

    def know_no_length(self, mode: Mode) -> None:
        """Nobody will say how long the run is."""
        self._saves.advice.no_length(epochs=mode == "hand")

    def know_epoch(self, batches: int) -> None:
        """An epoch of so many batches is over: what is known by now of the run's length and metrics."""
        advice, loop = self._saves.advice, self._loop
        if loop.mode == "epochs" and loop.total is not None and batches:
            advice.length(batches=loop.total * batches, steps=loop.total * batches)
        advice.metrics(self._recorder.metrics, end=False)

    def know_end(self, progress: Progress) -> None:
        """The run came to its end by itself: what can be said of its policies only now."""
        self._saves.advice.metrics(self._recorder.metrics, end=True)
        self._saves.advice.counts(progress)
        if self._saves.ledger.committed and not self._saves.ledger.failures:
            self._saves.advice.nothing_saved()
