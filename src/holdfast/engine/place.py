"""What a path that a person gives means: a run folder, or one checkpoint. Only looks; never makes or locks anything."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from holdfast.engine.catalog import Catalog, Entry
from holdfast.errors import NotFoundError, StorageError, UsageError
from holdfast.format.names import RUN_FILE, CheckpointName, is_debris
from holdfast.storage.failures import reported
from holdfast.storage.local import LocalStorage
from holdfast.storage.paths import MANIFEST_FILE

_HINTS = 5


@dataclass(frozen=True, slots=True)
class Place:
    """A folder of checkpoints, and the name of one of them if that is what the path leads to."""

    storage: LocalStorage
    name: str | None = None


def find_run(path: str | os.PathLike[str]) -> LocalStorage:
    """The run folder at ``path``: it has a `holdfast.json`, or checkpoints in it.

    Raises `NotFoundError` if there is none, `StorageError` if it cannot be looked at, `UsageError` for no path.
    """
    with _looking_at(path):
        return _run_folder(path)


def _run_folder(path: str | os.PathLike[str]) -> LocalStorage:
    storage = LocalStorage(path)
    root = Path(storage.root)
    if not root.is_dir():
        raise NotFoundError(f"{path}: {_instead(root)}.")
    names = storage.list()
    if MANIFEST_FILE in names:
        raise NotFoundError(f"{path}: is a checkpoint, not a run folder; use Checkpoint.open() on it.")
    if RUN_FILE not in names and not any(map(CheckpointName.parse, names)):
        raise NotFoundError(
            f"{path}: is not a run folder: it has no {RUN_FILE} and no checkpoint. {_hint(root)}".rstrip()
        )
    return storage


def find(path: str | os.PathLike[str]) -> Place:
    """The run folder, or the checkpoint, at ``path``; a checkpoint may have been copied anywhere and renamed.

    Raises `NotFoundError` if it is neither, and else what `find_run` does.
    """
    with _looking_at(path):
        place = Path(os.path.abspath(os.path.expanduser(path)))
        if CheckpointName.parse(place.name) is None:
            # People keep links to checkpoints; one that has a checkpoint's own name is refused when it is opened.
            place = Path(os.path.realpath(place))
        if is_debris(place.name):
            raise NotFoundError(f"{path}: is what a save or a deletion left unfinished, not a checkpoint.")
        if _is_checkpoint(place):
            return Place(LocalStorage(place.parent), place.name)
        return Place(_run_folder(path))


def nearest_folder(path: str) -> str:
    """The folder at ``path``; where there is none yet, the nearest one above, in which a run would make it.

    Raises `NotFoundError` if something else is in the way, `StorageError` if it cannot be looked at, `UsageError` for
    no path.
    """
    if not path or "://" in path:
        raise UsageError(f"{path!r}: expected the path of a folder.")
    with _looking_at(path):
        place = Path(LocalStorage(path).root)
        while not _is_something(place):
            place = place.parent
        if not place.is_dir():
            raise NotFoundError(f"{place}: {_instead(place, 'a folder')}.")
        return str(place)


def reopen(storage: LocalStorage, name: str) -> Entry:
    """The checkpoint as it is now: manifest and sizes checked afresh.

    Raises `NotFoundError` with the names there are, `CorruptError` or `UnsupportedFormatError`.
    """
    _require_there(storage, name)
    return Catalog(storage).entry(name)


def require_unchanged(storage: LocalStorage, entry: Entry) -> None:
    """Looks afresh whether the checkpoint is still the one that was opened, and its files have their sizes.

    Raises `NotFoundError` with the names there are, or `CorruptError`.
    """
    _require_there(storage, entry.name)
    Catalog(storage).require_unchanged(entry)


def _require_there(storage: LocalStorage, name: str) -> None:
    names = storage.list()
    if name not in names:
        others = ", ".join(one for one in names if CheckpointName.parse(one)) or "none"
        raise NotFoundError(f"{storage.url}: has no checkpoint {name!r}. It has: {others}.")


def check_path(path: str | os.PathLike[str], where: str = "") -> None:
    """Raises `UsageError`, which begins with ``where``, for what no system takes for a path."""
    if "\0" in os.fspath(path):
        raise UsageError(f"{where}{os.fspath(path)!r}: a path cannot hold a NUL character.")


@contextlib.contextmanager
def _looking_at(path: str | os.PathLike[str]) -> Iterator[None]:
    """What the system says of ``path``, as holdfast's errors. At a path that is too long there can be nothing."""
    check_path(path)
    try:
        with reported("look at", os.fspath(path)):
            yield
    except StorageError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        raise NotFoundError(f"{path}: is not there: it is longer than a path can be.") from error


def _instead(root: Path, expected: str = "a run folder") -> str:
    """What there is where a folder should be."""
    if root.exists():
        return f"is a file, not {expected}"
    return f"is a link to {os.readlink(root)}, which is not there" if root.is_symlink() else "is not there"


def _is_something(place: Path) -> bool:
    try:
        place.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _is_checkpoint(place: Path) -> bool:
    named = CheckpointName.parse(place.name) is not None and (place.is_symlink() or place.is_dir())
    return named or (place / MANIFEST_FILE).is_file()


def _hint(root: Path) -> str:
    runs = (one.name for one in sorted(root.iterdir()) if (one / RUN_FILE).is_file())
    found = list(itertools.islice(runs, _HINTS))
    return f"It contains runs, though: {', '.join(found)}." if found else ""
