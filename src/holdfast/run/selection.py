"""Which checkpoint a run continues from: the newest that verifies, and why not a newer one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from holdfast.engine.catalog import Catalog, Entry
from holdfast.engine.lineage import find_abandoned, find_foreign, find_futile, resume_order
from holdfast.engine.read import bytes_to_read, verify
from holdfast.engine.run_folder import AttemptRecord
from holdfast.errors import CorruptError, StorageError
from holdfast.run.voice import Voice
from holdfast.storage.local import LocalStorage

Progressing = Callable[[str, int], Callable[[int], object]]
"""(label, total bytes) to a function that is told of bytes done."""


@dataclass(frozen=True, slots=True)
class Found:
    """A checkpoint and the folder it is in."""

    storage: LocalStorage
    entry: Entry


@dataclass(slots=True)
class Selection:
    """The checkpoint to resume from, and what was decided on the way.

    ``uncounted`` are names, by folder, that are abandoned, of another run, or found to be corrupt.
    """

    found: Found | None = None
    rollback: bool = False
    uncounted: dict[str, frozenset[str]] = field(default_factory=dict)


def select(
    folders: Sequence[LocalStorage], attempts: list[AttemptRecord], start_from: object, voice: Voice,
    progress: Progressing,
) -> Selection:  # fmt: skip
    """Chooses among the run's own checkpoints, in all of its ``folders``; those of its own folder come first.

    ``start_from`` may name one of them: a deliberate rollback, which abandons what came later. What else it means
    counts only for a run that has none of its own. Raises `CorruptError` if there are some and none can be loaded.
    """
    survey = _Survey(folders, attempts, voice)
    if isinstance(start_from, str):
        back = survey.named(start_from)
        if back is not None:
            _verify(back, progress)
            return Selection(back, rollback=True, uncounted=survey.passed_over(later_than=back.entry.order))
    chosen = Selection(uncounted=survey.passed_over())
    skipped = 0
    for found in survey.candidates():
        try:
            _verify(found, progress)
        except (CorruptError, StorageError) as error:
            skipped += 1
            root, name = found.storage.root, found.entry.name
            chosen.uncounted[root] = chosen.uncounted[root] | {name}
            voice.warn("skipped", f"{error} Falling back to an older checkpoint.", name=name)
            continue
        chosen.found = found
        return chosen
    if skipped or survey.broken:
        raise CorruptError(
            f"{folders[0].url}: none of its {skipped + survey.broken} checkpoints can be loaded. "
            "Restore one from a copy; to start anew, choose another run folder, or move the checkpoints away."
        )
    return chosen


class _Survey:
    """What is in the folders, with a word on what cannot be used."""

    def __init__(self, folders: Sequence[LocalStorage], attempts: list[AttemptRecord], voice: Voice) -> None:
        self._attempts, self._voice = attempts, voice
        self._journals = folders[0]
        self._entries: dict[str, tuple[LocalStorage, tuple[Entry, ...]]] = {}
        self.broken = 0
        for storage in folders:
            listing = Catalog(storage).list()
            self._entries[storage.root] = storage, listing.entries
            self.broken += len(listing.broken)
            for broken in listing.broken:
                voice.warn("skipped", f"{broken.error} It is skipped.", name=broken.name)

    def named(self, name: str) -> Found | None:
        """The checkpoint of that name, wherever it is; what only claims to be one raises."""
        for storage, _ in self._entries.values():
            if name in storage.list():
                return Found(storage, Catalog(storage).entry(name))
        return None

    def passed_over(self, later_than: tuple[int, int] | None = None) -> dict[str, frozenset[str]]:
        """By folder, the names that a rollback has abandoned, or abandons now, and those of another run."""
        return {root: self._passed_over(*one, later_than) for root, one in self._entries.items()}

    def _passed_over(
        self, storage: LocalStorage, entries: Sequence[Entry], later_than: tuple[int, int] | None
    ) -> frozenset[str]:
        foreign = find_foreign(storage, entries)
        for name in foreign:
            text = f"{storage.url}/{name}: was written by another run, and is passed over."
            self._voice.warn("skipped", text, name=name, once=text)
        later = {one.name for one in entries if later_than is not None and one.order > later_than}
        return find_abandoned(entries, self._attempts) | foreign | later

    def candidates(self) -> Iterator[Found]:
        """What a run can be resumed from, in the order in which it is tried."""
        passed = self.passed_over()
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


_CAME_AGAIN = (
    "{0} was saved on an error that came again at the same batch; going back before it. If the cause was not in the "
    "state and is gone, start again with Run(..., start_from='{0}')."
)
