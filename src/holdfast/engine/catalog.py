"""What a run folder holds: its committed checkpoints, and those that claim to be but are not."""

from __future__ import annotations

from dataclasses import dataclass, field

from holdfast.errors import CorruptError, HoldfastError, NotFoundError
from holdfast.format.manifest import MANIFEST_LIMIT, Manifest, check_digest, open_manifest, open_outline
from holdfast.format.names import CheckpointName
from holdfast.storage.base import Storage
from holdfast.storage.paths import MANIFEST_FILE
from holdfast.types import FileRecord
from holdfast.wording import DAMAGED


@dataclass(frozen=True, slots=True)
class Entry:
    """A committed checkpoint: its manifest verified, its files there with the right sizes."""

    name: str
    manifest: Manifest
    size: int

    @property
    def order(self) -> tuple[int, int]:
        """Newest is highest. Never the modification time: copies and restores change it."""
        return self.manifest.attempt, self.manifest.ordinal

    @property
    def whole(self) -> bool:
        """Whether a run can be resumed from it."""
        return self.manifest.whole


@dataclass(frozen=True, slots=True)
class Broken:
    """A directory with a checkpoint's name that does not hold one, and why."""

    name: str
    error: HoldfastError


@dataclass(frozen=True, slots=True)
class Listing:
    """Committed checkpoints, oldest first, and broken ones."""

    entries: tuple[Entry, ...]
    broken: tuple[Broken, ...]


@dataclass(slots=True)
class Catalog:
    """Lists checkpoints from the storage, which is the truth: correct after a restart, a move, a manual deletion.

    Manifests are immutable, so each is read once per catalog; which ones are there is asked every time. With
    ``outlines`` they are those of `open_outline`: enough for who decides what stays, not for who loads.
    """

    storage: Storage
    outlines: bool = False
    _known: dict[str, Entry] = field(default_factory=dict)

    def list(self) -> Listing:
        """All checkpoints, oldest first. A folder that is not there raises `NotFoundError`."""
        entries: list[Entry] = []
        broken: list[Broken] = []
        names = self.storage.list()
        self._known = {name: self._known[name] for name in names if name in self._known}
        for name in names:
            if CheckpointName.parse(name) is None:
                continue
            try:
                entries.append(self.entry(name))
            except HoldfastError as error:
                broken.append(Broken(name, error))
        if broken:
            # A live run prunes: what was deleted while it was being looked at is gone, not broken.
            there = set(self.storage.list())
            broken = [one for one in broken if one.name in there]
        entries.sort(key=lambda entry: entry.order)
        broken.sort(key=lambda one: CheckpointName.parse(one.name) or CheckpointName("", 0, 0))
        return Listing(tuple(entries), tuple(broken))

    def entry(self, name: str) -> Entry:
        """One checkpoint, opened and checked without reading its tensors.

        Raises `NotFoundError`, `CorruptError` or `UnsupportedFormatError`.
        """
        files = self._files(name)
        known = self._known.get(name)
        if known is None:
            data = self._manifest(name)
            known = _entry(name, data, (open_outline if self.outlines else open_manifest)(data, where=name))
        _check_sizes(name, files, known.manifest)
        self._known[name] = known
        return known

    def require_unchanged(self, entry: Entry) -> None:
        """Raises `CorruptError` unless ``entry`` is still what is there: the same manifest, files of the right sizes.

        The digest tells: a manifest of the same bytes was checked when it was opened. Another one raises what `entry`
        does, if that cannot be read.
        """
        files = self._files(entry.name)
        if check_digest(self._manifest(entry.name), where=entry.name) != entry.manifest.digest:
            self.entry(entry.name)  # which says so if the other one cannot be read
            raise CorruptError(f"{entry.name}: was replaced by another checkpoint since it was opened; open it again.")
        _check_sizes(entry.name, files, entry.manifest)

    def _files(self, name: str) -> dict[str, int]:
        files = self.storage.list_files(name)
        if MANIFEST_FILE not in files:
            raise CorruptError(
                f"{name}: has no {MANIFEST_FILE}, so it was never committed. Delete it, or use another checkpoint."
            )
        return files

    def _manifest(self, name: str) -> bytes:
        return self.storage.read(f"{name}/{MANIFEST_FILE}", limit=MANIFEST_LIMIT)


def _entry(name: str, data: bytes, manifest: Manifest) -> Entry:
    wanted = CheckpointName.parse(name)
    found = manifest.name
    if wanted is not None and found != wanted:
        raise CorruptError(f"{name}: its manifest belongs to {found}. Someone renamed it; rename it back.")
    size = len(data) + sum(record.size for record in shard_files(manifest).values())
    return Entry(name, manifest, size)


def shard_files(manifest: Manifest) -> dict[str, FileRecord]:
    """The shards of all parts by file name."""
    return {file: record for part in manifest.parts for file, record in part.files.items()}


def _check_sizes(name: str, files: dict[str, int], manifest: Manifest) -> None:
    for file, record in shard_files(manifest).items():
        size = files.get(file)
        if size is None:
            raise CorruptError(f"{name}/{file}: is missing. {DAMAGED}")
        if size != record.size:
            raise CorruptError(f"{name}/{file}: has {size:,} bytes where {record.size:,} were committed. {DAMAGED}")


def named(storage: Storage, name: str) -> Entry:
    """The checkpoint ``name``, or `NotFoundError` with the names there are."""
    catalog = Catalog(storage)
    names = [known for known in storage.list() if CheckpointName.parse(known) is not None]
    if name not in names:
        raise NotFoundError(f"{storage.url}: has no checkpoint {name!r}. It has: {', '.join(sorted(names)) or 'none'}.")
    return catalog.entry(name)
