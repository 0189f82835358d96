"""What is due for which savers, what a checkpoint holds, what may go for it, and how it ended."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from holdfast.engine.checkpointer import CheckpointDraft, Checkpointer, ItemDraft
from holdfast.engine.messages import Committed, Failed, Persist
from holdfast.engine.requests import take_requests
from holdfast.errors import HoldfastError, SaveError, StorageError
from holdfast.format.dtypes import nbytes
from holdfast.format.manifest import Manifest, Origin, Parent
from holdfast.format.names import CheckpointName, default_label
from holdfast.format.values import encode
from holdfast.policies.keep import Kept, describe
from holdfast.policies.moment import Event
from holdfast.policies.save import Choice
from holdfast.policies.written import written
from holdfast.run.clock import Clock
from holdfast.run.costs import CostMeter, estimate
from holdfast.run.environment import describe_environment
from holdfast.run.extent import Union
from holdfast.run.name_template import Naming
from holdfast.run.remembered import Remembered
from holdfast.run.schedule import Look, Schedule, Sight
from holdfast.run.target import Target
from holdfast.run.voice import Voice
from holdfast.storage.base import Storage
from holdfast.types import Json, Progress

_LONG_SECONDS = 5.0

Firing = Sequence[tuple[Schedule, tuple[str, ...]]]
"""The savers that take part in a snapshot, each with its reasons."""


@dataclass(frozen=True, slots=True)
class Content:
    """What the checkpoints of one snapshot hold together."""

    items: Mapping[str, ItemDraft]
    progress: Progress
    metrics: Mapping[str, float]
    rates: dict[str, list[float]]


@dataclass(frozen=True, slots=True)
class Held:
    """A snapshot that is not handed over yet: for whom, and which boundary (``here``) it holds."""

    persist: Persist
    firing: Firing
    here: Hashable
    progress: Progress


@dataclass(slots=True)
class Ledger:
    """What the run has saved: the newest commit, and how the last save ended, by folder if it failed."""

    newest: Parent | None = None
    failures: dict[str, Failed] = field(default_factory=dict)
    committed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What all checkpoints of one attempt have in common."""

    run: str
    attempt: int
    config: Json = None
    origins: tuple[Origin, ...] = ()


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
    _looked: Look = field(default_factory=Look)
    _under_way: Held | None = None
    _ordinal: int = 0
    _delayed: bool = False
    _listened: float = 0.0
    _commits: dict[str, int] = field(default_factory=dict)

    @property
    def schedules(self) -> list[Schedule]:
        return [one for target in self.targets for one in target.schedules]

    @property
    def main(self) -> list[Schedule]:
        """Those who save what a run is resumed from; all, if none does. Final and requested saves are theirs."""
        return [one for one in self.schedules if one.extent.whole] or self.schedules

    def start(self, look: Look, remembered: Mapping[str, Remembered], parent: Parent | None) -> None:
        """The thresholds that later progress crosses are counted from here."""
        self._looked, self.ledger.newest = look, parent
        for schedule in self.schedules:
            schedule.start(look, remembered.get(schedule.key))

    def reserve(self, items: Mapping[str, ItemDraft]) -> None:
        """Sets the arena aside for a state like ``items``, by which the cost of the first save can be told.

        Raises `MemoryLimitError` if such a state can never be saved here.
        """
        self.checkpointer.reserve(items)
        self.estimate(items)

    def estimate(self, items: Mapping[str, ItemDraft]) -> None:
        """How much a save of ``items`` may cost, for those who have not saved yet."""
        for schedule in self.schedules:
            if not schedule.cost.measured:
                taken = {name: one for name, one in items.items() if schedule.extent.takes(name)}
                schedule.cost = estimate(_size(taken))

    # What is due.

    def ask(self, look: Look, event: Event, logged: Mapping[str, float], deadlines: Mapping[str, float]) -> None:
        """Collects what the policies say is due."""
        sight = Sight(
            before=self._looked, now=look, event=event, logged=logged, time=self.clock.now(),
            batch=self.meter.batch, deadlines=deadlines,
        )  # fmt: skip
        self._looked = look
        for schedule in self.schedules:
            moment = schedule.moment(sight)
            for sentence in schedule.hurries(moment):
                self.voice.warn("hurry", sentence)
            schedule.ask(moment)
            for choice in schedule.choices(moment):
                self._note_choice(schedule, choice)

    def _note_choice(self, schedule: Schedule, choice: Choice) -> None:
        self.voice.note(
            "interval", f"every {choice.seconds:.3g} s: {choice.because}", policy=written(schedule.saver.save),
            seconds=choice.seconds, because=choice.because, folder=schedule.folder,
        )  # fmt: skip

    @property
    def due(self) -> list[str]:
        """Why a save is due, for all savers together."""
        return list(dict.fromkeys(reason for one in self.schedules for reason in one.due))

    @property
    def insisted(self) -> bool:
        """Whether what is due has to hold the boundary at which it became due."""
        return any(one.insisted for one in self.schedules)

    @property
    def ending(self) -> bool:
        """Whether a deadline is near whose policy ends the run."""
        return any(one.ending for one in self.schedules)

    @property
    def durable_seconds(self) -> float:
        """How long a save takes until it is durable, by what is known."""
        return max(one.cost.seen(0.0).durable for one in self.main)

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

    def save(self, content: Content, firing: Firing, here: Hashable) -> bool:
        """Saves ``content``. False, with a warning, if it could not be: training goes on."""
        try:
            return self.commit(self.hold(content, firing, here))
        except HoldfastError as error:
            self.fail(content.progress, firing, error)
            return False

    def hold(self, content: Content, firing: Firing, here: Hashable) -> Held:
        """Takes the snapshot alone, for a `commit` before the next one.

        Raises `MemoryLimitError` if there is no room, or what an item raises.
        """
        drafts = []
        for target in self.targets:
            parts = [(one, why) for one, why in firing if one.folder == target.folder]
            if parts:
                drafts.append(self._draft(target, parts, content))
        return Held(self.checkpointer.hold(content.items, drafts), firing, here, content.progress)

    def _draft(self, target: Target, firing: Firing, content: Content) -> CheckpointDraft:
        """The checkpoint in one folder: the union of what its savers save, for the reasons of all of them."""
        places = tuple(place for place, one in enumerate(target.schedules) if any(one is each for each, _ in firing))
        manifest = self._manifest(firing, content, places)
        contents = Union(tuple(one.extent for one, _ in firing))
        return CheckpointDraft(
            folder=target.folder, manifest=manifest, contents=contents,
            delete=self._may_go(target, _coming(manifest, contents, content)),
            read_back=any(one.saver.verify == "readback" for one, _ in firing),
        )  # fmt: skip

    def _may_go(self, target: Target, coming: Kept) -> tuple[str, ...]:
        """What goes once ``coming`` is there. A policy that fails, or a folder that cannot be listed, loses nothing."""
        try:
            return tuple(name for name, why in target.plan(coming).items() if why is None)
        except Exception as error:
            text = f"{target.folder}: nothing is deleted this time, because what stays cannot be told: {error!r}"
            self.voice.warn("keep_failed", text)
            return ()

    def _manifest(self, firing: Firing, content: Content, places: tuple[int, ...]) -> Manifest:
        identity, created, ordinal = self.identity, self.clock.created(), self._ordinal + 1
        naming = Naming(
            progress=content.progress, metrics=content.metrics, attempt=identity.attempt, ordinal=ordinal,
            created=created, run=identity.run,
        )  # fmt: skip
        template = next((one.saver.name for one, _ in firing if one.saver.name is not None), None)
        return Manifest(
            run=identity.run, attempt=identity.attempt, ordinal=ordinal, try_id=os.urandom(6).hex(),
            label="" if template is None else template.label(naming), parent=self.ledger.newest,
            origins=identity.origins, savers=places, created=created.isoformat(),
            reason=tuple(dict.fromkeys(reason for _, why in firing for reason in why)), progress=content.progress,
            metrics=_tagged(content.metrics), config=identity.config, learning_rates=content.rates,
            environment=describe_environment(),
        )  # fmt: skip

    def commit(self, held: Held) -> bool:
        """Hands a snapshot to the writer. False, with a warning, if there is none."""
        self._ordinal, self._under_way, self._delayed = held.persist.ordinal, held, False
        cost = self.meter.taken()
        for schedule, _ in held.firing:
            schedule.fire(self._looked, held.here, cost)
        try:
            self.checkpointer.commit(held.persist)
        except HoldfastError as error:
            for folder, name in held.persist.names.items():
                self._hear(Failed(ordinal=held.persist.ordinal, folder=folder, name=name, message=str(error)))
            return False
        for folder, name in held.persist.names.items():
            self.ledger.failures.pop(folder, None)
            why = ", ".join(dict.fromkeys(reason for one, why in held.firing if one.folder == folder for reason in why))
            self.voice.note("snapshot", f"{name} ({why})", name=name, step=held.progress.step, folder=folder)
        return True

    def fail(self, progress: Progress, firing: Firing, error: Exception) -> None:
        """Counts a snapshot that could not be taken as a save that failed because of ``error``, and says so."""
        message = str(error) if isinstance(error, HoldfastError) else f"{type(error).__name__}: {error}."
        ordinal = self._ordinal + 1
        name = str(CheckpointName(default_label(progress.step), self.identity.attempt, ordinal))
        names = {one.folder: name for one, _ in firing}
        self._under_way, self._delayed = Held(Persist(names, ordinal, 0, 0), firing, None, progress), False
        for schedule, _ in firing:
            schedule.drop()
        for folder, name in names.items():
            self._hear(Failed(ordinal=ordinal, folder=folder, name=name, message=message))

    # Outcomes.

    def poll(self) -> None:
        """Hears the outcome of the save under way, if it has come, and requests from outside, once a second."""
        outcome = self.checkpointer.poll()
        if outcome is not None:
            self._hear(outcome)
        now = time.monotonic()
        if now > self._listened + 1.0:
            self._listened = now
            self._look_at_clock()
            with contextlib.suppress(StorageError):
                if take_requests(self.house):
                    self.request("on request")

    def _look_at_clock(self) -> None:
        jump = self.clock.jump()
        if jump:
            text = (
                f"the clock of this machine was set by {jump:+.0f} s since the start; the times of checkpoints go on "
                "without that, so hours and days that are kept do not shift. Deadlines follow the clock."
            )
            self.voice.warn("clock", text, once="clock")

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

    def raise_failure(self) -> None:
        """Raises `SaveError` if the last save failed, in any folder."""
        if self.ledger.failures:
            raise SaveError("\n".join(map(_failed, self.ledger.failures.values())))

    def _hear(self, outcome: Committed | Failed) -> None:
        held = self._under_way
        assert held is not None, "no outcome without a save"
        for note in outcome.notes:
            self.voice.warn("save_note", f"{outcome.name}: {note}")
        if not self.checkpointer.busy:
            self.meter.done()
        schedules = [one for one, _ in held.firing if one.folder == outcome.folder]
        if isinstance(outcome, Committed):
            self._note_commit(outcome, held.progress.step, whole=any(one.extent.whole for one in schedules))
            for schedule in schedules:
                schedule.confirm()
        else:
            for schedule in schedules:
                schedule.fail()
            self.ledger.failures[outcome.folder] = outcome
            self.voice.warn("save_failed", _failed(outcome), name=outcome.name, folder=outcome.folder)

    def _note_commit(self, outcome: Committed, step: int, *, whole: bool) -> None:
        self.meter.written(outcome.seconds)
        self.ledger.failures.pop(outcome.folder, None)
        self.ledger.committed += 1
        if whole or self.ledger.newest is None:
            self.ledger.newest = Parent(outcome.name, outcome.digest)
        self.voice.note(
            "saved", outcome.name, name=outcome.name, step=step, bytes=outcome.size, seconds=outcome.seconds,
            deleted=list(outcome.deleted), folder=outcome.folder,
        )  # fmt: skip
        self._look_ahead(outcome.folder)

    def _look_ahead(self, folder: str) -> None:
        """Says, before it happens, that a disk will be full. Looked at after 1, 2, 4, 8 … saves."""
        count = self._commits[folder] = self._commits.get(folder, 0) + 1
        if count & (count - 1):
            return
        target = next(one for one in self.targets if one.folder == folder)
        with contextlib.suppress(HoldfastError):
            coming = target.shortage()
            if coming is not None:
                self.voice.warn("space", _SHORTAGE.format(
                    folder=folder, saves=coming.saves, needed=f"{coming.needed / 2**20:,.0f}"
                ), once=f"space {folder}")  # fmt: skip


