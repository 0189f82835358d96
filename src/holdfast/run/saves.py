"""When a save is due, what it holds, what may go for it, and how it ended."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from holdfast.engine.catalog import Catalog, Entry
from holdfast.engine.checkpointer import Checkpointer, ItemDraft
from holdfast.engine.lineage import ON_ERROR
from holdfast.engine.messages import Committed, Failed, Persist
from holdfast.errors import HoldfastError, SaveError
from holdfast.format.manifest import Manifest, Parent
from holdfast.format.names import CheckpointName
from holdfast.policies.keep import KeepPolicy, Kept, plan
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
    due: list[str] = field(default_factory=list)
    ledger: Ledger = field(default_factory=Ledger)
    _looked: Progress = field(default_factory=Progress)
    _ordinal: int = 0
    _delayed: bool = False

    def start(self, progress: Progress) -> None:
        """The thresholds that later progress crosses are counted from here."""
        self._looked = progress
        if self.resumed_from is not None:
            self.ledger.newest = Parent(self.resumed_from.name, self.resumed_from.manifest.digest)

    def ask(self, progress: Progress, event: Event) -> None:
        """Collects what the policy says is due."""
        moment = Moment(previous=self._looked, progress=progress, event=event)
        self._looked = progress
        reason = self.saver.should_save(moment)
        if reason is not None:
            self.request(reason)

    def request(self, reason: str) -> None:
        """Adds a reason to save at the next chance."""
        if reason not in self.due:
            self.due.append(reason)

    def delayed(self, why: str, step: int) -> None:
        """Records, once for each save, that it is due but has to wait."""
        if not self._delayed:
            self._delayed = True
            self.voice.note("delayed", f"a save is due ({', '.join(self.due)}) but waits: {why}", step=step)

    def save(self, content: Content) -> bool:
        """Saves ``content`` for what is due. False, with a warning, if it could not be: training goes on."""
        reason, self.due, self._delayed = tuple(self.due), [], False
        try:
            held = self.hold(content, reason)
        except HoldfastError as error:
            self.fail(content.progress, error)
            return False
        return self.commit(held, reason)

    def fail(self, progress: Progress, error: Exception) -> None:
        """Counts what is due as a save that failed because of ``error``, and says so."""
        self.due, self._delayed, ordinal = [], False, self._ordinal + 1
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
        return self.checkpointer.hold(name, manifest, content.items, self._to_delete(name, manifest))

    def commit(self, held: Persist, reason: tuple[str, ...]) -> bool:
        """Hands a snapshot to the writer. False, with a warning, if there is none."""
        self._ordinal = held.ordinal
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
        """Hears the outcome of the save under way, if it has come."""
        outcome = self.checkpointer.poll()
        if outcome is not None:
            self._hear(outcome)

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
            self.ledger.failure = None
            self.ledger.committed += 1
            self.ledger.newest = Parent(outcome.name, outcome.digest)
            self.voice.note(
                "saved", outcome.name, name=outcome.name, step=_step(outcome.name), bytes=outcome.size,
                seconds=outcome.seconds, deleted=list(outcome.deleted),
            )  # fmt: skip
        else:
            self.ledger.failure = outcome
            self.voice.warn("save_failed", _failed(outcome), name=outcome.name)

    def _to_delete(self, name: str, manifest: Manifest) -> tuple[str, ...]:
        """What the keep policy lets go once ``name`` is committed. Asked of the storage, never of memory."""
        entries = [one for one in self.catalog.list().entries if one.name not in self.uncounted]
        checkpoints = [
            *map(_kept, entries),
            Kept(name=name, progress=manifest.progress, on_error=_on_error(manifest.reason)),
        ]
        reasons = plan_with(self.saver, checkpoints, {name: "newest"})
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


def _kept(entry: Entry) -> Kept:
    metrics = {key: value for key, value in entry.manifest.metrics.items() if isinstance(value, float)}
    return Kept(
        name=entry.name, progress=entry.manifest.progress, metrics=metrics, on_error=_on_error(entry.manifest.reason)
    )


def _on_error(reason: Iterable[str]) -> bool:
    return set(reason) == {ON_ERROR}


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
