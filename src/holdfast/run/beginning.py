"""What a run that has no checkpoint of its own takes from checkpoints of others."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from holdfast.engine.catalog import Catalog, Entry
from holdfast.engine.holds import hold
from holdfast.engine.lineage import usable
from holdfast.engine.place import find, reopen
from holdfast.engine.verify import bytes_to_read, verify
from holdfast.errors import CorruptError, MisfitError, NotFoundError, StorageError, UsageError
from holdfast.format.manifest import Origin
from holdfast.hints import did_you_mean
from holdfast.run.items import Items
from holdfast.run.resumption import read_values
from holdfast.run.voice import Voice
from holdfast.state.item import Restore
from holdfast.state.loading import INTERNAL, fit, load
from holdfast.storage.local import LocalStorage
from holdfast.types import Progressing


@dataclass(slots=True)
class Source:
    """A checkpoint of another run, and which of its items go into which of this run's: ``items`` by stored name.

    ``named``: it was asked for by its name, and is not the newest of a folder, for which an older one may stand in.
    """

    storage: LocalStorage
    entry: Entry
    items: dict[str, str]
    named: bool = False

    @property
    def place(self) -> str:
        """The path of the checkpoint."""
        return str(Path(self.storage.root) / self.entry.name)

    @property
    def origin(self) -> Origin:
        manifest = self.entry.manifest
        return Origin(
            run=manifest.run, name=self.entry.name, digest=manifest.digest, items=tuple(self.items.values()),
            folder=self.storage.root,
        )  # fmt: skip


@dataclass(slots=True)
class Beginning:
    """The sources of a fresh run's state. While it is not restored, no retention deletes them.

    ``whole``: all of the state comes from one checkpoint, and ``run.values`` with it.
    """

    sources: list[Source]
    whole: bool
    notes: list[str] = field(default_factory=list)
    _holds: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def hold(self) -> None:
        """Keeps the sources where they are; where one cannot be held, a load says that it is gone."""
        for source in self.sources:
            with contextlib.suppress(StorageError, CorruptError):
                self._holds.enter_context(hold(source.storage, source.entry.name))

    def close(self) -> None:
        """The sources are not needed any more."""
        self._holds.close()

    def values(self) -> dict[str, Any]:
        """The loop's own variables."""
        source = self.sources[0]
        return read_values(source.storage, source.entry) if self.whole else {}

    def fit(self, items: Items) -> list[tuple[Source, dict[str, Restore]]]:
        """Prepares every load. Raises one `MisfitError` with every difference; changes nothing."""
        if self.whole:
            return [(self.sources[0], dict(items.fit(self.sources[0].entry, _WHOLE)))]
        found, problems = [], list[str]()
        for source in self.sources:
            wanted = {stored: items.items[name] for stored, name in source.items.items()}
            restores, differences = fit(source.entry, wanted)
            problems += differences
            found.append((source, restores))
        if problems:
            raise MisfitError(
                f"start_from= does not fit the objects in state=; nothing was changed. {_PARTLY}:", tuple(problems)
            )
        return found

    def restore(self, items: Items, progressing: Progressing) -> None:
        """Loads every item; all is known to fit before the first is changed."""
        for source, restores in self.fit(items):
            load(source.storage, source.entry, restores, progressing)
            self.notes += [note for one in restores.values() for note in one.notes]
        self.close()


_PARTLY = (
    "Leave out the item that does not fit, or leave out start_from= and take over what fits before the loop: "
    "holdfast.latest(that folder).load_into(model=model, strict=False)"
)
_WHOLE = f"To take only some items, name them: start_from={{'model': that path}}. {_PARTLY}"


def begin_from(
    given: Any, items: Items, voice: Voice, progressing: Progressing, undo: contextlib.ExitStack
) -> Beginning:  # fmt: skip
    """What ``start_from`` names: a run folder or a checkpoint, or one for each of some items. ``undo`` lets it go.

    Of a run folder it is the newest that verifies; others are named and skipped. Raises `UsageError` for what names
    nothing, `NotFoundError`, `CorruptError` or `MisfitError`.
    """
    skipped = _Skipped(voice)
    while True:
        beginning = Beginning(_sources(given, items, skipped), whole=not isinstance(given, Mapping))
        undo.callback(beginning.close)
        # First: the other run may be going on, and its retention with it, while gigabytes are verified here.
        beginning.hold()
        beginning.fit(items)
        if all(_verifies(source, progressing, skipped) for source in beginning.sources):
            return beginning
        beginning.close()


