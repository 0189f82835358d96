"""Which checkpoint a run continues from: the newest that verifies, and why not a newer one."""

from __future__ import annotations

import itertools
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from holdfast.engine.catalog import Broken, Catalog, Entry
from holdfast.engine.lineage import find_abandoned, find_damaged, find_foreign, find_futile, resume_order
from holdfast.engine.run_folder import AttemptRecord
from holdfast.engine.verify import bytes_to_read, verify
from holdfast.errors import CorruptError, NotFoundError, StorageError
from holdfast.format.names import CheckpointName
from holdfast.hints import did_you_mean
from holdfast.run.voice import Voice
from holdfast.storage.local import LocalStorage
from holdfast.types import Progressing


@dataclass(frozen=True, slots=True)
class Found:
    """A checkpoint and the folder it is in."""

    storage: LocalStorage
    entry: Entry


@dataclass(slots=True)
class Selection:
    """The checkpoint to resume from, and what was decided on the way.

    ``uncounted`` are names, by folder, that are abandoned, of another run, or found to be corrupt. ``parts`` is how
    many checkpoints there are that do not hold all of the state, ``abandoned`` how many a rollback leaves behind.
    ``damaged`` are those that were found to be corrupt now, which later attempts and `holdfast prune` have to know.
    """

    found: Found | None = None
    rollback: bool = False
    parts: int = 0
    abandoned: int = 0
    uncounted: dict[str, frozenset[str]] = field(default_factory=dict)
    damaged: list[tuple[LocalStorage, str]] = field(default_factory=list)

    def choose(self, found: Found) -> Selection:
        """With ``found`` as the one to resume from. It counts: if it was found to be corrupt, it has been repaired."""
        self.found = found
        self.uncounted[found.storage.root] = self.uncounted[found.storage.root] - {found.entry.name}
        return self


def select(
    folders: Sequence[LocalStorage], resumable: Collection[str], attempts: list[AttemptRecord], start_from: object,
    voice: Voice, progress: Progressing,
) -> Selection:  # fmt: skip
    """Chooses among the run's own checkpoints, in all of its ``folders``; those of its own folder come first.

    ``start_from`` may name one of them: a deliberate rollback, which abandons what came later. The same script started
    again goes on from there. What else it means counts only for a run that has none of its own. ``resumable`` are the
    roots of folders in which there should be one to resume from: raises `CorruptError` if those hold some and none can
    be loaded, and `NotFoundError` for a checkpoint's name that is not there.
    """
    survey = _Survey(folders, attempts, voice)
    name = survey.own_name(start_from)
    if name is not None and not _has_gone_back(attempts, name, voice):
        back = survey.named(name)
        if back is not None:
            _verify(back, progress)
            return survey.going_back(back)
        survey.require_no_name(name)
    elif name is None:
        survey.consider_missing(start_from)
    passed_over = survey.passed_over(attempts)
    chosen, skipped = Selection(uncounted=survey.with_damaged(passed_over), parts=survey.parts), list[str]()
    candidates = list(survey.candidates(passed_over))
    for found, following in itertools.zip_longest(candidates, candidates[1:]):
        try:
            _verify(found, progress)
        except (CorruptError, StorageError) as error:
            root, name = found.storage.root, found.entry.name
            skipped.append(found.storage.url)
            chosen.uncounted[root] = chosen.uncounted[root] | {name}
            if isinstance(error, CorruptError):
                chosen.damaged.append((found.storage, name))
            voice.warn("skipped", f"{error}{_instead(found, following)}", name=name)
            continue
        return chosen.choose(found)
    lost = skipped + [one.url for one in folders if one.root in resumable for _ in survey.broken[one.root]]
    if lost:
        raise CorruptError(
            f"{', '.join(dict.fromkeys(lost))}: none of the run's {len(lost)} checkpoints can be loaded. "
            "Restore one from a copy; to start anew, choose another run folder, or move the checkpoints away."
        )
    return chosen


def _has_gone_back(attempts: Sequence[AttemptRecord], name: str, voice: Voice) -> bool:
    """Whether the newest rollback was to this one: a killed job that is started again must not lose its work."""
    back = next((one for one in reversed(attempts) if one.rollback), None)
    if back is None or back.resumed_from != name:
        return False
    voice.say("rolled_back", _GONE_BACK.format(name, back.attempt))
    return True


def _instead(found: Found, following: Found | None) -> str:
    if following is None:
        return ""
    if following.entry.name == found.entry.name:
        return f" Falling back to the same one in {following.storage.url}."
    return " Falling back to an older checkpoint."


