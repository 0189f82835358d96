"""Requests to a live trainer from outside: a file each, which the trainer takes away."""

from __future__ import annotations

import secrets

from holdfast.storage.base import Storage

_FOLDER = "requests"


def request_save(storage: Storage) -> None:
    """Asks the trainer that has this folder, or the next one, for a checkpoint."""
    storage.create(f"{_FOLDER}/save-{secrets.token_hex(4)}", b"")


def take_requests(storage: Storage) -> int:
    """How many requests there were; they are gone then."""
    names = [name for name in storage.list_files(_FOLDER) if name.startswith("save-")]
    for name in names:
        storage.remove(f"{_FOLDER}/{name}")
    return len(names)