@dataclass(slots=True)
class _Skipped:
    """Checkpoints that cannot be used, by path, and each said once."""

    voice: Voice
    places: set[str] = field(default_factory=set)

    def add(self, place: str, error: Exception) -> None:
        if place not in self.places:
            self.places.add(place)
            self.voice.warn("skipped", f"start_from=: {error} It is skipped.", name=Path(place).name)


def _verifies(source: Source, progressing: Progressing, skipped: _Skipped) -> bool:
    advance = progressing(f"verifying {source.entry.name}", bytes_to_read(source.entry))
    try:
        verify(source.storage, source.entry, advance=advance)
    except CorruptError as error:
        if source.named:
            raise
        skipped.add(source.place, error)
        return False
    return True


def _sources(given: Any, items: Items, skipped: _Skipped) -> list[Source]:
    if isinstance(given, Mapping):
        return _by_item(given, items, skipped)
    storage, entry, named = _find(given, "start_from=", None, skipped)
    return [Source(storage, entry, {name: name for name in items.items}, named)]


def _by_item(given: Mapping[str, Any], items: Items, skipped: _Skipped) -> list[Source]:
    if not given:
        raise UsageError("start_from={}: name an item of state= and a checkpoint for it, or leave it out.")
    found: dict[str, Source] = {}
    for name, one in given.items():
        where = f"start_from[{name!r}]="
        if name not in items.items:
            hint = did_you_mean(str(name), items.items)
            raise UsageError(f"{where}{one!r}: is no item of state=.{hint} There are: {', '.join(items.items)}.")
        path, stored = _path_and_item(one, name, where)
        storage, entry, named = _find(path, where, stored, skipped)
        if stored not in entry.manifest.items:
            has = [one for one in entry.manifest.items if one not in INTERNAL]
            hint = did_you_mean(stored, has)
            raise NotFoundError(
                f"{where}{one!r}: {entry.name} has no item {stored!r}.{hint} It has: {', '.join(has)}. One of another "
                f"name: start_from={{{name!r}: (path, {has[0]!r})}}."
            )
        source = Source(storage, entry, {}, named)
        known = found.setdefault(source.place, source)
        if stored in known.items:
            known = found.setdefault(f"{source.place}#{len(found)}", source)  # one for two of this run: read twice
        known.items[stored] = name
    return list(found.values())


def _path_and_item(one: Any, name: str, where: str) -> tuple[Any, str]:
    """``"runs/other"``, or ``("runs/other", "ema")`` for an item of another name."""
    if isinstance(one, (list, tuple)):
        if len(one) != 2 or not isinstance(one[1], str):
            raise UsageError(f"{where}{one!r}: expected a path, or a path and the name of an item in it.")
        return one[0], one[1]
    return one, name


def _find(path: Any, where: str, item: str | None, skipped: _Skipped) -> tuple[LocalStorage, Entry, bool]:
    """A checkpoint, which may be a copy of any name, or the newest of a run folder that holds ``item``, or all.

    And whether it was named, by the path of its own.
    """
    try:
        place = find(path)
    except NotFoundError as error:
        raise NotFoundError(f"{where}{str(path)!r}: {error}") from error
    except TypeError:
        raise UsageError(f"{where}{path!r}: expected the path of a run folder or of a checkpoint.") from None
    if place.name is not None:
        return place.storage, reopen(place.storage, place.name), True
    listing, root = Catalog(place.storage).list(), Path(place.storage.root)
    for broken in listing.broken:
        skipped.add(str(root / broken.name), broken.error)
    entries = [one for one in usable(place.storage, listing.entries) if str(root / one.name) not in skipped.places]
    fitting = [one for one in entries if (one.whole if item is None else item in one.manifest.items)]
    if not entries and skipped.places:
        raise CorruptError(f"{where}{str(path)!r}: none of this folder's checkpoints can be loaded.")
    if not entries:
        raise NotFoundError(f"{where}{str(path)!r}: this folder holds no checkpoint.")
    return place.storage, (fitting or entries)[-1], False
