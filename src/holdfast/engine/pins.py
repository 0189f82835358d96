"""Checkpoints that somebody wants to keep, whatever the policies say."""

from __future__ import annotations

import contextlib

from holdfast.errors import AlreadyExistsError
from holdfast.format.names import CheckpointName
from holdfast.storage.base import Storage

_FOLDER = "pins"


def pin(storage: Storage, name: str) -> None:
    """Marks ``name`` to be kept. Pinned twice is pinned once."""
    with contextlib.suppress(AlreadyExistsError):
        storage.create(f"{_FOLDER}/{name}", b"")


def unpin(storage: Storage, name: str) -> None:
    """Leaves ``name`` to the policies again. What was not pinned counts as unpinned."""
    storage.remove(f"{_FOLDER}/{name}")


def pinned(storage: Storage) -> frozenset[str]:
    """The names that are marked, whether or not their checkpoints are there."""
    return frozenset(name for name in storage.list_files(_FOLDER) if CheckpointName.parse(name) is not None)
