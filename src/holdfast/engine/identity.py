"""Which run a folder belongs to, which of the run's folders is its own, and who trains there."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from holdfast.engine.catalog import Catalog
from holdfast.errors import (
    AlreadyExistsError,
    CorruptError,
    HoldfastError,
    OwnershipError,
    UnsupportedFormatError,
)
from holdfast.format.manifest import FORMAT
from holdfast.format.names import RUN_FILE, TRAINER_LOCK
from holdfast.storage.base import Storage
from holdfast.storage.local import LocalStorage
from holdfast.storage.locks import RecordLock

SMALL_LIMIT = 1 << 20
"""The largest record of a run or an attempt in bytes."""


class RunIdentity(msgspec.Struct, frozen=True):
    """``holdfast.json``: what this folder is. ``home`` is the run's own folder, if this is another one that it has."""

    format: int
    run: str
    created: str
    home: str = ""


def establish(own: LocalStorage, others: Sequence[LocalStorage]) -> RunIdentity:
    """The identity of the run whose own folder is ``own``, made at its first start; it saves into ``others`` too.

    What was lost with a disk goes on from there: if this folder is new, it takes up the run of another that has it for
    its home. If the run was moved, the others follow. Raises `OwnershipError` if one of them belongs to another run, or
    if this folder is a copy: of one that is still there and has the others, or is itself such another folder of a run.
    """
    _require_own(own)
    home = os.path.realpath(own.root)
    known = [(one, found) for one in others if (found := _identity(one)) is not None]
    run = _run_of(own, [found for _, found in known if found.home == home])
    for storage, found in known:
        if found.run != run:
            raise OwnershipError(_foreign(storage, found, own.root))
        if found.home != home:
            _require_left(storage, found, own)
    _record(own, RunIdentity(FORMAT, run, now()), home)
    for storage in others:
        _record(storage, RunIdentity(FORMAT, run, now(), home), home)
    return read_identity(own)


def _run_of(own: LocalStorage, mine: Sequence[RunIdentity]) -> str:
    if RUN_FILE in own.list():
        return read_identity(own).run
    return _run_of_checkpoints(own) or (mine[0].run if mine else uuid.uuid4().hex)


def _record(storage: LocalStorage, identity: RunIdentity, own: str) -> None:
    """Writes the record of a folder, unless what it says is there: it is kept as it was first made.

    Another run may be started at this moment, with the same new folder: one of them is refused.
    """
    storage.prepare()
    if RUN_FILE in storage.list():
        if _is_recorded(storage, identity, own):
            return
        storage.remove(RUN_FILE)
    with contextlib.suppress(AlreadyExistsError):
        storage.create(RUN_FILE, msgspec.json.encode(identity))
    _is_recorded(storage, identity, own)


def _is_recorded(storage: LocalStorage, identity: RunIdentity, own: str) -> bool:
    found = read_identity(storage)
    if found.run != identity.run:
        raise OwnershipError(_foreign(storage, found, own))
    return found.home == identity.home


def _identity(storage: LocalStorage) -> RunIdentity | None:
    """What a folder that a saver is given belongs to, if to anything."""
    if RUN_FILE in storage.list():
        return read_identity(storage)
    run = _run_of_checkpoints(storage)
    return None if run is None else RunIdentity(FORMAT, run, "")


def _run_of_checkpoints(storage: LocalStorage) -> str | None:
    """Checkpoints that were copied without the record of their run still belong to it."""
    entries = Catalog(storage).list().entries
    return entries[-1].manifest.run if entries else None


def _require_own(own: LocalStorage) -> None:
    """Attempts that are counted in two folders of one run would give two checkpoints one number."""
    home = home_of(own)
    if not _is_same(home, own):
        raise OwnershipError(
            f"{own.url}: is a folder that the run in {home.url} saves into. Start the run there. To begin another one "
            f"from its checkpoints, choose a new folder and give start_from={own.url!r}."
        )


def _require_left(storage: LocalStorage, found: RunIdentity, own: LocalStorage) -> None:
    """A run that was moved left nothing behind. Where it did, one is a copy, and both would write into one folder."""
    if not found.home:
        holder = trainer_of(storage)
        if holder is not None:
            raise OwnershipError(f"{storage.url}: a trainer is running in this folder ({who(holder)}). End it first.")
        return
    home = LocalStorage(found.home)
    if _is_run(home, found.run) and not _is_same(home, own):
        raise OwnershipError(
            f"{storage.url}: the run in {home.url} saves into this folder, and {own.url} is a copy of it. Give the "
            f"copy's savers folders of their own; or, if it is the copy that goes on, move {home.url} away."
        )


def _is_run(storage: LocalStorage, run: str) -> bool:
    try:
        return read_identity(storage).run == run
    except HoldfastError:
        return False


def _is_same(one: LocalStorage, other: LocalStorage) -> bool:
    """Also by another path, as a mount gives it."""
    return os.path.samefile(one.root, other.root)


def _foreign(storage: LocalStorage, found: RunIdentity, own: str) -> str:
    home = f", whose own folder is {found.home}" if found.home else ""
    return (
        f"{storage.url}: belongs to another run ({found.run}{home}) than {own}. Give the saver another folder, or "
        f"move that one away. If it is this run, and its own folder was lost, copy {storage.url}/{RUN_FILE} to "
        f"{own}."
    )


def read_identity(storage: Storage) -> RunIdentity:
    """Raises `NotFoundError`, `CorruptError` or `UnsupportedFormatError`."""
    try:
        identity = msgspec.json.decode(storage.read(RUN_FILE, limit=SMALL_LIMIT), type=RunIdentity)
    except msgspec.DecodeError as error:
        raise CorruptError(
            f"{storage.url}/{RUN_FILE}: {error}. Restore it from a copy, or choose another folder."
        ) from error
    if identity.format > FORMAT:
        raise UnsupportedFormatError(
            f"{storage.url}/{RUN_FILE}: has format {identity.format}; this holdfast reads {FORMAT}. Upgrade holdfast."
        )
    return identity


def home_of(storage: LocalStorage) -> LocalStorage:
    """The run's own folder, which has its attempts and journals, if ``storage`` is another one that it saves into.

    ``storage`` itself where it is that folder, or where that one is gone.
    """
    try:
        found = read_identity(storage)
    except HoldfastError:
        return storage
    home = LocalStorage(found.home) if found.home else storage
    return home if _is_run(home, found.run) else storage


def trainer_of(storage: LocalStorage) -> dict[str, Any] | None:
    """Who holds the folder: pid, host and start of a live trainer; None if nobody does.

    A killed trainer's record stays behind, so the lock itself is asked, by holding it for a moment.
    """
    path = Path(storage.root) / TRAINER_LOCK
    lock = RecordLock(path)
    if not path.exists() or lock.acquire():
        lock.release()
        return None
    return lock.holder() or {}


def who(holder: dict[str, Any] | None) -> str:
    """The holder of a lock, for people."""
    if not holder:
        return "holder unknown"
    return f"pid {holder.get('pid')} on {holder.get('host')}, since {holder.get('started')}"


def now() -> str:
    """The time in UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
