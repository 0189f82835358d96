"""Checkpoints that somebody wants to keep, whatever the policies say."""

from __future__ import annotations

import contextlib
import errno

from holdfast.engine import turns
from holdfast.engine.turns import require_checkpoint, turn
from holdfast.errors import AlreadyExistsError, StorageError
from holdfast.format.names import CheckpointName
from holdfast.storage.base import Storage
from holdfast.storage.local import LocalStorage

_FOLDER = "pins"


def pin(storage: LocalStorage, name: str) -> None:
    """Marks ``name`` to be kept; what comes to delete it from now on does not. Pinned twice is pinned once.

    Raises `NotFoundError` if the checkpoint is not there any more, `StorageError` if the folder cannot be written to.
    """
    with turn(storage, turns.READER_WAIT_SECONDS) as obstacle:
        if obstacle:
            raise StorageError(errno.ETIMEDOUT, f"{name} cannot be pinned: {obstacle}")
        require_checkpoint(storage, name)
        with contextlib.suppress(AlreadyExistsError):
            storage.create(f"{_FOLDER}/{name}", b"")


def unpin(storage: Storage, name: str) -> None:
    """Leaves ``name`` to the policies again. What was not pinned counts as unpinned."""
    storage.remove(f"{_FOLDER}/{name}")


def pinned(storage: Storage) -> frozenset[str]:
    """The names that are marked, whether or not their checkpoints are there."""
    return frozenset(name for name in storage.list_files(_FOLDER) if CheckpointName.parse(name) is not None)
