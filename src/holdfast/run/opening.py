"""A run is opened: whose folders they are, what it continues from, and all that its session needs."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast.engine.catalog import Catalog, Entry
from holdfast.engine.checkpointer import Checkpointer
from holdfast.engine.identity import establish
from holdfast.engine.journal import Journal
from holdfast.engine.run_folder import AttemptRecord, RunFolder
from holdfast.engine.writer_handle import WriterHandle
from holdfast.errors import HoldfastError
from holdfast.format.manifest import Origin, Parent
from holdfast.policies.keep import described
from holdfast.policies.written import written
from holdfast.run.beginning import Beginning, begin_from
from holdfast.run.drafts import Identity
from holdfast.run.extent import Extent, make_extent
from holdfast.run.items import Items
from holdfast.run.options import Options, in_words
from holdfast.run.position import Stored
from holdfast.run.progress_bar import progressing
from holdfast.run.recorder import Recorder
from holdfast.run.remembered import Remembered, match_remembered
from holdfast.run.replay import Replay, expect
from holdfast.run.resumption import Resumption, config_changes, stored_of
from holdfast.run.saver import Saver
from holdfast.run.saves import Saves
from holdfast.run.schedule import Schedule
from holdfast.run.selection import Selection, select
from holdfast.run.session import Session
from holdfast.run.settings import Settings, overridden
from holdfast.run.stops import Stops
from holdfast.run.target import Target
from holdfast.run.voice import Voice
from holdfast.storage.local import LocalStorage
from holdfast.types import Json, Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What a run was asked for, checked."""

    folder: Path
    items: Items
    values: dict[str, Any]
    savers: Sequence[Saver]
    options: Options
    start_from: Any
    arena: int | None
    config: Mapping[str, Any] | None
    stored_config: Json
    settings: Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """An open run: its own folder, held by this process, and the session, which closes all the rest."""

    house: RunFolder
    session: Session
    run: str
    resumed_from: str | None


def open_run(wishes: Wishes, voice: Voice, undo: ExitStack) -> Opened:
    """Takes the run's folders, chooses what to continue from, and claims the next attempt.

    Raises what `holdfast.Run` does; then ``undo`` gives back what was taken. Nothing of the state is changed.
    """
    return _Opening(wishes, voice, undo).open()


