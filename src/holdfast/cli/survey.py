"""All there is to know about the checkpoints of a run without reading a tensor."""

from __future__ import annotations

from dataclasses import dataclass

from holdfast.engine.catalog import Broken, Catalog, Entry
from holdfast.engine.identity import home_of
from holdfast.engine.lineage import find_abandoned, find_foreign, find_futile, resume_order
from holdfast.engine.run_folder import AttemptRecord, read_attempts
from holdfast.storage.local import LocalStorage


@dataclass(frozen=True, slots=True)
class Survey:
    """The checkpoints of a run, oldest first, the broken ones, and what stands in the way of a resume from them.

    ``futile`` ones were saved on an error that came again after a resume from them. ``resume`` is the name of the
    one that the next attempt continues from, if its bytes verify then.
    """

    storage: LocalStorage
    entries: tuple[Entry, ...]
    broken: tuple[Broken, ...]
    attempts: tuple[AttemptRecord, ...]
    abandoned: frozenset[str]
    futile: frozenset[str]
    resume: str | None

    @property
    def newest(self) -> Entry | None:
        """The newest one that no rollback has abandoned."""
        return next((one for one in reversed(self.entries) if one.name not in self.abandoned), None)


def survey(storage: LocalStorage) -> Survey:
    """Raises `StorageError` if the folder cannot be read."""
    listing, attempts = Catalog(storage).list(), read_attempts(storage)
    abandoned = find_abandoned(listing.entries, attempts) | find_foreign(storage, listing.entries)
    futile = find_futile(home_of(storage), listing.entries, attempts)
    usable = resume_order((one for one in listing.entries if one.whole and one.name not in abandoned), futile)
    resume = usable[0].name if usable else None
    return Survey(storage, listing.entries, listing.broken, tuple(attempts), abandoned, futile, resume)
