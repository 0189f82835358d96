"""Which files of a folder's checkpoints are one and the same on disk, because the later ones were linked."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field

from holdfast.engine.catalog import Catalog, Entry, shard_files
from holdfast.engine.verify import Whole
from holdfast.errors import HoldfastError, NotFoundError
from holdfast.format.names import CheckpointName
from holdfast.storage.base import FileStatus, Storage
from holdfast.types import FileRecord

Shared = dict[str, dict[str, list[str]]]
"""By checkpoint, and by file of it, the other checkpoints that have the same one."""


@dataclass(frozen=True, slots=True)
class Name:
    """A file as a checkpoint has it."""

    entry: Entry
    file: str
    record: FileRecord

    @property
    def path(self) -> str:
        return f"{self.entry.name}/{self.file}"


@dataclass(frozen=True, slots=True)
class Body:
    """One file on disk, and its names in checkpoints, oldest first."""

    status: FileStatus
    names: list[Name] = field(default_factory=list)

    @property
    def checkpoints(self) -> list[str]:
        """Those that have it, each once: one may have it as several files."""
        return checkpoints_of(self.names)

    def staying(self, going: Collection[str]) -> list[Name]:
        """Its names once the checkpoints ``going`` are gone."""
        return [one for one in self.names if one.entry.name not in going]


def checkpoints_of(names: Iterable[Name]) -> list[str]:
    """Those of the ``names``, each once."""
    return list(dict.fromkeys(one.entry.name for one in names))


def bodies(storage: Storage, entries: Iterable[Entry]) -> list[Body]:
    """The files of ``entries``, oldest first; what is deleted meanwhile is left out."""
    found: dict[object, Body] = {}
    for entry in entries:
        for file, record in shard_files(entry.manifest).items():
            name = Name(entry, file, record)
            with contextlib.suppress(HoldfastError):
                status = storage.status(name.path)
                found.setdefault(status.body, Body(status)).names.append(name)
    return list(found.values())


def shared(found: Iterable[Body]) -> Shared:
    """Who has which file together with whom."""
    them: Shared = {}
    for body in found:
        for one in body.names:
            others = [name for name in body.checkpoints if name != one.entry.name]
            if others:
                them.setdefault(one.entry.name, {})[one.file] = others
    return them


def on_disk(found: Iterable[Body], entries: Collection[Entry]) -> int:
    """Bytes that these checkpoints take up together: a file that several of them have counts once."""
    names = {one.name for one in entries}
    shares = ((body, sum(one.entry.name in names for one in body.names)) for body in found)
    return sum(one.size for one in entries) - sum((count - 1) * body.status.size for body, count in shares if count)


def whole_copies(found: Iterable[Body], whole: Whole) -> dict[str, str]:
    """By path, for files that are not ``whole``, another file on disk that is, and has what they should have."""
    names = [(name, (body.status.body, name.record) in whole) for body in found for name in body.names]
    copies = {name.record: name.path for name, is_whole in names if is_whole}
    return {name.path: copies[name.record] for name, is_whole in names if not is_whole and name.record in copies}


def left_with_one(catalog: Catalog, going: Collection[str]) -> list[str]:
    """Says of which checkpoints the deletion of ``going`` leaves only one copy for two or more.

    Writing what is linked keeps two copies of what the run still saves. But of what it does not save any more, such as
    tensors that were frozen once, the other copy may be in one that goes.
    """
    if not going or not any(_has_links(catalog.storage, name) for name in catalog.storage.list() if name not in going):
        return []
    copies: dict[str, list[Body]] = {}
    for body in bodies(catalog.storage, catalog.list().entries):
        copies.setdefault(body.names[0].record.digest, []).append(body)
    return list(_alone(copies.values(), going))


def _has_links(storage: Storage, name: str) -> bool:
    """Whether any file of a checkpoint has another name."""
    if CheckpointName.parse(name) is None:
        return False
    with contextlib.suppress(NotFoundError):
        return any(storage.status(f"{name}/{file}").names > 1 for file in storage.list_files(name))
    return False


def _alone(copies: Iterable[list[Body]], going: Collection[str]) -> Iterator[str]:
    for same in copies:
        left = [names for body in same if (names := body.staying(going))]
        if len(same) > 1 and len(left) == 1 and len(having := checkpoints_of(left[0])) > 1:
            yield _ALONE.format(", ".join(having), left[0][0].file)


_ALONE = (
    "{0} have one file {1} between them, and the only other copy goes with a checkpoint that is deleted: damage to it "
    "is damage to all of them."
)
