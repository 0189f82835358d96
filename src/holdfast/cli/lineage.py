"""Where the state of a checkpoint came from: attempt by attempt, and back into the runs that this one began from."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import RenderableType
from rich.text import Text

from holdfast import wording
from holdfast.cli.tables import text
from holdfast.engine.catalog import Catalog, Entry
from holdfast.engine.run_folder import AttemptRecord, read_attempts
from holdfast.errors import HoldfastError
from holdfast.format.manifest import Origin
from holdfast.format.names import CheckpointName
from holdfast.storage.local import LocalStorage
from holdfast.types import Json

_DEEPEST = 100
"""How many attempts and runs are followed: a folder that was tampered with may go round in a circle."""


@dataclass(frozen=True, slots=True)
class Link:
    """One attempt in the line: ``checkpoint`` is what it handed on, ``resumed_from`` what it was handed."""

    run: str
    folder: str
    attempt: int
    checkpoint: str
    started: str | None
    host: str | None
    resumed_from: str | None
    rollback: bool
    origins: tuple[Origin, ...]


def lineage(storage: LocalStorage, entry: Entry) -> list[Link]:
    """The attempts that led to ``entry``, newest first; other runs as far as their folders are where they were."""
    return list(itertools.islice(_links(storage, entry), _DEEPEST))


def _links(storage: LocalStorage, entry: Entry) -> Iterator[Link]:
    records = {one.attempt: one for one in read_attempts(storage)}
    attempt, name = entry.manifest.attempt, entry.name
    origins = entry.manifest.origins
    while True:
        record = records.get(attempt)
        back = CheckpointName.parse(record.resumed_from or "") if record is not None else None
        yield _link(storage, entry, attempt, name, record, origins if back is None else ())
        if back is None:
            break
        attempt, name = back.attempt, str(back)
    for origin in origins:
        yield from _followed(origin)


def _link(
    storage: LocalStorage, entry: Entry, attempt: int, name: str, record: AttemptRecord | None,
    origins: tuple[Origin, ...],
) -> Link:  # fmt: skip
    return Link(
        run=entry.manifest.run, folder=storage.root, attempt=attempt, checkpoint=name,
        started=record.started if record else None, host=record.host if record else None,
        resumed_from=record.resumed_from if record else None,
        rollback=bool(record and record.rollback), origins=origins,
    )  # fmt: skip


def _followed(origin: Origin) -> Iterator[Link]:
    """The line of a checkpoint of another run; nothing if it is not there any more, or is another one by now."""
    storage = LocalStorage(origin.folder)
    try:
        entry = Catalog(storage).entry(origin.name) if Path(origin.folder, origin.name).is_dir() else None
    except HoldfastError:
        return
    if entry is not None and entry.manifest.digest == origin.digest:
        yield from _links(storage, entry)


def records(links: list[Link]) -> list[dict[str, Json]]:
    """The line for programs."""
    import msgspec

    return [{field: msgspec.to_builtins(getattr(one, field)) for field in Link.__slots__} for one in links]


def page(links: list[Link]) -> Iterator[RenderableType]:
    """The line for people, newest first."""
    run = None
    for link in links:
        if link.run != run:
            run = link.run
            yield Text.assemble(text(link.folder, "bold"), text(f"  run {run}", "dim"), overflow="fold")
        yield Text.assemble("  ", text(link.checkpoint), overflow="fold")
        yield Text.assemble("  ", text(f"  ← {_words(link)}", "dim"), overflow="fold")
        for origin in link.origins:
            words = f"    ← {', '.join(origin.items)} from {origin.name} of run {origin.run} in {origin.folder}"
            yield Text.assemble("  ", text(words), overflow="fold")


def _words(link: Link) -> str:
    when = (
        f", started {wording.clock(link.started)} on {link.host}" if link.started else ", of which there is no record"
    )
    if link.origins:
        return f"attempt {link.attempt}{when}, began from another run"
    if link.resumed_from is None:
        return f"attempt {link.attempt}{when}" + (", began afresh" if link.started else "")
    back = "went back to" if link.rollback else "resumed from"
    return f"attempt {link.attempt}{when}, {back} {link.resumed_from}"
