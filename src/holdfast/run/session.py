"""A run in progress: where it stands, what each boundary does, how it ends."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NoReturn

from holdfast.errors import ExactnessWarning, HoldfastWarning, UsageError
from holdfast.format.reasons import ASKED, AT_END, BEFORE_DEADLINE, ON_ERROR, ON_SIGNAL
from holdfast.run.beginning import Beginning
from holdfast.run.counts import whole
from holdfast.run.inquiry import Inquiry
from holdfast.run.items import Items
from holdfast.run.loop_state import LoopState
from holdfast.run.position import Mode, Position
from holdfast.run.recorder import Recorder
from holdfast.run.resumption import Resumption
from holdfast.run.saves import Saves
from holdfast.run.settings import Settings
from holdfast.run.snapshots import Snapshots
from holdfast.run.stops import DEADLINE, Stop, Stops
from holdfast.run.tally import Tally
from holdfast.run.voice import Voice
from holdfast.state.torch import rng
from holdfast.state.torch.cursor import Cursor, CursorState
from holdfast.types import Progress, Progressing


class Session:
    """The run's state machine, driven by the loops in `holdfast.run.loops` or by hand."""

    def __init__(
        self, *, items: Items, saves: Saves, recorder: Recorder, voice: Voice, stops: Stops,
        resumption: Resumption | None, beginning: Beginning | None, values: dict[str, Any], progressing: Progressing,
        settings: Settings,
    ) -> None:  # fmt: skip
        self.items, self.saves, self.recorder, self.voice, self.values = items, saves, recorder, voice, values
        self.loop = LoopState(settings)
        self.snapshots = Snapshots(items, values, self.loop, saves, recorder, voice)
        self._tally = Tally(resumption.progress if resumption is not None else Progress(), self.snapshots.observer)
        self.in_loop = self.in_epoch = False
        self.body: list[Cursor] | None = None
        """The loaders of the loop whose body runs."""
        self.closed: str | None = None
        self._gradients = self.snapshots.observer.gradients
        self._stops, self._signals, self._resumption = stops, stops.signals, resumption
        self._beginning, self._fresh = beginning, resumption is None
        self.progressing = progressing
        self._inquiry = Inquiry(saves, recorder, self.loop, stops)
        self._begun = self._left = self._left_in_epoch = self._bare = self._stopped = self._trained = False

    @property
    def progress(self) -> Progress:
        return self._tally.progress

    @property
    def position(self) -> Position:
        return self.loop.position

    def left_of_loop(self, length: int) -> int:
        """How many of ``length`` batches the next loop over batches will hand out."""
        resumption = self._resumption
        if resumption is None or resumption.position.loop is None:
            return length
        number, wanted = self.loop.next_number, resumption.position.loop
        if number == wanted:
            return max(0, length - resumption.position.batch)
        return 0 if number < wanted else length

    # The beginning of a loop.

    def require_open(self) -> None:
        """Raises `UsageError` once the run is closed: nothing would be saved any more."""
        if self.closed is not None:
            raise UsageError(self.closed)

    def begin(self, mode: Mode, total: int | None = None) -> None:
        """Enters a loop of the run: installs the signal handlers and, on a resume, restores the state.

        ``total`` is the length of the whole run, in epochs or steps, where the loop knows it.
        """
        self.require_open()
        self._require_one_kind(mode, total)
        if total is not None:
            self._inquiry.know_length(mode, total)
        elif not self._begun:
            self._inquiry.know_no_length(mode)
        if not self.in_loop:
            self._tally.start_clock()
            self._go_on_behind_loop()
            self.in_loop, self._left, self.loop.mode = True, False, mode
            self._stops.install()
        if self._begun:
            return
        self._begun = True
        self.snapshots.estimate()
        self._restore_beginning()
        if self._resumption is not None:
            self._restore_first(self._resumption, mode)
        self.snapshots.mark(self.progress, rng.capture())
        if self._fresh:
            self._inquiry.ask("start", self.progress)
        else:
            self.snapshots.mark_saved()
        if self._resumption is None:
            self.snapshots.save_if_due(patient=False)

    def _require_one_kind(self, mode: Mode, total: int | None) -> None:
        """After a restart nothing would tell in which of two kinds of loop a checkpoint was taken."""
        if mode == "epochs" and total is None and not self.in_epoch:
            self._bare = True
        mixed = self._trained and mode != self.loop.mode
        if mixed or (self._trained and self._bare and total is not None):
            raise UsageError(_MIXED)

    def _go_on_behind_loop(self) -> None:
        """Another loop begins. An epoch that was left before it counts as done, as in the checkpoint of its end."""
        self._inquiry.go_on()
        if self._left and self._left_in_epoch:
            self.voice.say("epoch_left", _EPOCH_LEFT.format(self.position.epoch, self.progress.batch))
            self._tally.count_epoch(self.position.epoch)
            self.loop.leave_epoch()
        elif self._left and self._inquiry.ask_between_loops(self.progress):
            self.snapshots.save_between_loops()

    def _restore_first(self, resumption: Resumption, mode: Mode) -> None:
        """The restore before the loops. In mid-epoch, user code runs again from the epoch's start on."""
        resumption.check_mode(mode)
        if resumption.progress.batches:
            self.recorder.forget()
        self._restore_items(resumption)
        self.loop.load(resumption.stored)
        if resumption.position.loop is None or mode == "hand":
            self.loop.position = resumption.position
            resumption.restore_random(resumption.stored.boundary, self.voice)
        else:
            self.loop.position = Position(epoch=resumption.position.epoch)
            resumption.restore_random(resumption.stored.epoch, self.voice)
            self.recorder.muted = True
        if resumption.position.loop is None:
            self._resumption = None

    def _restore_beginning(self) -> None:
        """What comes from other runs is loaded once; the rest of a fresh run is fresh."""
        beginning, self._beginning = self._beginning, None
        if beginning is not None:
            beginning.restore(self.items, self.progressing)
            self._note_restored(beginning.notes)

    def _note_restored(self, notes: Iterable[str]) -> None:
        self.snapshots.observer.shadow.refresh()
        for note in notes:
            self.voice.warn("restored_differently", note, once=note)

    def _restore_items(self, resumption: Resumption) -> None:
        resumption.restore(self.items, self._gradients, self.values, self.progressing)
        self._note_restored(resumption.notes)

    def start_epoch(self) -> None:
        """Right before the body of an epoch."""
        self.loop.start_epoch(anew=self._resumption is None)

    def loop_is_over(self, number: int) -> bool:
        """Whether loop ``number`` was finished before the checkpoint that is being resumed from."""
        wanted = self._resumption.position.loop if self._resumption is not None else None
        return wanted is not None and number < wanted

    def pass_over(self, number: int, cursors: list[Cursor]) -> None:
        """In place of a loop that was finished: code between it and the next one draws what it drew there."""
        self.loop.memory.carry(number, cursors)
        self.loop.memory.note(number, cursors)
        if self._resumption is not None and number < len(self.loop.ends):
            self._resumption.restore_random(self.loop.ends[number], self.voice)

    def stored_cursors(self, number: int, count: int) -> list[CursorState] | None:
        """On a resume in this loop, where its loaders were; the random state before ``iter()`` is restored with it."""
        resumption = self._resumption
        if resumption is None or resumption.position.loop != number:
            return None
        stored = resumption.cursors(count)
        if any(one.overflowed for one in stored):
            self.voice.warn("overflowed", _OVERFLOWED, ExactnessWarning)
        resumption.restore_random(resumption.stored.loop, self.voice)
        return stored

    def enter_loop(self, number: int, cursors: list[Cursor], *, resumed: bool, length: int | None) -> None:
        """Right before the first batch of ``length``. On a resume, everything is brought to the boundary once more."""
        if resumed:
            self.restore_again()
        before = self.progress.batch - (self.loop.position.batch if resumed else 0)
        self.loop.enter_loop(number, cursors, resumed=resumed, epoch_length=None if length is None else before + length)
        self.snapshots.mark(self.progress, rng.capture())
        if resumed:
            self.snapshots.mark_saved()
            self.snapshots.save_if_due(patient=False)

    def restore_again(self) -> None:
        """The second restore, right before the first batch: code since the first one may have changed anything."""
        resumption = self._resumption
        if resumption is None:
            return
        self._restore_items(resumption)
        self.loop.position, self._tally.progress = resumption.position, resumption.progress
        resumption.restore_random(resumption.stored.boundary, self.voice)
        self.recorder.muted, self._resumption = False, None

    def start_by_hand(self, epoch: int) -> None:
        """Before a batch of a loop written by hand. Past the checkpoint's epoch, code ran as it would have."""
        if self._resumption is not None and self._resumption.position.epoch == epoch:
            self.restore_again()
            self.recorder.forget()
        self._resumption = None

    # Boundaries.

    def complete_batch(self, samples: int, tokens: int) -> None:
        """The boundary after a batch of a loop."""
        random = rng.capture()
        self.loop.position = self.loop.next_batch()
        self._tally.count_batch(self.position.epoch, samples, tokens)
        self._pass_boundary(random, "batch", self.loop.cursors[0].digest())

    def hand_boundary(self, epoch: int, batch: int, step: int | None, samples: int | None, tokens: int | None) -> None:
        """The boundary of a loop written by hand. One that was passed before, by a batch tried again, counts once."""
        random = rng.capture()
        position = Position(epoch=whole("epoch", epoch), loop=0, batch=whole("batch", batch))
        again = position == self.position
        self._tally.count_by_hand(position.epoch, position.batch, step, samples, tokens, again=again)
        self._resumption = None
        self.loop.position = position
        self._pass_boundary(random, "batch", None)
        self.snapshots.save_if_due()

    def end_epoch(self, *, final: bool) -> None:
        """The boundary after an epoch's last statement. After the last epoch, the save at the end stands for it."""
        random = rng.capture()
        self._give_up_resumption()
        batches = self.progress.batch
        self._tally.count_epoch(self.position.epoch)
        self.loop.end_epoch(batches)
        self._inquiry.know_epoch(batches)
        self.body = None
        self._pass_boundary(random, "tail", None)
        if not final:
            self.snapshots.save_if_due(patient=False)

    def _give_up_resumption(self) -> None:
        """An epoch ended without the loop that the checkpoint was taken in: the script has changed."""
        if self._resumption is not None:
            where = f"loop {self._resumption.position.loop} of epoch {self.position.epoch}"
            self.voice.warn("loop_missing", _LOOP_MISSING.format(where), ExactnessWarning)
            self._tally.progress = self._resumption.progress
            self._resumption, self.recorder.muted = None, False

    def _pass_boundary(self, random: rng.RngState, kind: str, index: str | None) -> None:
        self.require_open()
        self._trained = True
        self.saves.meter.boundary(batch=kind == "batch", writing=self.saves.checkpointer.busy)
        self.snapshots.mark(self.progress, random)
        self.recorder.record(self._line(kind, index))
        self.saves.poll()
        self.snapshots.reserve()
        self._inquiry.ask("boundary" if kind == "batch" else "epoch_end", self.progress)
        self._stop_if_asked()

    def _line(self, kind: str, index: str | None) -> dict[str, Any]:
        line = {"t": kind, "at": self.position.at, "n": self.progress.batches, "step": self.progress.step}
        if index:
            line["index"] = index
        random = self.loop.take_iteration() if kind == "batch" else None
        return line if random is None else {**line, "rng": random}

    def save(self) -> None:
        """In a loop, a request for the next boundary; outside of one, a save of this moment."""
        if self.in_loop:
            self.saves.request(ASKED)
        elif self._resumption is None:
            self._restore_beginning()
            self.snapshots.save_outside(self.progress)
        # Else the run has not come to where it resumes: its state, and what was saved up to there, are on disk.

    # The end.

    def _stop_if_asked(self) -> None:
        stop = self._stops.by_signal()
        if stop is not None:
            self._inquiry.ask("signal", self.progress)
            hurry = self._stops.hurry(self.saves.needed_seconds)
            if hurry is not None:
                self.voice.warn("hurry", hurry)
        elif self.saves.ending:
            stop = self._stops.by_deadline()
        if stop is not None:
            self._save_last(BEFORE_DEADLINE if stop.cause == DEADLINE else ON_SIGNAL)
            self._stop(stop)

    def _save_last(self, reason: str) -> None:
        """Saves the boundary, and once more if the writer found other bytes than it was told: no other will come."""
        for _ in range(2):
            self.snapshots.save_now(reason)
            self.saves.wait()
            if not any(one.again for one in self.saves.ledger.last):
                break

    def _stop(self, stop: Stop) -> NoReturn:
        """Says what a restart will find, which after a failed save is not this boundary."""
        saved = self.snapshots.is_saved()
        newest = self.saves.ledger.newest.name if self.saves.ledger.newest is not None else "none"
        what = "saved" if saved else "the save failed, and a restart repeats what came after the newest checkpoint"
        self.voice.say("stopped", f"stopped by {stop.cause}: {what}; the newest checkpoint is {newest}", saved=saved)
        self._stopped = True
        self._leave()
        raise self._stops.end(stop)

    def already_finished(self, total: int) -> None:
        """The checkpoint is at or beyond the end of the loop."""
        epochs = self.loop.mode == "epochs"
        what, there = ("epoch", self.position.epoch) if epochs else ("batch", self.progress.batches)
        asked = "" if there == total else f", and {total} are asked for"
        self.voice.say(
            "already_finished",
            f"finished at {what} {there}{asked}; raise the number of {what}{'s' if epochs else 'es'} to go on, "
            "or choose another folder",
        )

        if not epochs and there == total:
            self.restore_again()  # the checkpoint is of the end of this loop, not of one that comes behind it

    def end_former_pass(self) -> None:
        """A loop over steps begins anew where one before it ended in the midst of its loader."""
        if self._resumption is None and self.position.loop is not None:
            self.end_epoch(final=False)

    def finish(self) -> None:
        """The loop has come to its end: the final save, whatever the interval."""
        self._inquiry.ask("end", self.progress)
        self._save_last(AT_END)
        self._leave()
        self.stop_late()

    def leave_batch(self, samples: int = 0, tokens: int = 0) -> None:
        """The loop was left in the body of a batch, by `break` or by an exception: they look the same from here."""
        self._tally.count_batch(self.position.epoch, samples, tokens)
        self._gradients.count_step()
        self.snapshots.leave_batch(self.progress)

    def leave_loops(self) -> None:
        """The outermost loop was left. No boundary will come, so a signal stops the process where it is."""
        if not self.in_loop or self.closed is not None:
            return
        self._left, self.in_loop, self._left_in_epoch = True, False, self.in_epoch
        self._signals.at_once = True
        if not self._signals.insisted:
            left = self._tally.after_epoch(self.position.epoch) if self.in_epoch else None
            if left is not None:
                self._inquiry.ask_about_leaving(left)
            self.snapshots.leave_loops(left)

    def stop_late(self) -> None:
        """Acts on a signal that came during the last save: it was promised."""
        stop = self._stops.by_signal()
        if stop is not None:
            self._stop(stop)

    def _leave(self) -> None:
        """Out of the loop: signals go where they went before."""
        self.recorder.finish()
        self.in_loop = False
        self._stops.remove()

    def close(self, exception: type[BaseException] | None) -> None:
        """Ends the run: after an exception with an emergency save, else with a final one if the loop was left early."""
        self._signals.at_once = False
        try:
            if (self.in_loop or self._left) and not self._signals.insisted:
                self._end_early(exception)
            self.saves.wait()
        except Exception as error:
            if exception is None:
                raise
            # The exception that ended the loop is the one that people have to see.
            self.voice.warn("save_failed", f"no save {ON_ERROR}: {error!r}")
        self._leave()
        self._stops.close()
        if self._beginning is not None:
            self._beginning.close()
        self._gradients.close()
        if not self.saves.ledger.committed and self.progress.batches and self._fresh:
            self.voice.warn("nothing_saved", "the run ends without a checkpoint", HoldfastWarning)
        if exception is None and not self._stopped:
            self._finish()

    def _finish(self) -> None:
        """The run came to its end by itself: what can be said of its policies only now."""
        if self._trained:
            self._inquiry.know_end(self.progress)
        self.voice.note("finished")

    def _end_early(self, exception: type[BaseException] | None) -> None:
        boundary = self.snapshots.boundary
        if boundary is None:
            return
        if exception is None or self._signals.stopped_at_once:
            self._leave_what_is_held()
            self._inquiry.ask_about_end(self.progress)
            self.snapshots.end()
            return
        self._inquiry.go_on()
        if not issubclass(exception, Exception):
            self.snapshots.end_on_exception(AT_END, last=AT_END)
        else:
            kind = exception.__name__
            self.voice.note("error", f"{kind} ended the loop", at=list(self.position.at), error=kind)
            # Whatever the policy calls it: a resume, and what is kept, go by this reason.
            for schedule in self._inquiry.ask("error", boundary.progress):
                schedule.request(ON_ERROR)
            if self.saves.due:
                self._save_on_error(kind)

    def _save_on_error(self, kind: str) -> None:
        before = self.saves.ledger.committed
        self.snapshots.end_on_exception(ON_ERROR, last=None)
        self.saves.wait()
        if self.saves.ledger.committed > before and self.saves.ledger.parent is not None:
            text = f"{kind} ended the loop; the boundary before it is saved as {self.saves.ledger.parent.name}"
            self.voice.say("saved_on_error", text)

    def _leave_what_is_held(self) -> None:
        """A loop that a variable still holds has not noticed that it was left."""
        if self.loop.mode != "hand" and not self._left:
            if self.body is not None:
                self.leave_batch()
            self.leave_loops()


_OVERFLOWED = (
    "this loader draws from the global random generators in the midst of training, and has drawn more often since the "
    "epoch's start than is recorded: its order after the resume cannot be promised. Give its sampler a generator of "
    "its own."
)
_MIXED = (
    "this run has trained in another kind of loop before. After a restart nothing would tell which of them a "
    "checkpoint is of: use one kind of loop for a run (run.epochs(), run.steps(), loops over run.batches() alone, or "
    "calls by hand), or a Run for each, the second one with start_from= the first."
)
_EPOCH_LEFT = "epoch {} was left after {} batches, and counts as done: the next loop goes on behind it"
_LOOP_MISSING = (
    "the checkpoint was taken in {}, which was not reached; the script has changed, and the run is not exact"
)
