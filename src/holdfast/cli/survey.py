"""All there is to know about the checkpoints of a run without reading a tensor."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field

from holdfast.engine.catalog import Broken, Catalog, Entry, shard_files
from holdfast.engine.lineage import find_abandoned, find_damaged, find_foreign, find_futile, resume_order
from holdfast.engine.pins import pinned
from holdfast.engine.run_folder import AttemptRecord, read_attempts, read_folders
from holdfast.engine.sharing import Body, Shared, bodies, on_disk, shared
from holdfast.errors import HoldfastError
from holdfast.storage.local import LocalStorage


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """The checkpoint that a resume continues from, where it is in another folder of the run."""

    name: str
    folder: str


@dataclass(frozen=True, slots=True)
class Survey:
    """The checkpoints of a folder, oldest first, the broken ones, and what stands in the way of a resume from them.

    ``abandoned`` ones were left behind by a rollback, ``foreign`` ones are of another run, ``damaged`` ones were found
    to be corrupt by a resume, ``futile`` ones were saved on an error that came again after one. ``resume`` is the name
    of the one that the next attempt continues from, if its bytes verify then; where that is in another folder of the
    run, it is ``elsewhere``. ``files`` are those of the entries, and ``shared`` tells which are the same as those of
    which other checkpoints; so all of them take up ``on_disk`` bytes, which may be less than the sum of their sizes.
    """

    storage: LocalStorage
    entries: tuple[Entry, ...]
    broken: tuple[Broken, ...]
    attempts: tuple[AttemptRecord, ...]
    abandoned: frozenset[str]
    foreign: frozenset[str]
    damaged: frozenset[str]
    futile: frozenset[str]
    pinned: frozenset[str]
    resume: str | None
    elsewhere: Elsewhere | None = None
    files: Sequence[Body] = ()
    shared: Shared = field(default_factory=dict)
    on_disk: int = 0

    def shared_size(self, entry: Entry) -> int:
        """Bytes of a checkpoint in files that others have too."""
        files = shard_files(entry.manifest)
        return sum(files[file].size for file in self.shared.get(entry.name, ()))

    @property
    def own(self) -> tuple[Entry, ...]:
        """Those that count: neither left behind by a rollback, nor of another run, nor found to be corrupt."""
        left = self.abandoned | self.foreign | self.damaged
        return tuple(one for one in self.entries if one.name not in left)

    @property
    def newest(self) -> Entry | None:
        """The newest one that counts."""
        return next(reversed(self.own), None)


def survey(storage: LocalStorage) -> Survey:
    """Raises `StorageError` if the folder cannot be read."""
    listing, attempts = Catalog(storage).list(), read_attempts(storage)
    folders = [_listed(one, storage, listing.entries) for one in read_folders(storage, attempts)]
    home = folders[0][0]
    futile = find_futile(home, (one for _, entries in folders for one in entries), attempts)
    place, name = _next(folders, attempts, futile)
    here, files = place is storage, bodies(storage, listing.entries)
    return Survey(
        storage=storage, entries=listing.entries, broken=listing.broken, attempts=tuple(attempts),
        abandoned=find_abandoned(listing.entries, attempts), foreign=find_foreign(storage, listing.entries),
        damaged=find_damaged(storage, attempts),
        futile=futile, pinned=pinned(storage), resume=name if here else None,
        elsewhere=Elsewhere(name, place.root) if place is not None and not here else None,
        files=files, shared=shared(files), on_disk=on_disk(files, listing.entries),
    )  # fmt: skip


_Listed = tuple[LocalStorage, tuple[Entry, ...]]


def _listed(folder: LocalStorage, storage: LocalStorage, entries: tuple[Entry, ...]) -> _Listed:
    """What is in a folder of the run; that is known if it is ``storage``, and nothing if it cannot be read."""
    if os.path.realpath(folder.root) == os.path.realpath(storage.root):
        return storage, entries
    with contextlib.suppress(HoldfastError):
        return folder, Catalog(folder).list().entries
    return folder, ()


def _next(
    folders: Sequence[_Listed], attempts: Sequence[AttemptRecord], futile: frozenset[str]
) -> tuple[LocalStorage | None, str]:
    """Where the checkpoint is that a resume continues from, and its name; of the same one twice, the first."""
    places: dict[str, tuple[LocalStorage, Entry]] = {}
    for storage, entries in folders:
        left = find_abandoned(entries, attempts) | find_foreign(storage, entries) | find_damaged(storage, attempts)
        for one in entries:
            if one.whole and one.name not in left:
                places.setdefault(one.name, (storage, one))
    first = next(iter(resume_order((one for _, one in places.values()), futile)), None)
    return (None, "") if first is None else (places[first.name][0], first.name)
