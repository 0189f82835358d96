"""A checkpoint made in one go, where nobody has to say that its snapshot is complete."""

from __future__ import annotations

from holdfast.engine.linking import Links
from holdfast.engine.messages import CommitRequest, Outcome
from holdfast.engine.persist import Removals, Shards, persisting
from holdfast.storage.local import LocalStorage


def persist(
    storage: LocalStorage, commit: CommitRequest, shards: Shards, removals: Removals, links: Links | None = None
) -> Outcome:
    """Writes it and commits it; see `persisting`."""
    making = persisting(storage, commit, shards, removals, links)
    while True:
        try:
            next(making)
        except StopIteration as end:
            outcome: Outcome = end.value
            return outcome