class _Opening:
    def __init__(self, wishes: Wishes, voice: Voice, undo: ExitStack) -> None:
        self._wishes, self._voice, self._undo = wishes, voice, undo
        # What can be refused is refused before a folder is made.
        self._stops = Stops([one.save for one in wishes.savers], voice)
        extents = [_extent(wishes, index) for index, _ in enumerate(wishes.savers)]
        self._house = RunFolder.open(wishes.folder, self._announce)
        undo.callback(self._house.close)
        self._targets = _targets(wishes, extents, self._house.storage)
        self._others = [one.storage for one in self._targets if one.storage is not self._house.storage]
        self._storages = [self._house.storage, *self._others]

    def open(self) -> Opened:
        house, voice, undo = self._house, self._voice, self._undo
        identity = establish(house.storage, self._others)
        for storage in self._others:
            storage.sync()
            house.clean(storage, self._announce)
        attempts = house.attempts()
        resumable = {one.folder for one in self._targets if one.has_whole} | {house.storage.root}
        chosen = select(self._storages, resumable, attempts, self._wishes.start_from, voice, progressing)
        resumption = self._resumption(chosen)
        beginning = self._beginning(chosen)
        attempt = self._claim(chosen, beginning)
        voice.attach(Journal(house.storage, attempt.attempt))
        undo.callback(voice.close)
        self._wishes.values.update(_values(resumption, beginning))
        changes = self._changes(resumption)
        self._tell(chosen, resumption, beginning, attempts, changes)
        writer = WriterHandle([one.root for one in self._storages], house.writer_lock, house.writer_log)
        undo.callback(writer.close)
        origins = _origins(resumption, beginning)
        saves = self._saves(writer, Identity(
            run=identity.run, attempt=attempt.attempt, config=self._wishes.stored_config, origins=origins
        ), chosen)  # fmt: skip
        self._start(saves, resumption)
        replay = self._replay(resumption, attempts) if not chosen.rollback and not changes else None
        recorder = Recorder(voice, replay, metrics=_metrics(resumption))
        session = self._session(saves, recorder, resumption, beginning)
        voice.flush()
        return Opened(house=house, session=session, run=identity.run, resumed_from=attempt.resumed_from)

    def _resumption(self, chosen: Selection) -> Resumption | None:
        found = chosen.found
        return None if found is None else Resumption.of(found.storage, found.entry, self._wishes.items)

    def _beginning(self, chosen: Selection) -> Beginning | None:
        """A checkpoint of the run's own wins over another's."""
        start_from = self._wishes.start_from
        if chosen.found is not None or start_from is None:
            return None
        try:
            return begin_from(start_from, self._wishes.items, self._voice, progressing, self._undo)
        except HoldfastError as error:
            used = self._wishes.options.used["start_from"]
            if used.place != "argument":
                error.args = (f"{used.source}: {error.args[0]}", *error.args[1:])
            raise

    def _claim(self, chosen: Selection, beginning: Beginning | None) -> AttemptRecord:
        return self._house.claim(
            resumed_from=chosen.found.entry.name if chosen.found is not None else None,
            rollback=chosen.rollback, others=self._others,
            options=in_words(self._wishes.options.used),
            origins=() if beginning is None else tuple(one.origin for one in beginning.sources),
            damaged=chosen.damaged,
        )  # fmt: skip

    def _saves(self, writer: WriterHandle, identity: Identity, chosen: Selection) -> Saves:
        for target in self._targets:
            target.uncounted = chosen.uncounted.get(target.folder, frozenset())
        checkpointer = Checkpointer(writer, self._wishes.arena)
        return Saves(self._targets, checkpointer, self._voice, identity, self._house.storage)

    def _start(self, saves: Saves, resumption: Resumption | None) -> None:
        """Where the savers count from, and what of their work was lost with the run."""
        if resumption is None:
            saves.start(Progress(), {}, None)
            return
        manifest, stored = resumption.entry.manifest, resumption.stored
        remembered = match_remembered([one.key for one in saves.schedules], stored.savers)
        saves.start(resumption.progress, remembered, Parent(resumption.entry.name, manifest.digest))
        saves.checkpointer.expect(manifest)
        ask_again(self._targets, remembered, resumption.entry.order)

    def _session(
        self, saves: Saves, recorder: Recorder, resumption: Resumption | None, beginning: Beginning | None
    ) -> Session:
        wishes = self._wishes
        return Session(
            items=wishes.items, saves=saves, recorder=recorder, voice=self._voice, stops=self._stops,
            resumption=resumption, beginning=beginning, values=wishes.values, progressing=progressing,
            settings=wishes.settings,
        )  # fmt: skip

    def _changes(self, resumption: Resumption | None) -> list[str]:
        return [] if resumption is None else config_changes(resumption.entry.manifest.config, self._wishes.config)

    def _replay(self, resumption: Resumption | None, attempts: list[AttemptRecord]) -> Replay | None:
        if resumption is None:
            return None
        later = [one.attempt for one in attempts if one.attempt >= resumption.entry.manifest.attempt]
        progress = resumption.progress
        replay = expect(self._house.storage, later, (resumption.position.at, progress.batches), progress.step)
        return replay if replay.expected else None

    # What is said of it.

    def _announce(self, message: str) -> None:
        self._voice.say("folder", f"{self._wishes.folder}: {message}")

    def _tell(
        self, chosen: Selection, resumption: Resumption | None, beginning: Beginning | None,
        attempts: list[AttemptRecord], changes: list[str],
    ) -> None:  # fmt: skip
        for remark in [*self._wishes.options.remarks, *self._of_folders()]:
            self._voice.warn("options", remark)
        if resumption is not None:
            self._tell_resumption(resumption, changes, chosen.abandoned)
            return
        if chosen.parts:
            instead = "the state comes from start_from=" if beginning is not None else "starting from the beginning"
            self._voice.warn("from_start", _PARTS.format(self._wishes.folder, chosen.parts, instead))
        if beginning is not None:
            self._tell_beginning(beginning)
        elif attempts and not chosen.parts:
            count = f"{len(attempts)} earlier attempt{'s' * (len(attempts) > 1)}"
            text = f"no checkpoint was committed by {count}; starting from the beginning"
            self._voice.say("from_start", f"{self._wishes.folder}: {text}")

    def _of_folders(self) -> list[str]:
        """What somebody may not expect of the folders that the savers have."""
        folder, savers = self._wishes.folder, [one for target in self._targets for one in target.schedules]
        found = []
        if not any(one.folder == self._house.storage.root for one in savers):
            elsewhere = ", ".join(dict.fromkeys(one.folder for one in savers))
            found.append(
                f"folder: the savers save in {elsewhere} (savers=), and that counts; Run(folder=) says {folder}, "
                "which gets the run's records and no checkpoint"
            )
        if not any(one.extent.whole for one in savers):
            found.append(
                "no saver saves all of the state, so this run cannot be resumed: leave out items= and exclude= in one"
                f"{_parts_by(self._wishes.options)}"
            )
        return found

    def _tell_resumption(self, resumption: Resumption, changes: list[str], abandoned: int) -> None:
        progress, name = resumption.progress, resumption.entry.name
        where = f"epoch {progress.epoch}, batch {progress.batch}, step {progress.step}"
        there = "" if resumption.storage is self._house.storage else f" in {resumption.storage.url}"
        text = f"{self._wishes.folder}: resumed from {name}{there} ({where})"
        self._voice.say("resumed", text, name=name, step=progress.step)
        if abandoned:
            newer = "1 newer checkpoint is" if abandoned == 1 else f"{abandoned} newer checkpoints are"
            text = f"{newer} abandoned by going back to {name}; holdfast prune --abandoned deletes them"
            self._voice.say("abandoned", text, count=abandoned)
        if changes:
            self._voice.say(
                "config_changed",
                f"config= is not what it was at the checkpoint: {'; '.join(changes)}. The state is restored as it was.",
            )
        self._tell_overridden(resumption.stored, resumption.entry, "")

    def _tell_beginning(self, beginning: Beginning) -> None:
        for source in beginning.sources:
            what = "the state" if beginning.whole else ", ".join(source.items.values())
            text = f"{self._wishes.folder}: {what} comes from {source.entry.name} of run {source.entry.manifest.run}"
            self._voice.say("started_from", text, name=source.entry.name)
        if beginning.whole and beginning.sources[0].entry.whole:
            entry = beginning.sources[0].entry
            self._tell_overridden(stored_of(beginning.sources[0].storage, entry), entry, _BY_ITEM)

    def _tell_overridden(self, stored: Stored, entry: Entry, hint: str) -> None:
        """Settings of optimizers that the script gives, and that the checkpoint's take the place of."""
        for message in overridden(stored.settings, self._wishes.settings, entry.manifest.learning_rates):
            self._voice.warn("settings_changed", message + hint)


