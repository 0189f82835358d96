"""Which checkpoint a run continues from: the newest that verifies, and why not a newer one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from holdfast.engine.catalog import Catalog, Entry
from holdfast.engine.lineage import find_abandoned, find_foreign, find_futile, resume_order
from holdfast.engine.place import find, reopen
from holdfast.engine.read import bytes_to_read, verify
from holdfast.engine.run_folder import AttemptRecord
from holdfast.errors import CorruptError, NotFoundError, StorageError
from holdfast.run.voice import Voice
from holdfast.storage.base import Storage

Progressing = Callable[[str, int], Callable[[int], object]]
"""(label, total bytes) to a function that is told of bytes done."""


@dataclass(slots=True)
class Selection:
    """The checkpoint to resume from, where it is, and what was decided on the way."""

    entry: Entry | None = None
    storage: Storage | None = None
    rollback: bool = False
    abandoned: frozenset[str] = frozenset()
    skipped: list[str] = field(default_factory=list)


def select(
    catalog: Catalog, attempts: list[AttemptRecord], start_from: str | None, voice: Voice, progress: Progressing
) -> Selection:
    """Chooses among the run's own checkpoints, or takes ``start_from``.

    ``start_from`` names one of the run's own checkpoints (a deliberate rollback: what came later is abandoned), or
    a checkpoint or run folder elsewhere, which counts only while this run has none of its own.
    """
    storage = catalog.storage
    listing = catalog.list()
    for broken in listing.broken:
        voice.warn("skipped", f"{broken.error} It is skipped.", name=broken.name)
    if start_from is not None and str(start_from) in storage.list():
        entry = catalog.entry(str(start_from))
        _verify(storage, entry, progress)
        later = frozenset(one.name for one in listing.entries if one.order > entry.order)
        return Selection(entry, storage, True, later)
    foreign = find_foreign(storage, listing.entries)
    for name in foreign:
        voice.warn("skipped", f"{storage.url}/{name}: was written by another run, and is passed over.", name=name)
    abandoned = find_abandoned(listing.entries, attempts) | foreign
    candidates = [one for one in listing.entries if one.name not in abandoned]
    chosen = Selection(storage=storage, abandoned=abandoned)
    for entry in _past_repeated_failures(storage, candidates, attempts, voice):
        try:
            _verify(storage, entry, progress)
        except (CorruptError, StorageError) as error:
            chosen.skipped.append(entry.name)
            voice.warn("skipped", f"{error} Falling back to an older checkpoint.", name=entry.name)
            continue
        chosen.entry = entry
        return chosen
    if start_from is not None:
        return _elsewhere(Path(start_from), progress)
    if chosen.skipped or listing.broken:
        raise CorruptError(
            f"{storage.url}: none of its {len(chosen.skipped) + len(listing.broken)} checkpoints can be loaded. "
            "Restore one from a copy; to start anew, choose another run folder, or move the checkpoints away."
        )
    return chosen


def _verify(storage: Storage, entry: Entry, progress: Progressing) -> None:
    verify(storage, entry, advance=progress(f"verifying {entry.name}", bytes_to_read(entry)))


def _past_repeated_failures(
    storage: Storage, candidates: list[Entry], attempts: list[AttemptRecord], voice: Voice
) -> Iterator[Entry]:
    """Puts an `OnError` checkpoint from which the same failure has come again at the same batch behind all others."""
    futile = find_futile(storage, candidates, attempts)
    ordered = resume_order(candidates, futile)
    for entry in ordered:
        if entry.name in futile and entry.order > ordered[0].order:
            voice.warn("skipped", _CAME_AGAIN.format(entry.name), name=entry.name)
    yield from ordered


_CAME_AGAIN = (
    "{0} was saved on an error that came again at the same batch; going back before it. If the cause was not in the "
    "state and is gone, start again with Run(..., start_from='{0}')."
)


def _elsewhere(path: Path, progress: Progressing) -> Selection:
    """A checkpoint, which may be a copy of any name, or the newest good checkpoint of a run folder."""
    try:
        place = find(path)
    except NotFoundError as error:
        raise NotFoundError(f"start_from={str(path)!r}: {error}") from error
    if place.name is not None:
        entry = reopen(place.storage, place.name)
    else:
        entries = Catalog(place.storage).list().entries
        if not entries:
            raise NotFoundError(f"start_from={str(path)!r}: this folder holds no checkpoint.")
        entry = entries[-1]
    _verify(place.storage, entry, progress)
    return Selection(entry, place.storage)
