"""A run in progress: where it stands, what each boundary does, how it ends."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import msgspec

from holdfast.engine.checkpointer import ItemDraft
from holdfast.engine.lineage import ON_ERROR
from holdfast.errors import ExactnessWarning, HoldfastWarning, UsageError
from holdfast.run.boundary import Boundary, Observer
from holdfast.run.items import Items
from holdfast.run.loops import stored_for
from holdfast.run.position import Mode, Position, Stored
from holdfast.run.recorder import Recorder
from holdfast.run.resumption import Resumption
from holdfast.run.saves import Saves
from holdfast.run.selection import Progressing
from holdfast.run.signals import StopSignals, stop_exception
from holdfast.run.voice import Voice
from holdfast.state.item import Captured
from holdfast.state.loading import draft, value_draft
from holdfast.state.stateful import copied
from holdfast.state.torch import rng
from holdfast.state.torch.cursor import Cursor, CursorState, Ticker
from holdfast.state.torch.loader_memory import LoaderMemory
from holdfast.types import Progress

PATIENCE = 64
"""Boundaries that a due save waits for one without pending gradients; then they become part of it."""


@dataclass(frozen=True, slots=True)
class _Left:
    """A loop was left in its body: what its last boundary was, and what a final save after a `break` has to hold."""

    last: Stored | None
    after: Boundary
    stored: Stored | None
    versions: list[int]


class Session:
    """The run's state machine, driven by the loops in `holdfast.run.loops` or by hand."""

    def __init__(
        self, *, items: Items, saves: Saves, recorder: Recorder, voice: Voice, signals: StopSignals | None,
        resumption: Resumption | None, values: dict[str, Any], progressing: Progressing, rates: dict[str, list[float]],
    ) -> None:  # fmt: skip
        self.items, self.saves, self.recorder, self.voice, self.values = items, saves, recorder, voice, values
        self.progress = resumption.progress if resumption is not None and resumption.own else Progress()
        self.position = Position()
        self.mode: Mode = "epochs"
        self.memory = LoaderMemory()
        self.in_body = self.in_loop = False
        self.closed: str | None = None
        self._observer = Observer(items, values)
        self._signals, self._resumption = signals, resumption
        self._progressing, self._rates = progressing, rates
        self._cursors: list[Cursor] = []
        self._loops = 0
        self._epoch_random: rng.RngState | None = None
        self._loop_random: rng.RngState | None = None
        self._ends: list[rng.RngState] = []
        self._iteration: str | None = None
        self._boundary: Boundary | None = None
        self._left: _Left | None = None
        self._saved: tuple[Position, int, int] | None = None
        self._waited = 0
        self._clock: float | None = None
        self._reserved = False
        saves.start(self.progress)

    # The beginning of a loop.

    def require_open(self) -> None:
        """Raises `UsageError` once the run is closed: nothing would be saved any more."""
        if self.closed is not None:
            raise UsageError(f"{self.closed}: make a new Run to go on.")

    def begin(self, mode: Mode) -> None:
        """Enters a loop of the run: installs the signal handlers and, on a resume, restores the state."""
        self.require_open()
        if not self.in_loop:
            self.in_loop, self.mode, self._clock = True, mode, time.monotonic()
            if self._signals is not None and not self._signals.install():
                self.voice.warn("signals", "not in the main thread, so signals will not save", once="signals")
        if self._boundary is not None:
            return
        if self._resumption is not None:
            self._restore_first(self._resumption, mode)
        self._mark(rng.capture())
        if self._resumption is not None or self.progress.batches:
            self._saved = self._here()

    def _restore_first(self, resumption: Resumption, mode: Mode) -> None:
        """The restore before the loops. In mid-epoch, user code runs again from the epoch's start on."""
        if resumption.own:
            resumption.check_mode(mode)
        self._restore_items(resumption)
        if not resumption.own:
            self._resumption = None
            return
        self.memory.load(resumption.stored.memory)
        self._epoch_random, self._ends = resumption.stored.epoch, list(resumption.stored.ends)
        if resumption.position.loop is None or mode == "hand":
            self.position = resumption.position
            resumption.restore_random(resumption.stored.boundary, self.voice)
        else:
            self.position = Position(epoch=resumption.position.epoch)
            resumption.restore_random(self._epoch_random, self.voice)
            self.recorder.muted = True
        if resumption.position.loop is None:
            self._resumption = None

    def _restore_items(self, resumption: Resumption) -> None:
        resumption.restore(self.items, self._observer.gradients, self.values, self._progressing)
        self._observer.shadow.refresh()
        for note in resumption.notes:
            self.voice.warn("restored_differently", note, once=note)

    def start_epoch(self) -> None:
        """Right before the body of an epoch."""
        self._loops = 0
        if self._resumption is None:
            self._epoch_random, self._ends = rng.capture(), []

    def start_loop(self) -> int:
        """Numbers the train loops of an epoch by call order."""
        self._loops += 1
        return self._loops - 1

    def loop_is_over(self, number: int) -> bool:
        """Whether loop ``number`` was finished before the checkpoint that is being resumed from."""
        wanted = self._resumption.position.loop if self._resumption is not None else None
        return wanted is not None and number < wanted

    def pass_over(self, number: int) -> None:
        """In place of a loop that was finished: code between it and the next one draws what it drew there."""
        if self._resumption is not None and number < len(self._ends):
            self._resumption.restore_random(self._ends[number], self.voice)

    def end_loop(self, exhausted: bool) -> None:
        """Behind a loop's last batch, or where it was left: ``exhausted`` if a loader had no more."""
        self._ends.append(rng.capture())
        alone = exhausted and len(self._cursors) == 1
        for cursor in self._cursors:
            self.memory.end(cursor, alone or (cursor.length is not None and self.position.batch >= cursor.length))

    def stored_cursors(self, number: int, count: int) -> list[CursorState] | None:
        """On a resume in this loop, where its loaders were; the random state before ``iter()`` is restored with it."""
        resumption = self._resumption
        if resumption is None or resumption.position.loop != number:
            return None
        stored = stored_for(resumption.stored.cursors, count)
        if any(one.overflowed for one in stored):
            self.voice.warn("overflowed", _OVERFLOWED, ExactnessWarning)
        resumption.restore_random(resumption.stored.loop, self.voice)
        return stored

    def note_iteration(self, random: rng.RngState) -> None:
        """Right before the loaders' ``iter()``."""
        self._loop_random, self._iteration = random, rng.digest(random)

    def enter_loop(self, number: int, cursors: list[Cursor], resumed: bool) -> None:
        """Right before the first batch. On a resume, everything is brought to the boundary once more."""
        self._cursors = cursors
        if resumed:
            self.restore_again()
            self.memory.settle(number)
            self._iteration = None
        else:
            self.position = Position(epoch=self.position.epoch, loop=number)
        self._mark(rng.capture())
        if resumed:
            self._saved = self._here()

    def restore_again(self) -> None:
        """The second restore, right before the first batch: code since the first one may have changed anything."""
        resumption = self._resumption
        if resumption is None:
            return
        self._restore_items(resumption)
        self.position, self.progress = resumption.position, resumption.progress
        resumption.restore_random(resumption.stored.boundary, self.voice)
        self.recorder.muted, self._resumption = False, None

    def start_by_hand(self, epoch: int) -> None:
        """Before a batch of a loop written by hand. Past the checkpoint's epoch, code ran as it would have."""
        if self._resumption is not None and self._resumption.position.epoch == epoch:
            self.restore_again()
            self.recorder.forget()
        self._resumption = None

    def ticker(self, label: str) -> Ticker:
        """A progress bar over batches that are replayed."""
        advance: list[Callable[[int], object]] = []

        def tick(done: int, total: int) -> None:
            if not advance:
                advance.append(self._progressing(f"{label}: replaying batches", total))
            advance[0](1)

        return tick

    # Boundaries.

    def complete_batch(self, samples: int, tokens: int) -> None:
        """The boundary after a batch of a loop."""
        random = rng.capture()
        self.position = msgspec.structs.replace(self.position, batch=self.position.batch + 1)
        self.progress = self._advanced(samples, tokens)
        self._pass_boundary(random, "batch", self._cursors[0].digest())

    def hand_boundary(self, epoch: int, batch: int, step: int | None, samples: int | None, tokens: int | None) -> None:
        """The boundary of a loop written by hand. One that was passed before, by a batch tried again, counts once."""
        random = rng.capture()
        self._resumption = None
        now, position = self.progress, Position(epoch=epoch, loop=0, batch=batch)
        again = position == self.position
        self.progress = Progress(
            epoch=epoch, batch=batch, step=now.step + self._stepped() if step is None else step,
            samples=now.samples if samples is None else samples, tokens=now.tokens if tokens is None else tokens,
            batches=now.batches + (not again), elapsed=self._elapsed(),
        )  # fmt: skip
        self.position = position
        self._pass_boundary(random, "batch", None)
        self.save_if_due()

    def end_epoch(self, *, final: bool) -> None:
        """The boundary after an epoch's last statement. After the last epoch, the save at the end stands for it."""
        random = rng.capture()
        self._give_up_resumption()
        self.position = Position(epoch=self.position.epoch + 1)
        self._loops, self._cursors, self._ends = 0, [], []
        self.progress = msgspec.structs.replace(
            self.progress, epoch=self.position.epoch, batch=0,
            step=self.progress.step + self._observer.gradients.stepped, elapsed=self._elapsed(),
        )  # fmt: skip
        self._pass_boundary(random, "tail", None)
        if not final:
            self.save_if_due(patient=False)

    def _give_up_resumption(self) -> None:
        """An epoch ended without the loop that the checkpoint was taken in: the script has changed."""
        if self._resumption is not None:
            where = f"loop {self._resumption.position.loop} of epoch {self.position.epoch}"
            self.voice.warn("loop_missing", _LOOP_MISSING.format(where), ExactnessWarning)
            self.progress, self._resumption, self.recorder.muted = self._resumption.progress, None, False

    def _advanced(self, samples: int, tokens: int) -> Progress:
        now = self.progress
        return Progress(
            epoch=self.position.epoch, batch=now.batch + 1, step=now.step + self._stepped(),
            samples=now.samples + samples, tokens=now.tokens + tokens, batches=now.batches + 1, elapsed=self._elapsed(),
        )  # fmt: skip

    def _stepped(self) -> bool:
        """Whether the interval that ends had an optimizer step; where none can be seen, each batch counts as one."""
        return self._observer.gradients.stepped or not self._observer.gradients.counts_steps

    def _elapsed(self) -> float:
        now = time.monotonic()
        before, self._clock = self._clock, now
        return self.progress.elapsed + (now - before if before is not None else 0.0)

    def _pass_boundary(self, random: rng.RngState, kind: str, index: str | None) -> None:
        self.require_open()
        self._mark(random)
        self.recorder.record(self._line(kind, index))
        self.saves.poll()
        self._reserve()
        self.saves.ask(self.progress, "boundary" if kind == "batch" else "epoch_end")
        self._stop_if_asked()

    def _line(self, kind: str, index: str | None) -> dict[str, Any]:
        line = {"t": kind, "at": self.position.at, "n": self.progress.batches, "step": self.progress.step}
        if index:
            line["index"] = index
        if self._iteration is not None and kind == "batch":
            line["rng"], self._iteration = self._iteration, None
        return line

    def _mark(self, random: rng.RngState) -> None:
        for cursor in self._cursors:
            cursor.mark()
        self.memory.mark()
        self._boundary = self._observer.boundary(self.progress, self.position, random)
        self._left = None

    def leave_body(self) -> None:
        """The loop was left by `break` or by an exception, which look the same from here, so nothing is saved yet."""
        boundary = self._boundary
        if boundary is None:
            return
        last = self._stored(boundary)
        for cursor in self._cursors:
            cursor.mark()
        position = msgspec.structs.replace(self.position, batch=self.position.batch + 1)
        after = Boundary(self._advanced(0, 0), position, rng.capture(), clean=False, values=copied(self.values))
        self._left = _Left(last, after, self._stored(after), self._observer.shadow.versions())

    def _reserve(self) -> None:
        """Sets the arena aside once the optimizer has its state: a lack of memory shows now, not at the first save."""
        if not self._reserved and self.progress.step > 0 and not self.saves.checkpointer.busy:
            self._reserved = True
            self.saves.checkpointer.reserve({name: draft(one) for name, one in self.items.capture().items()})

    # Saves.

    def _here(self) -> tuple[Position, int, int]:
        return self.position, self.progress.batches, self.progress.step

    def _is_saved(self) -> bool:
        """Whether this boundary needs no save any more. One whose save failed does."""
        return self._saved == self._here() and self.saves.ledger.failure is None

    def save_if_due(self, *, last: bool = False, patient: bool = True) -> None:
        """Takes a save that is due, if this boundary is a good one for it."""
        if not self.saves.due or last or self._boundary is None:
            return
        if self._is_saved():
            self.saves.due.clear()
            return
        if not self._boundary.clean and patient and self._waited < PATIENCE and not self._only_zero():
            self._waited += 1
            self.saves.delayed("gradients are pending", self.progress.step)
        elif self.saves.checkpointer.busy:
            self.saves.delayed("the save before is still being written", self.progress.step)
        else:
            self._save(self._boundary)

    def _only_zero(self) -> bool:
        return not any(one.count_nonzero() for one in self._observer.gradients.pending().values())

    def save_now(self, reason: str) -> bool:
        """Saves the boundary that has just been passed, whatever is pending, once the arena is free."""
        self.saves.request(reason)
        self.saves.wait()
        if self._boundary is None or self._is_saved():
            self.saves.due.clear()
            return True
        return self._save(self._boundary)

    def save_outside(self, reason: str) -> None:
        """A save outside of any loop, of this moment as a boundary. Raises `SaveError` if it cannot be taken."""
        self._boundary = self._observer.boundary(self.progress, self.position, rng.capture())
        self._saved = None
        if not self.save_now(reason):
            self.saves.raise_failure()

    def _save(self, boundary: Boundary) -> bool:
        taken = self._take(boundary, self.items.capture(), self._pending(boundary.clean), self._stored(boundary))
        if taken:
            self._saved, self._waited = self._here(), 0
        return taken

    def _pending(self, clean: bool) -> dict[str, ItemDraft]:
        """The item ``gradients``, where any are pending."""
        pending = {} if clean else self._observer.gradients.pending()
        return {"gradients": draft(self._observer.gradients.capture(pending))} if pending else {}

    def _take(
        self, boundary: Boundary, captured: dict[str, Captured], internal: dict[str, ItemDraft], stored: Stored | None
    ) -> bool:
        self.recorder.flush()
        if stored is None:
            self.saves.due.clear()
            self.voice.warn("position_lost", _POSITION_LOST)
            return False
        items = {name: draft(one) for name, one in captured.items()} | internal
        items["values"] = value_draft("values", boundary.values)
        items["data"], items["rng"] = value_draft("data", stored.data()), value_draft("rng", stored.rng())
        return self.saves.save(items, boundary.progress, self.recorder.metrics, self.items.learning_rates())

    def _stored(self, boundary: Boundary) -> Stored | None:
        """The loops' part of the state; None if a loader's position is lost."""
        cursors: list[CursorState] = []
        for cursor in self._cursors if boundary.position.loop is not None else ():
            state = cursor.state()
            if state is None:
                return None
            cursors.append(state)
        return Stored(
            position=boundary.position, mode=self.mode, boundary=boundary.random, epoch=self._epoch_random,
            loop=self._loop_random, ends=self._ends[: boundary.position.loop], cursors=cursors,
            memory=self.memory.to_tree(), constructed_rates=self._rates,
        )  # fmt: skip

    # The end.

    def _stop_if_asked(self) -> None:
        if self._signals is None or self._signals.received is None:
            return
        number = self._signals.received
        self.saves.ask(self.progress, "signal")
        self.save_now("on signal")
        self.saves.wait()
        self._stop(number)

    def _stop(self, number: int) -> NoReturn:
        """Says what a restart will find, which after a failed save is not this boundary."""
        saved = self.saves.ledger.failure is None
        newest = self.saves.ledger.newest.name if self.saves.ledger.newest is not None else "none"
        what = "saved" if saved else "the save failed, and a restart repeats what came after the newest checkpoint"
        self.voice.say("stopped", f"stopped by signal {number}: {what}; the newest checkpoint is {newest}", saved=saved)
        self.leave()
        if self._signals is not None:
            self._signals.received = None
        raise stop_exception(number)

    def already_finished(self, total: int) -> None:
        """The checkpoint is at or beyond the end of the loop."""
        what = "epoch" if self.mode == "epochs" else "batch"
        self.voice.say(
            "already_finished",
            f"finished at {what} {total}; raise the number of {what}s to go on, or choose another folder",
        )

    def finish(self) -> None:
        """The loop has come to its end: the final save, whatever the interval."""
        self.saves.ask(self.progress, "end")
        self.save_now("at end")
        self.saves.wait()
        self.leave()
        self.stop_late()

    def stop_late(self) -> None:
        """Acts on a signal that came during the last save: it was promised."""
        if self._signals is not None and self._signals.received is not None:
            self._stop(self._signals.received)

    def leave(self) -> None:
        """Out of the loop: signals go where they went before."""
        self.recorder.finish()
        self.in_loop = False
        if self._signals is not None:
            self._signals.remove()

    def close(self, failed: bool) -> None:
        """Ends the run: after an exception with an emergency save, else with a final one if the loop was left early."""
        try:
            insisted = self._signals is not None and self._signals.insisted
            if self.in_loop and self._boundary is not None and not insisted:
                self._end_early(self._boundary, failed)
            self.saves.wait()
        except Exception as error:
            if not failed:
                raise
            # The exception that ended the loop is the one that people have to see.
            self.voice.warn("save_failed", f"no save {ON_ERROR}: {error!r}")
        self.leave()
        self._observer.gradients.close()
        if not self.saves.ledger.committed and self.progress.batches and self.saves.resumed_from is None:
            self.voice.warn("nothing_saved", "the run ends without a checkpoint", HoldfastWarning)

    def _end_early(self, boundary: Boundary, failed: bool) -> None:
        reason = ON_ERROR if failed else "at end"
        if failed:
            self.voice.note("error", "an exception ended the loop", at=list(boundary.position.at))
            self.saves.due.clear()
            self.saves.ask(self.progress, "error")
            if not self.saves.due:
                return
        else:
            self.saves.request(reason)
        self.saves.wait()
        if self._is_saved():
            self.saves.due.clear()
            return
        begun = failed or self._left is not None
        obstacle = self._observer.obstacle(boundary, begun=begun, seen=begun or self.mode != "hand")
        if obstacle is None:
            self._save_last_boundary(boundary)
        elif not failed and self._left is not None and self._left.versions == self._observer.shadow.versions():
            self._save_as_left(self._left)
        else:
            self.saves.due.clear()
            self.voice.warn("emergency_impossible", _LOST.format(reason=reason, obstacle=obstacle))

    def _save_last_boundary(self, boundary: Boundary) -> None:
        """Everything as it was at the boundary, whatever a batch that failed has done to small items and buffers."""
        stored = self._left.last if self._left is not None else self._stored(boundary)
        with self._observer.shadow.put_back():
            captured = self.items.capture() | {name: frozen() for name, frozen in boundary.small.items()}
            self._take(boundary, captured, self._pending(boundary.clean), stored)
            self._saved = self._here()

    def _save_as_left(self, left: _Left) -> None:
        """After a `break` behind an optimizer step: the final weights, as of the batch that the loop was left in."""
        self._observer.gradients.begin_interval()
        self._take(left.after, self.items.capture(), self._pending(clean=False), left.stored)


_OVERFLOWED = (
    "this loader draws from the global random generators in the midst of training, and has drawn more often since the "
    "epoch's start than is recorded: its order after the resume cannot be promised. Give its sampler a generator of "
    "its own."
)
_LOOP_MISSING = (
    "the checkpoint was taken in {}, which was not reached; the script has changed, and the run is not exact"
)
_POSITION_LOST = (
    "no save on the way out: the loader keeps its own position, and has moved on since the last boundary. "
    "The newest checkpoint before it is what a resume uses."
)
_LOST = (
    "no save {reason}: the last boundary cannot be saved any more, because {obstacle}. The newest checkpoint before it "
    "is what a resume uses. Change weights only after run.close(), or keep other weights in an item of their own."
)
