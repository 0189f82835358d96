"""The last boundary, and the checkpoints that are taken of it: in the loop, on request, and at the end."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from typing import Any

from holdfast.engine.checkpointer import ItemDraft
from holdfast.errors import SaveError
from holdfast.format.reasons import ASKED, AT_END
from holdfast.garbage import no_collection
from holdfast.run.boundary import Boundary, Observer
from holdfast.run.drafts import Content, Firing
from holdfast.run.items import Items
from holdfast.run.loop_state import LoopState
from holdfast.run.position import Position, Stored
from holdfast.run.recorder import Recorder
from holdfast.run.saves import Held, Saves
from holdfast.run.voice import Voice
from holdfast.state.item import Captured
from holdfast.state.loading import draft, value_draft
from holdfast.state.stateful import copied
from holdfast.state.torch import rng
from holdfast.state.torch.side_copies import SideStreams
from holdfast.types import Progress

PATIENCE = 64
"""Boundaries that a due save waits for one without pending gradients; then they become part of it."""


@dataclass(frozen=True, slots=True)
class _Left:
    """A loop was left in its body: what its last boundary stored, and the boundary that leaving it makes."""

    last: Stored | None
    after: Boundary
    stored: Stored | None
    marks: list[object]


class Snapshots:
    """Marks boundaries, and saves the last one, or, where a loop was left, the state as it was left."""

    def __init__(
        self, items: Items, values: dict[str, Any], loop: LoopState, saves: Saves, recorder: Recorder, voice: Voice
    ) -> None:
        self.observer = Observer(items, values)
        self.boundary: Boundary | None = None
        self._items, self._values, self._loop = items, values, loop
        self._saves, self._recorder, self._voice = saves, recorder, voice
        saves.checkpointer.device = SideStreams(self.observer.gradients)
        self._waited = 0
        self._reserved = False
        self._left: _Left | None = None
        self._held: Held | None = None

    # Boundaries.

    def mark(self, progress: Progress, random: rng.RngState) -> None:
        """A boundary: remembers what a save of it needs."""
        self._loop.mark()
        self.boundary = self.observer.boundary(progress, self._loop.position, random)
        self._left = self._held = None

    def mark_saved(self) -> None:
        """The boundary is where the run was resumed, so it needs no save, but by savers that have lost theirs."""
        self._saves.mark_saved(self._here())

    @no_collection()
    def reserve(self) -> None:
        """Sets the arena aside once the optimizer has its state: a lack of memory shows now, not at the first save."""
        if self._reserved or self.boundary is None or not self.boundary.progress.step:
            return
        if not self._saves.checkpointer.busy:
            self._reserved = True
            if (items := self._measured()) is not None:
                self._saves.reserve(items)

    def estimate(self) -> None:
        """Tells, before the first save, how much one may cost."""
        if (items := self._measured()) is not None:
            self._saves.estimate(items)

    def _measured(self) -> dict[str, ItemDraft] | None:
        """All items, to see how large they are. What one raises is said by the first save, which tries it again."""
        try:
            return {name: draft(one) for name, one in self._items.capture().items()}
        except Exception:
            return None

    def _here(self) -> tuple[Position, int, int] | None:
        last = self.boundary
        return None if last is None else (last.position, last.progress.batches, last.progress.step)

    def is_saved(self) -> bool:
        """Whether the last boundary needs no save any more. One whose save failed does."""
        return self._saves.is_saved(self._here())

    # Saves in the loop and on request.

    def save_if_due(self, *, last: bool = False, patient: bool = True) -> None:
        """Takes a save that is due, if this boundary is a good one for it."""
        boundary, saves = self.boundary, self._saves
        if not saves.due or boundary is None or (last and not saves.urgent):
            return
        saves.settle(self._here())
        if not saves.due:
            return
        if saves.insisted:
            with saves.meter.stopping():
                saves.wait()
                self._save(boundary)
        elif not boundary.clean and patient and self._waited < PATIENCE and not self._only_zero():
            self._waited += 1
            saves.delayed("gradients are pending", boundary.progress.step)
        elif saves.checkpointer.busy:
            saves.delayed("the save before is still being written", boundary.progress.step)
        else:
            self._save(boundary, behind=True)

    def _only_zero(self) -> bool:
        return not any(one.count_nonzero() for one in self.observer.gradients.pending().values())

    def save_now(self, reason: str) -> bool:
        """Saves the boundary that has just been passed, whatever is pending, once the arena is free."""
        self._saves.request(reason)
        self._saves.wait()
        self._saves.settle(self._here())
        return self.boundary is None or not self._saves.due or self._save(self.boundary)

    def save_outside(self, progress: Progress) -> None:
        """A save outside of any loop, of this moment. Raises `SaveError` if it cannot be taken."""
        self._saves.request(ASKED)
        self._saves.wait()
        if not self._save_as_it_is(progress):
            self._saves.raise_failure()

    def _save_as_it_is(self, progress: Progress) -> bool:
        """Saves now, as the boundary that leaving the loop has made, or else as the last one."""
        left, self._left, self._held = self._left, None, None
        progress = progress if left is None else left.after.progress
        position = self._loop.position if left is None else left.after.position
        self.boundary = self.observer.boundary(progress, position, rng.capture())
        return self._save(self.boundary)

    def _save(self, boundary: Boundary, *, behind: bool = False) -> bool:
        """Saves ``boundary``, which is now. What an item raises fails this save, not the training.

        With ``behind``, a device may copy while the next batch is computed.
        """
        with self._saves.meter.stopping():
            return self._save_firing(boundary, self._saves.firing(), behind)

    def _save_firing(self, boundary: Boundary, firing: Firing, behind: bool) -> bool:
        try:
            stored = self._loop.stored(boundary)
            if stored is None and _needs_position(firing):
                raise SaveError(f"{_POSITION_LOST}.")
            with no_collection():
                content = self._content(boundary, self._capture(firing), stored, firing)
        except Exception as error:
            self._saves.fail(boundary.progress, firing, error)
            return False
        self._waited = 0
        return self._saves.save(content, firing, self._here(), behind=behind)

    def _capture(self, firing: Firing) -> dict[str, Captured]:
        """The items that any of them saves."""
        return self._items.capture({name for one, _ in firing for name in one.extent.items})

    def _content(
        self, boundary: Boundary, captured: dict[str, Captured], stored: Stored | None, firing: Firing
    ) -> Content:
        self._recorder.flush()
        items = {name: draft(one) for name, one in captured.items()}
        if stored is not None and _needs_position(firing):
            items |= self._pending(boundary) | {"values": value_draft("values", boundary.values)}
            stored = replace(stored, savers=self._saves.remembered(firing))
            items |= {"data": value_draft("data", stored.data()), "rng": value_draft("rng", stored.rng())}
        return Content(items, boundary.progress, self._recorder.metrics, self._items.learning_rates())

    def _pending(self, boundary: Boundary) -> dict[str, ItemDraft]:
        """The item ``gradients``, where any are pending."""
        gradients, now = self.observer.gradients, boundary is not self.boundary
        pending = {} if boundary.clean else gradients.pending(now=now)
        return {"gradients": draft(gradients.capture(pending))} if pending else {}

    # The end of a loop that did not come to its end.

    def leave_batch(self, progress: Progress) -> None:
        """A loop was left by `break` or by an exception: they look the same. ``progress`` counts the batch."""
        if self.boundary is None:
            return
        last = self._told(self.boundary)
        for cursor in self._loop.cursors:
            cursor.mark()
        self._left = self._left_at(self._loop.next_batch(), progress, last)

    def leave_loops(self, epoch_end: Progress | None) -> None:
        """The outermost loop was left. A final save will want the state of now, and code behind may change it.

        ``epoch_end`` is the progress if it was left in the body of an epoch.
        """
        if self.boundary is None:
            return
        left = self._left
        if epoch_end is not None and (left is None or left.marks != self.observer.shadow.marks()):
            last = self._told(self.boundary) if left is None else left.last
            self._loop.ends.clear()
            self._left = self._left_at(Position(epoch=epoch_end.epoch), epoch_end, last)
        # What goes wrong here is said at the end, when it is tried again.
        with contextlib.suppress(Exception):
            held = self._hold_final(self.boundary)
            self._held = held if isinstance(held, Held) else None

    def _left_at(self, position: Position, progress: Progress, last: Stored | None) -> _Left:
        after = Boundary(progress, position, rng.capture(), clean=False, values=copied(self._values))
        return _Left(last, after, self._told(after), self.observer.shadow.marks())

    def _told(self, boundary: Boundary) -> Stored | None:
        """What the loop stores of a boundary; None if a loader does not say where it stands."""
        # What it raises would come in place of the exception that ended the loop; saves in the loop have said it.
        with contextlib.suppress(Exception):
            return self._loop.stored(boundary)
        return None

    def _hold_final(self, boundary: Boundary) -> Held | str | None:
        """The snapshot for a final save: the last boundary if it is still there, else the state now.

        None if it is saved already, the obstacle if neither can be.
        """
        self._saves.wait()
        left, firing = self._left, self._saves.firing(AT_END, self._here())
        if not firing and (left is None or self._obstacle(boundary, unseen=False) is None):
            return None
        obstacle = self._obstacle(boundary)
        if obstacle is None:
            return self._hold_last(boundary, firing)
        if self.observer.gradients.torn or left is None or left.stored is None:
            return obstacle
        firing = self._saves.firing(AT_END)
        content = self._content(left.after, self._capture(firing), left.stored, firing)
        return self._hold(content, firing)

    def _final(self, boundary: Boundary) -> Held | str | None:
        """What was held when the loop was left, unless more is due by now, and can still be saved."""
        before = {one for one, _ in self._held.firing} if self._held is not None else set()
        if self._held is not None and {one for one, _ in self._saves.firing(AT_END)} <= before:
            return self._held
        now = self._hold_final(boundary)
        return now if isinstance(now, Held) else self._held or now

    def _obstacle(self, boundary: Boundary, *, unseen: bool = True) -> str | None:
        """Why the last boundary is lost by now; None if it can still be saved."""
        if self._stored_last(boundary) is None:
            return _POSITION_LOST
        return self.observer.obstacle(boundary, unseen=unseen)

    def _stored_last(self, boundary: Boundary) -> Stored | None:
        return self._left.last if self._left is not None else self._told(boundary)

    def _hold_last(self, boundary: Boundary, firing: Firing) -> Held:
        """Everything as it was at the boundary, whatever a batch that failed has done to small items and buffers."""
        stored = self._stored_last(boundary)
        assert stored is not None, "a lost position is an obstacle"
        with self.observer.put_back(boundary):
            captured = self._capture(firing)
            captured |= {name: frozen() for name, frozen in boundary.small.items() if name in captured}
            return self._hold(self._content(boundary, captured, stored, firing), firing)

    def _hold(self, content: Content, firing: Firing) -> Held:
        # It overwrites what was held before, also where it fails halfway.
        self._held = None
        return self._saves.hold(content, firing, self._here())

    def save_between_loops(self) -> None:
        """What is due behind a loop that stands in no other, of its last boundary."""
        if self.boundary is not None:
            self._end_at_boundary(self.boundary, "between two loops", last=None, unseen=False)

    # The save at the end.

    def end(self) -> None:
        """The final save of a loop that was left, or that is written by hand, unless all of it is saved."""
        if self.boundary is None:
            return
        try:
            self._end(self.boundary, asked=ASKED in self._saves.due)
        except Exception as error:
            self._saves.fail(self.boundary.progress, self._saves.firing(AT_END), error)

    def _end(self, boundary: Boundary, *, asked: bool) -> None:
        if self._loop.mode != "hand":
            self._commit_held(self._final(boundary), AT_END)
        elif self._obstacle(boundary, unseen=False) is None or not asked:
            self._end_at_boundary(boundary, AT_END, last=AT_END, unseen=False)
        else:
            self._saves.request(AT_END)
            self._save_as_it_is(boundary.progress)

    def end_on_exception(self, reason: str, *, last: str | None) -> None:
        """The save after an exception: of the last boundary, or none, for a batch may be half done.

        It is one of those for whom a save is due and, if there is a reason ``last``, of those that are for the end.
        """
        if self.boundary is not None:
            self._end_at_boundary(self.boundary, reason, last=last, unseen=True)

    def _end_at_boundary(self, boundary: Boundary, reason: str, *, last: str | None, unseen: bool) -> None:
        self._saves.wait()
        held: Held | str | None = None
        firing = self._saves.firing(last, self._here())
        if firing:
            held = self._obstacle(boundary, unseen=unseen) or self._hold_last(boundary, firing)
        self._commit_held(held, reason, hint=not unseen)

    def _commit_held(self, held: Held | str | None, reason: str, *, hint: bool = False) -> None:
        """Commits a snapshot, or says why there is none; with a ``hint`` also what to do."""
        self._held = None
        if isinstance(held, str):
            lost = _LOST.format(reason=reason, obstacle=held)
            self._voice.warn("final_save_impossible", lost + _HINT if hint else lost)
        elif held is not None:
            self._saves.commit(held)
        self._saves.drop()  # not before: what the policies remember of this save waits with what is due


def _needs_position(firing: Firing) -> bool:
    """Whether anybody saves where the run is."""
    return any(one.extent.whole for one, _ in firing)


_POSITION_LOST = "the loader keeps its own position, and has moved on since the last boundary"
_LOST = (
    "no save {reason}: the last boundary cannot be saved any more, because {obstacle}. The newest checkpoint before it "
    "is what a resume uses."
)
_HINT = " Change weights only after run.close(), or call run.save() before it to save them as they are."