_PARTS = (
    "{0}: none of the run's {1} checkpoints holds all of the state (items=, exclude=), so there is none to resume "
    "from: {2}. They can be loaded: Run(..., start_from={{'model': their folder}})."
)
_BY_ITEM = " Or take over only the weights: start_from={'model': ...}."


def _extent(wishes: Wishes, index: int) -> Extent:
    """What of the state a saver saves. Raises `UsageError`, with the place that names what is not there."""
    saver, used = wishes.savers[index], wishes.options.used
    settings = [used[f"saver[{index}].{option}"] for option in ("items", "exclude")]
    sources = [one.source for one in settings if one.place not in ("argument", "default")]
    where = f"{' and '.join(dict.fromkeys(sources))}: " if sources else ""
    return make_extent(wishes.items.items, saver.items, saver.exclude, where)


def _parts_by(options: Options) -> str:
    """Who says so, where that is not the script."""
    found = {
        one.source
        for name, one in options.used.items()
        if name.endswith((".items", ".exclude")) and one.value and one.place in ("configuration", "environment")
    }
    return f" ({', '.join(sorted(found))})" if found else ""


def _targets(wishes: Wishes, extents: Sequence[Extent], own: LocalStorage) -> list[Target]:
    """The folders that savers save into, the run's own first, each with the schedules of its savers."""
    found: dict[str, Target] = {}
    for saver, extent in zip(wishes.savers, extents, strict=True):
        storage = own if saver.folder is None else _storage(saver.folder, own)
        target = found.setdefault(os.path.realpath(storage.root), Target(storage, Catalog(storage, outlines=True)))
        identity = _identity(saver, extent, [one.identity for one in target.schedules])
        # Relative, so that it is the same when the run is moved as a whole.
        key = f"{os.path.relpath(target.folder, wishes.folder)}: {identity}"
        target.schedules.append(Schedule(saver, key, target.folder, extent, identity))
    return sorted(found.values(), key=lambda target: target.storage is not own)


def _storage(folder: str, own: LocalStorage) -> LocalStorage:
    storage = LocalStorage(folder)
    return own if os.path.realpath(storage.root) == os.path.realpath(own.root) else storage


def _identity(saver: Saver, extent: Extent, taken: Collection[str]) -> str:
    """What tells a saver from the others of its folder, in whatever order later attempts have them: what it says."""
    own = "" if type(saver) is Saver else f"{type(saver).__name__} "
    found, number = (said := f"{own}{written(saver.save)} saves {extent}"), 1
    while found in taken:
        number += 1
        found = f"{said} ({number})"
    return found


def ask_again(targets: Sequence[Target], remembered: Mapping[str, Remembered], order: tuple[int, int]) -> None:
    """A saver that took part in the snapshot resumed from, and whose checkpoint of it is not there, is due again.

    Its folder may have been full, or the machine died between two folders.
    """
    for target in targets:
        fired = [(one, remembered[one.key].fired) for one in target.schedules if one.key in remembered]
        if any(reasons for _, reasons in fired) and not target.holds(order):
            for schedule, reasons in fired:
                for reason in reasons:
                    schedule.request(reason)


def _metrics(resumption: Resumption | None) -> dict[str, float]:
    """What had been logged last: the next checkpoint still tells it, whether or not it is logged again before."""
    return {} if resumption is None else dict(described(resumption.entry).metrics)


def _values(resumption: Resumption | None, beginning: Beginning | None) -> dict[str, Any]:
    if resumption is not None:
        return resumption.values
    return {} if beginning is None else beginning.values()


def _origins(resumption: Resumption | None, beginning: Beginning | None) -> tuple[Origin, ...]:
    if resumption is not None:
        return resumption.entry.manifest.origins
    return () if beginning is None else tuple(one.origin for one in beginning.sources)
