"""What is due for which savers, when a snapshot is handed over for them, and how that ended."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field

from holdfast.engine.checkpointer import CheckpointDraft, Checkpointer, ItemDraft
from holdfast.engine.messages import Committed, Failed, Outcome, Persist
from holdfast.engine.requests import take_requests
from holdfast.errors import HoldfastError, SaveError, StorageError
from holdfast.format.manifest import Parent
from holdfast.format.names import CheckpointName, default_label
from holdfast.format.reasons import AT_END, ON_ERROR, ON_REQUEST, ON_SIGNAL
from holdfast.hints import raised_at
from holdfast.policies.keep import Kept
from holdfast.policies.moment import Event
from holdfast.policies.save import Choice
from holdfast.policies.written import written
from holdfast.run.advice import Advice
from holdfast.run.clock import Clock
from holdfast.run.costs import CostMeter, SaveCost, estimate
from holdfast.run.drafts import Content, Firing, Identity, coming, make_manifest, reasons_of, size_of
from holdfast.run.extent import AnyExtent
from holdfast.run.remembered import Remembered
from holdfast.run.schedule import Schedule, Share, Sight
from holdfast.run.target import Target
from holdfast.run.voice import Voice
from holdfast.storage.base import Storage
from holdfast.types import Progress
from holdfast.wording import duration

_LONG_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Held:
    """A snapshot that is not handed over yet: for whom, which boundary (``here``) it holds, and what it has cost."""

    persist: Persist
    firing: Firing
    here: Hashable
    progress: Progress
    cost: SaveCost


@dataclass(slots=True)
class Ledger:
    """What the run has saved.

    ``newest`` is the newest checkpoint to resume from, ``parent`` the newest of any kind. ``failures`` are those of
    folders whose last save failed, ``last`` those of the last snapshot.
    """

    newest: Parent | None = None
    parent: Parent | None = None
    failures: dict[str, Failed] = field(default_factory=dict)
    last: list[Failed] = field(default_factory=list)
    committed: int = 0


@dataclass(slots=True)
class Saves:
    """Asks the policies, collects what is due, hands snapshots to the engine and hears how they ended."""

    targets: Sequence[Target]
    checkpointer: Checkpointer
    voice: Voice
    identity: Identity
    house: Storage
    """Where requests from outside are left: the run's own folder."""
    clock: Clock = field(default_factory=Clock)
    meter: CostMeter = field(default_factory=CostMeter)
    ledger: Ledger = field(default_factory=Ledger)
    advice: Advice = field(init=False)
    _looked: Progress = field(default_factory=Progress)
    _under_way: Held | None = None
    _ordinal: int = 0
    _delayed: bool = False
    _listened: float = 0.0

    def __post_init__(self) -> None:
        self.advice = Advice(self.targets, self.voice)

    @property
    def schedules(self) -> list[Schedule]:
        return [one for target in self.targets for one in target.schedules]

    @property
    def main(self) -> list[Schedule]:
        """Those who save what a run is resumed from; all, if none does. Final and requested saves are theirs."""
        return [one for one in self.schedules if one.extent.whole] or self.schedules

    def start(self, progress: Progress, remembered: Mapping[str, Remembered], parent: Parent | None) -> None:
        """The thresholds that later progress crosses are counted from here."""
        self._looked, self.ledger.newest, self.ledger.parent = progress, parent, parent
        for schedule in self.schedules:
            schedule.start(progress, remembered.get(schedule.key))

    def reserve(self, items: Mapping[str, ItemDraft]) -> None:
        """Sets the arena aside for a state like ``items``, by which the cost of the first save can be told.

        Raises `MemoryLimitError` if such a state can never be saved here.
        """
        self.checkpointer.reserve(items, len(self.targets))
        self.estimate(items)

    def estimate(self, items: Mapping[str, ItemDraft]) -> None:
        """How much a save of ``items`` may cost, for those who have not saved yet."""
        for schedule in self.schedules:
            if not schedule.cost.measured:
                schedule.cost = estimate(size_of(items, schedule.extent))

    # What is due.

    def ask(
        self, progress: Progress, event: Event, logged: Mapping[str, float], deadlines: Mapping[str, float],
        share: Share,
    ) -> list[Schedule]:  # fmt: skip
        """Collects what the policies say is due. Returns those for whom something is."""
        sight = Sight(
            before=self._looked, now=progress, event=event, share=share, logged=logged, time=self.clock.now(),
            batch=self.meter.batch, deadlines=deadlines,
        )  # fmt: skip
        self._looked, found = progress, []
        for schedule in self.schedules:
            moment = schedule.moment(sight)
            if schedule.ask(moment):
                found.append(schedule)
                self._pass_on(schedule.saver.save.remark(moment))
            for choice in schedule.choices(moment):
                self._note_choice(schedule, choice)
        return found

    def _pass_on(self, remark: str | None) -> None:
        if remark is not None:
            self.voice.warn("remark", remark)

    def _note_choice(self, schedule: Schedule, choice: Choice) -> None:
        self.voice.note(
            "interval", f"every {duration(choice.seconds)}: {choice.because}", policy=written(schedule.saver.save),
            seconds=choice.seconds, because=choice.because, folder=schedule.folder,
        )  # fmt: skip

    def ask_in_vain(self) -> Callable[[], None]:
        """A call that makes all be due again, and remembered, as it is now."""
        looked, before = self._looked, [(one, one.situation()) for one in self.schedules]

        def undo() -> None:
            self._looked = looked
            for schedule, situation in before:
                schedule.go_back(situation)

        return undo

    @property
    def due(self) -> list[str]:
        """Why a save is due, for all savers together."""
        return list(dict.fromkeys(reason for one in self.schedules for reason in one.due))

    @property
    def insisted(self) -> bool:
        """Whether what is due has to hold the boundary at which it became due."""
        return any(one.insisted for one in self.schedules)

    @property
    def urgent(self) -> bool:
        """Whether what is due cannot wait for the end of the epoch."""
        return any(one.urgent for one in self.schedules)

    @property
    def ending(self) -> bool:
        """Whether the run ends itself once what is due is durable."""
        return any(one.ending for one in self.schedules)

    @property
    def needed_seconds(self) -> float:
        """How long a save takes from now on until it is durable, by what is known."""
        return max(one.cost.seen(0.0).needed for one in self.main)

    def request(self, reason: str) -> None:
        """Adds a reason to save at the next chance."""
        for schedule in self.main:
            schedule.request(reason)

    def drop(self) -> None:
        """Nothing is due any more."""
        for schedule in self.schedules:
            schedule.drop()

    def settle(self, here: Hashable) -> None:
        """Drops what is due for savers whose newest save holds this boundary."""
        for schedule in self.schedules:
            if schedule.here == here:
                schedule.drop()

    def is_saved(self, here: Hashable) -> bool:
        """Whether the boundary needs no save any more. One whose save failed does."""
        return all(one.here == here for one in self.main)

    def mark_saved(self, here: Hashable) -> None:
        """The boundary is where the run was resumed. It is still due for a saver whose checkpoint of it was lost."""
        for schedule in self.schedules:
            schedule.here = None if schedule.due else here

    def firing(self, last: str | None = None, here: Hashable | None = None) -> Firing:
        """Those for whom a save is due, and why; with ``last``, a reason for the main ones in any case.

        Those whose newest save holds the boundary ``here`` are left out.
        """
        always = self.main if last is not None else []
        found = []
        for schedule in self.schedules:
            reasons = dict.fromkeys([*schedule.due, last] if schedule in always else schedule.due)
            if reasons and (here is None or schedule.here != here):
                found.append((schedule, tuple(filter(None, reasons))))
        return found

    def remembered(self, firing: Firing) -> list[Remembered]:
        """What the checkpoints of a snapshot for ``firing`` keep of all savers."""
        fired = {one.key: why for one, why in firing}
        return [one.remembered(fired.get(one.key), self._looked) for one in self.schedules]

    def delayed(self, why: str, step: int) -> None:
        """Records, once for each save, that it is due but has to wait."""
        if not self._delayed:
            self._delayed = True
            self.voice.note("delayed", f"a save is due ({', '.join(self.due)}) but waits: {why}", step=step)

    # Saving.

    def save(self, content: Content, firing: Firing, here: Hashable, *, behind: bool = False) -> bool:
        """Saves ``content``. False, with a warning, if it could not be, whatever was raised: training goes on.

        With ``behind``, a device may copy what only optimizers change while the next batch is computed.
        """
        try:
            return self.commit(self.hold(content, firing, here, begin=True, behind=behind))
        except Exception as error:
            self.fail(content.progress, firing, error)
            return False

    def hold(
        self, content: Content, firing: Firing, here: Hashable, *, begin: bool = False, behind: bool = False
    ) -> Held:  # fmt: skip
        """Takes the snapshot alone, for a `commit` before the next one; with ``begin`` it is written meanwhile.

        Raises `MemoryLimitError` if there is no room, or what an item raises.
        """
        with self.meter.stopping() as cost:
            self.advice.patterns(firing, content.items)
            drafts = []
            for target in self.targets:
                own = [(one, why) for one, why in firing if one.folder == target.folder]
                if own:
                    drafts.append(self._draft(target, own, content))
            persist = self.checkpointer.hold(content.items, drafts, begin=begin, behind=behind)
            if persist.streams:
                self.advice.streams(persist)
        return Held(persist, firing, here, content.progress, cost)

    def _draft(self, target: Target, firing: Firing, content: Content) -> CheckpointDraft:
        """The checkpoint in one folder: the union of what its savers save, for the reasons of all of them."""
        created, parent = self.clock.created(), self.ledger.newest or self.ledger.parent
        manifest = make_manifest(self.identity, firing, content, self._ordinal + 1, created, parent)
        contents = AnyExtent(tuple(one.extent for one, _ in firing))
        return CheckpointDraft(
            folder=target.folder, manifest=manifest, contents=contents,
            delete=self._may_go(target, coming(manifest, contents, contents.whole, content)),
            avoid=tuple(sorted(target.uncounted)), urgent=self.urgent,
            read_back=any(one.saver.verify == "readback" for one, _ in firing),
        )  # fmt: skip

    def _may_go(self, target: Target, coming: Kept) -> tuple[str, ...]:
        """What goes once ``coming`` is there. A policy that fails, or a folder that cannot be listed, loses nothing."""
        try:
            return tuple(name for name, why in target.plan(coming).items() if why is None)
        except Exception as error:
            why = str(error) if isinstance(error, HoldfastError) else raised_at(error)
            text = f"{target.folder}: nothing is deleted this time, because what stays cannot be told: {why}"
            self.voice.warn("keep_failed", text)
            return ()

    def commit(self, held: Held) -> bool:
        """Hands a snapshot to the writer. False, with a warning, if there is none."""
        self._ordinal, self._under_way, self._delayed, self.ledger.last = held.persist.ordinal, held, False, []
        for schedule, _ in held.firing:
            schedule.fire(self._looked, held.here, held.cost)
        self.meter.taken(held.cost)
        try:
            self.checkpointer.commit(held.persist)
        except HoldfastError as error:
            self._hear_failures(held, str(error))
            return False
        for folder, name in held.persist.names.items():
            why = ", ".join(reasons_of([(one, reasons) for one, reasons in held.firing if one.folder == folder]))
            self.voice.note(
                "snapshot", f"{name} ({why})", name=name, ordinal=self._ordinal, step=held.progress.step, folder=folder
            )
        return True

    def fail(self, progress: Progress, firing: Firing, error: Exception) -> None:
        """Counts a snapshot that could not be taken as a save that failed because of ``error``, and says so."""
        message = str(error) if isinstance(error, HoldfastError) else f"{type(error).__name__}: {error}."
        ordinal = self._ordinal + 1
        name = str(CheckpointName(default_label(progress.step), self.identity.attempt, ordinal))
        names = {one.folder: name for one, _ in firing}
        with self.meter.stopping() as cost:
            held = Held(Persist(names, ordinal, 0, 0), firing, None, progress, cost)
        self._under_way, self._delayed, self.ledger.last = held, False, []
        for schedule, _ in firing:
            schedule.fire(self._looked, None, cost)
        self.meter.taken(cost)
        self._hear_failures(held, message)

    # Outcomes.

    def poll(self) -> None:
        """Hears the outcome of the save under way, if it has come, and requests from outside, once a second."""
        outcome = self.checkpointer.poll()
        if outcome is not None:
            self._hear(outcome)
        now = time.monotonic()
        if now > self._listened + 1.0:
            self._listened = now
            self.advice.clock(self.clock.jump())
            with contextlib.suppress(StorageError):
                if take_requests(self.house):
                    self.request(ON_REQUEST)

    def wait(self) -> None:
        """Waits until no save is under way, and says so if that takes long."""
        said = False
        while self.checkpointer.busy:
            outcome = self.checkpointer.wait(None if said else _LONG_SECONDS)
            if outcome is not None:
                self._hear(outcome)
            elif not said and self._under_way is not None:
                said = True
                names = ", ".join(self._under_way.persist.names.values())
                self.voice.say("waiting", f"waiting for {names} to be written")

    def raise_failure(self, *, ever: bool = False) -> None:
        """Raises `SaveError` if the last snapshot failed in any folder; with ``ever``, if the last in any did."""
        failures = list(self.ledger.failures.values()) if ever else self.ledger.last
        if failures:
            raise SaveError("\n".join(map(_failed, failures)))

    def _hear_failures(self, held: Held, message: str) -> None:
        for folder, name in held.persist.names.items():
            self._hear(Failed(ordinal=held.persist.ordinal, folder=folder, name=name, message=message))

    def _hear(self, outcome: Outcome) -> None:
        held = self._under_way
        assert held is not None, "no outcome without a save"
        for note in outcome.notes:
            self.voice.warn("save_note", f"{outcome.name}: {note}")
        # What streams is written while training stands still, and that time is known already.
        self.meter.written(0.0 if held.persist.streams else outcome.seconds)
        if not self.checkpointer.busy:
            self.meter.done()
        firing = [(one, why) for one, why in held.firing if one.folder == outcome.folder]
        if isinstance(outcome, Committed):
            self._note_commit(outcome, firing, held.progress.step)
        else:
            self._note_failure(outcome, firing)

    def _note_commit(self, outcome: Committed, firing: Firing, step: int) -> None:
        for schedule, _ in firing:
            schedule.confirm()
        self.ledger.failures.pop(outcome.folder, None)
        self.ledger.committed += 1
        self.ledger.parent = Parent(outcome.name, outcome.digest)
        if any(one.extent.whole for one, _ in firing):
            self.ledger.newest = self.ledger.parent
        self.voice.note(
            "saved", outcome.name, name=outcome.name, ordinal=outcome.ordinal, step=step, bytes=outcome.size,
            linked=outcome.linked, seconds=outcome.seconds, deleted=list(outcome.deleted), folder=outcome.folder,
            reason=list(reasons_of(firing)),
        )  # fmt: skip
        self.advice.space(next(one for one in self.targets if one.folder == outcome.folder), outcome.digests)

    def _note_failure(self, outcome: Failed, firing: Firing) -> None:
        for schedule, why in firing:
            schedule.fail()
            for reason in why if outcome.again else ():
                schedule.request(reason)
        reasons = list(reasons_of(firing))
        goes_on = not {AT_END, ON_SIGNAL, ON_ERROR} & set(reasons)
        self.ledger.failures[outcome.folder] = outcome
        self.ledger.last.append(outcome)
        self.voice.warn(
            "save_failed",
            f"{_failed(outcome)}{(_AGAIN if outcome.again else _GOES_ON) if goes_on else ''}",
            name=outcome.name,
            folder=outcome.folder,
            reason=reasons,
        )


_GOES_ON = " Training goes on; the next save that is due will be tried."
_AGAIN = " Training goes on; the next boundary is saved in its place."


def _failed(outcome: Failed) -> str:
    return f"saving {outcome.name} failed: {outcome.message} Earlier checkpoints are untouched."
