"""When a save is due, what it holds, what may go for it, and how it ended."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from holdfast.engine.catalog import Catalog, Entry
from holdfast.engine.checkpointer import Checkpointer, ItemDraft
from holdfast.engine.messages import Committed, Failed, Persist
from holdfast.engine.pins import pinned
from holdfast.engine.requests import take_requests
from holdfast.errors import HoldfastError, SaveError, StorageError
from holdfast.format.dtypes import nbytes
from holdfast.format.manifest import Manifest, Parent
from holdfast.format.names import CheckpointName
from holdfast.policies.keep import KeepPolicy, Kept, describe, plan
from holdfast.policies.moment import Event, Moment
from holdfast.run.environment import describe_environment
from holdfast.run.saver import Saver
from holdfast.run.voice import Voice
from holdfast.types import Json, Progress

_LONG_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Content:
    """What a checkpoint will hold."""

    items: Mapping[str, ItemDraft]
    progress: Progress
    metrics: Mapping[str, float]
    rates: dict[str, list[float]]


@dataclass(slots=True)
class Ledger:
    """What the run has saved: the newest commit, the save under way, how the last one ended."""

    newest: Parent | None = None
    name: str = ""
    failure: Failed | None = None
    committed: int = 0


@dataclass(frozen=True, slots=True)
class Look:
    """How far the run was at some point: in counts, and as a share of its length where that is known."""

    progress: Progress = field(default_factory=Progress)
    share: float | None = None


@dataclass(slots=True)
class Saves:
    """Asks the policy, collects what is due, hands snapshots to the engine and hears how they ended."""

    saver: Saver
    checkpointer: Checkpointer
    catalog: Catalog
    voice: Voice
    run: str
    attempt: int
    config: Json
    resumed_from: Entry | None
    uncounted: frozenset[str] = frozenset()
    """Checkpoints that retention neither counts nor deletes: abandoned by a rollback, or found to be corrupt."""
    memory: dict[str, Json] = field(default_factory=dict)
    """What policies asked to be remembered; part of every checkpoint."""
    due: list[str] = field(default_factory=list)
    insisted: bool = False
    """Whether what is due has to hold the boundary at which it became due."""
    ledger: Ledger = field(default_factory=Ledger)
    _looked: Look = field(default_factory=Look)
    _saved: Look = field(default_factory=Look)
    _confirmed: dict[str, Json] = field(default_factory=dict)
    _confirming: dict[str, Json] = field(default_factory=dict)
    _ordinal: int = 0
    _delayed: bool = False
    _listened: float = 0.0

    def start(self, look: Look, memory: Mapping[str, Json]) -> None:
        """The thresholds that later progress crosses are counted from here; ``memory`` is that of the checkpoint."""
        self._looked = self._saved = look
        self.memory, self._confirmed = dict(memory), dict(memory)
        if self.resumed_from is not None:
            self.ledger.newest = Parent(self.resumed_from.name, self.resumed_from.manifest.digest)

    def ask(self, look: Look, event: Event, logged: Mapping[str, float]) -> None:
        """Collects what the policy says is due."""
        moment = Moment(
            previous=self._looked.progress, progress=look.progress, event=event, saved=self._saved.progress,
            previous_share=self._looked.share, share=look.share, saved_share=self._saved.share,
            logged=logged, memory=dict(self.memory),
        )  # fmt: skip
        self._looked = look
        reason = self.saver.should_save(moment)
        if reason is not None:
            self.memory.update(self.saver.save.remember(moment))
            self.insisted = self.insisted or self.saver.save.insists(moment)
            self.request(reason)

    def request(self, reason: str) -> None:
        """Adds a reason to save at the next chance."""
        if reason not in self.due:
            self.due.append(reason)

    def drop(self) -> None:
        """Nothing is due any more."""
        self.due, self.insisted = [], False

    def delayed(self, why: str, step: int) -> None:
        """Records, once for each save, that it is due but has to wait."""
        if not self._delayed:
            self._delayed = True
            self.voice.note("delayed", f"a save is due ({', '.join(self.due)}) but waits: {why}", step=step)

    def save(self, content: Content) -> bool:
        """Saves ``content`` for what is due. False, with a warning, if it could not be: training goes on."""
        reason, self._delayed, self._saved = tuple(self.due), False, self._looked
        self.drop()
        try:
            held = self.hold(content, reason)
        except HoldfastError as error:
            self.fail(content.progress, error)
            return False
        return self.commit(held, reason)

    def fail(self, progress: Progress, error: Exception) -> None:
        """Counts what is due as a save that failed because of ``error``, and says so."""
        self.drop()
        self._delayed, ordinal = False, self._ordinal + 1
        message = str(error) if isinstance(error, HoldfastError) else f"{type(error).__name__}: {error}."
        self._hear(Failed(ordinal=ordinal, name=self._name(progress, ordinal), message=message))

    def hold(self, content: Content, reason: tuple[str, ...]) -> Persist:
        """Takes the snapshot alone, for a `commit` before the next one.

        Raises `MemoryLimitError` if there is no room, or what an item raises.
        """
        ordinal = self._ordinal + 1
        name = self._name(content.progress, ordinal)
        manifest = Manifest(
            run=self.run, attempt=self.attempt, ordinal=ordinal, try_id=os.urandom(6).hex(),
            parent=self.ledger.newest, created=datetime.now(UTC).isoformat(), reason=reason, progress=content.progress,
            metrics=_tagged(content.metrics), config=self.config, learning_rates=content.rates, items={}, parts=(),
            environment=describe_environment(),
        )  # fmt: skip
        return self.checkpointer.hold(name, manifest, content.items, self._to_delete(name, manifest, content))

    def commit(self, held: Persist, reason: tuple[str, ...]) -> bool:
        """Hands a snapshot to the writer. False, with a warning, if there is none."""
        self._ordinal, self._confirming = held.ordinal, dict(self.memory)
        try:
            self.checkpointer.commit(held)
        except HoldfastError as error:
            self._hear(Failed(ordinal=held.ordinal, name=held.name, message=str(error)))
            return False
        self.ledger.name, self.ledger.failure = held.name, None
        self.voice.note("snapshot", f"{held.name} ({', '.join(reason)})", name=held.name, step=_step(held.name))
        return True

    def _name(self, progress: Progress, ordinal: int) -> str:
        return str(CheckpointName(progress.step, self.attempt, ordinal))

    def poll(self) -> None:
        """Hears the outcome of the save under way, if it has come, and requests from outside, once a second."""
        outcome = self.checkpointer.poll()
        if outcome is not None:
            self._hear(outcome)
        now = time.monotonic()
        if now > self._listened + 1.0:
            self._listened = now
            with contextlib.suppress(StorageError):
                if take_requests(self.catalog.storage):
                    self.request("on request")

    def wait(self) -> None:
        """Waits until no save is under way, and says so if that takes long."""
        outcome = self.checkpointer.wait(_LONG_SECONDS)
        if self.checkpointer.busy:
            self.voice.say("waiting", f"waiting for {self.ledger.name} to be written")
            outcome = self.checkpointer.wait()
        if outcome is not None:
            self._hear(outcome)

    def raise_failure(self) -> None:
        """Raises `SaveError` if the last save failed."""
        if self.ledger.failure is not None:
            raise SaveError(_failed(self.ledger.failure))

    def _hear(self, outcome: Committed | Failed) -> None:
        for note in outcome.notes:
            self.voice.warn("save_note", f"{outcome.name}: {note}")
        if isinstance(outcome, Committed):
            self._confirmed, self._confirming = self._confirming, {}
            self.ledger.failure = None
            self.ledger.committed += 1
            self.ledger.newest = Parent(outcome.name, outcome.digest)
            self.voice.note(
                "saved", outcome.name, name=outcome.name, step=_step(outcome.name), bytes=outcome.size,
                seconds=outcome.seconds, deleted=list(outcome.deleted),
            )  # fmt: skip
        else:
            # What was not saved is not the best that was saved: the next that is better than that one has to be.
            self.memory = dict(self._confirmed)
            self.ledger.failure = outcome
            self.voice.warn("save_failed", _failed(outcome), name=outcome.name)

    def _to_delete(self, name: str, manifest: Manifest, content: Content) -> tuple[str, ...]:
        """What the keep policy lets go once ``name`` is committed. Asked of the storage, never of memory."""
        entries = [one for one in self.catalog.list().entries if one.name not in self.uncounted]
        newest = describe(name, manifest, _size(content.items))
        checkpoints = [*(describe(one.name, one.manifest, one.size) for one in entries), newest]
        protected = dict.fromkeys(pinned(self.catalog.storage), "pinned") | {name: "newest"}
        reasons = plan_with(self.saver, checkpoints, protected)
        return tuple(one for one, reason in reasons.items() if reason is None)


def plan_with(saver: Saver, checkpoints: list[Kept], protected: Mapping[str, str]) -> dict[str, str | None]:
    """The keep plan by the saver's own rule, which a user may have overridden."""
    return plan(_Overridable(saver), checkpoints, protected)


@dataclass(frozen=True, slots=True)
class _Overridable(KeepPolicy):
    """A saver's `should_keep` seen as a keep policy."""

    saver: Saver

    def reasons(self, checkpoints: Sequence[Kept]) -> Mapping[str, str]:
        return self.saver.should_keep(checkpoints)


def _size(items: Mapping[str, ItemDraft]) -> int:
    """Bytes of the tensors in ``items``, those that share their memory counted once."""
    sources = [source for item in items.values() for source in item.sources.values()]
    unique = {id(one) if one.identity is None else one.identity: nbytes(one.spec) for one in sources}
    return sum(unique.values())


def _step(name: str) -> int | None:
    parsed = CheckpointName.parse(name)
    return parsed.step if parsed is not None else None


def _failed(outcome: Failed) -> str:
    return (
        f"saving {outcome.name} failed: {outcome.message} Earlier checkpoints are untouched, and "
        "training goes on; the next save that is due will be tried."
    )


def _tagged(metrics: Mapping[str, float]) -> dict[str, Any]:
    from holdfast.format.values import encode

    return {name: encode(value, f"metrics/{name}") for name, value in metrics.items()}
