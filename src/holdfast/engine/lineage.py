"""What the attempts' records say of checkpoints: left behind by a rollback, corrupt, leading into one failure again."""

from __future__ import annotations

import os
from collections.abc import Iterable

from holdfast.engine.catalog import Entry
from holdfast.engine.identity import home_of, read_identity
from holdfast.engine.journal import read_journal
from holdfast.engine.run_folder import AttemptRecord, read_attempts
from holdfast.format.names import RUN_FILE, CheckpointName
from holdfast.storage.base import Storage
from holdfast.storage.local import LocalStorage
from holdfast.types import Json


def find_abandoned(entries: Iterable[Entry], attempts: Iterable[AttemptRecord]) -> frozenset[str]:
    """Names of checkpoints that a deliberate rollback left behind, also if it committed nothing itself.

    One to a checkpoint that had been left behind itself goes back to the line that this one is of.
    """
    orders = {one.name: one.order for one in entries}
    gone, known = frozenset[str](), dict[int, frozenset[str]]()
    for record in attempts:
        # The one gone back to need not be here: it may lie in another folder of the run, or be deleted since.
        back = CheckpointName.parse(record.resumed_from or "") if record.rollback else None
        if back is not None:
            later = (name for name, order in orders.items() if back.order < order and order[0] < record.attempt)
            gone = known.get(back.attempt, frozenset()).union(later)
        known[record.attempt] = gone
    return gone


def find_foreign(storage: Storage, entries: Iterable[Entry]) -> frozenset[str]:
    """Names of checkpoints that another run wrote, as a trainer does that lives on after its folder was removed.

    None where the folder does not say which run it is.
    """
    if RUN_FILE not in storage.list():
        return frozenset()
    run = read_identity(storage).run
    return frozenset(one.name for one in entries if one.manifest.run != run)


def find_damaged(storage: LocalStorage, attempts: Iterable[AttemptRecord]) -> frozenset[str]:
    """Names of checkpoints in a folder of the run that an attempt found to be corrupt, and none has resumed from since.

    A run that falls back makes the same ones once more, with the same metrics. A policy that counted both would keep
    the first, and delete the good one.
    """
    home, here = os.path.realpath(home_of(storage).root), os.path.realpath(storage.root)
    found: set[str] = set()
    for record in attempts:
        found.discard(record.resumed_from or "")
        for path in record.damaged:
            folder, name = os.path.split(path)
            if os.path.realpath(os.path.join(home, folder)) == here:
                found.add(name)
    return frozenset(found)


def usable(storage: LocalStorage, entries: Iterable[Entry]) -> list[Entry]:
    """Those of ``entries`` that are meant by who asks for the run's.

    They are neither abandoned by a rollback, nor another run's, nor found to be corrupt.
    """
    listed, attempts = list(entries), read_attempts(storage)
    left = find_abandoned(listed, attempts) | find_foreign(storage, listed) | find_damaged(storage, attempts)
    return [one for one in listed if one.name not in left]


def resume_order(entries: Iterable[Entry], futile: frozenset[str]) -> list[Entry]:
    """``entries`` in the order in which a resume tries them: newest first, ``futile`` ones behind all others."""
    return sorted(entries, key=lambda one: (one.name not in futile, one.order), reverse=True)


def find_futile(storage: Storage, entries: Iterable[Entry], attempts: Iterable[AttemptRecord]) -> frozenset[str]:
    """Names of checkpoints saved on an error that came again, at the same batch, after a resume from them."""
    suspects = [one for one in entries if one.manifest.on_error]
    if not suspects:
        return frozenset()
    records = list(attempts)
    failures = {record.attempt: _failure(storage, record.attempt) for record in records}
    return frozenset(one.name for one in suspects if _repeated(one, records, failures))


def _failure(storage: Storage, attempt: int) -> tuple[Json, Json] | None:
    """Where an attempt ended by an exception, and of what kind, if it did."""
    failures = [
        (line.get("at"), line.get("error")) for line in read_journal(storage, attempt) if line.get("t") == "error"
    ]
    return failures[-1] if failures else None


def _repeated(entry: Entry, attempts: list[AttemptRecord], failures: dict[int, tuple[Json, Json] | None]) -> bool:
    first = failures.get(entry.manifest.attempt)
    again = [failures.get(one.attempt) for one in attempts if one.resumed_from == entry.name]
    return first is not None and first in again