_SHORTAGE = (
    "{folder}: what keep= asks for will need {needed} MiB more than now after {saves} more saves, and so much is not "
    "free there: saves will fail then. Keep fewer checkpoints, save less often, or free some space."
)


def _coming(manifest: Manifest, contents: Union, content: Content) -> Kept:
    """The checkpoint to be committed, as a keep policy will see it."""
    items = {name: one for name, one in content.items.items() if contents.takes(name)}
    seen = describe(str(manifest.name), manifest, _size(items))
    return msgspec.structs.replace(seen, items=frozenset(items), whole=any(extent.whole for extent in contents.extents))


def _size(items: Mapping[str, ItemDraft]) -> int:
    """Bytes of the tensors in ``items``, those that share their memory counted once."""
    sources = [source for item in items.values() for source in item.sources.values()]
    unique = {id(one) if one.identity is None else one.identity: nbytes(one.spec) for one in sources}
    return sum(unique.values())


def _failed(outcome: Failed) -> str:
    return (
        f"saving {outcome.name} failed: {outcome.message} Earlier checkpoints are untouched, and "
        "training goes on; the next save that is due will be tried."
    )


def _tagged(metrics: Mapping[str, float]) -> dict[str, Any]:
    return {name: encode(value, f"metrics/{name}") for name, value in metrics.items()}