class _Survey:
    """What is in the folders, with a word on what cannot be used."""

    def __init__(self, folders: Sequence[LocalStorage], attempts: list[AttemptRecord], voice: Voice) -> None:
        self._attempts, self._voice = attempts, voice
        self._journals = folders[0]
        self._entries: dict[str, tuple[LocalStorage, tuple[Entry, ...]]] = {}
        self.broken: dict[str, tuple[Broken, ...]] = {}
        for storage in folders:
            listing = Catalog(storage).list()
            self._entries[storage.root] = storage, listing.entries
            self.broken[storage.root] = listing.broken
            for broken in listing.broken:
                voice.warn("skipped", f"{broken.error} It is skipped.", name=broken.name)

    def own_name(self, start_from: object) -> str | None:
        """The name that ``start_from`` is, or the last part of a path to a checkpoint in one of the run's folders."""
        if not isinstance(start_from, str):
            return None
        folder, name = os.path.split(start_from.rstrip("/"))
        if CheckpointName.parse(name) is None:
            return None
        return name if not folder or os.path.realpath(os.path.expanduser(folder)) in self._roots else None

    def named(self, name: str) -> Found | None:
        """The checkpoint of that name, wherever it is; what only claims to be one raises."""
        for storage, _ in self._entries.values():
            if name in storage.list():
                return Found(storage, Catalog(storage).entry(name))
        return None

    @property
    def names(self) -> set[str]:
        """Of all checkpoints that can be read, in whichever folder."""
        return {one.name for _, entries in self._entries.values() for one in entries}

    @property
    def _roots(self) -> set[str]:
        return {os.path.realpath(root) for root in self._entries}

    @property
    def parts(self) -> int:
        """How many checkpoints lack some of the state."""
        return len({one.name for _, entries in self._entries.values() for one in entries if not one.whole})

    def require_no_name(self, start_from: str) -> None:
        """Raises `NotFoundError` if ``start_from`` can only mean a checkpoint of this run, and there is none such.

        Resuming from the newest instead would silently ignore what was asked for.
        """
        if self.names and not os.path.exists(start_from):
            there = "\n  ".join(sorted(self.names))
            raise NotFoundError(
                f"start_from={start_from!r}: the run has no checkpoint of that name, and there is no such path."
                f"{did_you_mean(os.path.basename(start_from), self.names)} There are:\n  {there}"
            )

    def consider_missing(self, start_from: object) -> None:
        """What is no path that is there: refused if it looks like one of the run's own, and else said to be unused."""
        if not isinstance(start_from, str) or not self.names or os.path.exists(os.path.expanduser(start_from)):
            return
        folder, name = os.path.split(start_from.rstrip("/"))
        alike = any(one.startswith(name) for one in self.names) or bool(did_you_mean(name, self.names))
        if (alike and not folder) or os.path.realpath(os.path.expanduser(folder)) in self._roots:
            self.require_no_name(start_from)
        text = f"start_from={start_from!r}: is not there, and is not used: the run has checkpoints of its own"
        self._voice.say("start_from_unused", text)

    def going_back(self, back: Found) -> Selection:
        """A rollback, which abandons what is newer."""
        last = self._attempts[-1].attempt if self._attempts else back.entry.manifest.attempt
        record = AttemptRecord(
            attempt=last + 1, host="", pid=0, started="", resumed_from=back.entry.name, rollback=True
        )  # fmt: skip
        before, after = self.passed_over(self._attempts), self.passed_over([*self._attempts, record])
        abandoned = {name for root, names in after.items() for name in names - before[root]}
        return Selection(rollback=True, uncounted=self.with_damaged(after), abandoned=len(abandoned)).choose(back)

    def passed_over(self, attempts: Sequence[AttemptRecord]) -> dict[str, frozenset[str]]:
        """By folder, the names that a rollback of one of ``attempts`` has abandoned, and those of another run."""
        return {root: self._passed_over(*one, attempts) for root, one in self._entries.items()}

    def with_damaged(self, passed_over: Mapping[str, frozenset[str]]) -> dict[str, frozenset[str]]:
        """And those that an earlier attempt found to be corrupt: tried again, for a copy may have been put back."""
        return {
            root: names | find_damaged(self._entries[root][0], self._attempts) for root, names in passed_over.items()
        }

    def _passed_over(
        self, storage: LocalStorage, entries: Sequence[Entry], attempts: Sequence[AttemptRecord]
    ) -> frozenset[str]:
        foreign = find_foreign(storage, entries)
        for name in foreign:
            text = f"{storage.url}/{name}: was written by another run, and is passed over."
            self._voice.warn("skipped", text, name=name, once=text)
        return find_abandoned(entries, attempts) | foreign

    def candidates(self, passed: Mapping[str, frozenset[str]]) -> Iterator[Found]:
        """What a run can be resumed from, in the order in which it is tried, without those ``passed`` over."""
        usable = [
            Found(storage, one)
            for root, (storage, entries) in self._entries.items()
            for one in entries
            if one.whole and one.name not in passed[root]
        ]
        places: dict[str, list[Found]] = {}
        for found in usable:
            places.setdefault(found.entry.name, []).append(found)
        for entry in self._past_repeated_failures({name: ones[0].entry for name, ones in places.items()}):
            yield from places[entry.name]

    def _past_repeated_failures(self, entries: Mapping[str, Entry]) -> Iterator[Entry]:
        """Puts an `OnError` checkpoint from which the same failure has come again, at the same batch, behind others."""
        futile = find_futile(self._journals, entries.values(), self._attempts)
        ordered = resume_order(entries.values(), futile)
        for entry in ordered:
            if entry.name in futile and entry.order > ordered[0].order:
                self._voice.warn("skipped", _CAME_AGAIN.format(entry.name), name=entry.name)
        yield from ordered


def _verify(found: Found, progress: Progressing) -> None:
    advance = progress(f"verifying {found.entry.name}", bytes_to_read(found.entry))
    verify(found.storage, found.entry, advance=advance)


_GONE_BACK = (
    "start_from={0!r}: the run went back to it in attempt {1}, and goes on from there. To go back once more, move the "
    "checkpoints of attempt {1} and later ones away."
)
_CAME_AGAIN = (
    "{0} was saved on an error that came again at the same batch; going back before it. If the cause was not in the "
    "state and is gone, start again with Run(..., start_from='{0}')."
)
