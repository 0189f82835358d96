"""``holdfast verify``: whether the bytes on disk are the ones that were committed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast import wording
from holdfast.cli import arguments
from holdfast.errors import CorruptError, HoldfastError, NotFoundError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from holdfast.engine.catalog import Broken, Entry
    from holdfast.engine.place import Place
    from holdfast.engine.verify import Whole
    from holdfast.storage.local import LocalStorage

Tampering = Annotated[
    bool,
    typer.Option("--tampering", help="Check the cryptographic digests too: damage done on purpose."),
]


@dataclass(frozen=True, slots=True)
class Verdict:
    """How the check of one checkpoint ended.

    ``shared`` are, by name, those of its files that others have too, with the names of those. ``copy`` are, where a
    file is damaged, the paths of it and of one that is whole and has the same bytes.
    """

    name: str
    size: int
    error: HoldfastError | None
    shared: Mapping[str, list[str]] = field(default_factory=dict)
    copy: tuple[str, str] | None = None


def verify(
    run: arguments.RunOrCheckpoint, checkpoint: arguments.OneCheckpoint = None, tampering: Tampering = False,
    as_json: arguments.AsJson = False,
) -> None:  # fmt: skip
    """Read every byte of a run's checkpoints, or of one, and compare it with the digests. Exit code 4: corrupt."""
    from holdfast.cli.output import console, print_all, print_json

    place = arguments.place(run, checkpoint)
    verdicts = _verdicts(place, tampering)
    if not verdicts:
        raise NotFoundError(f"{place.storage.root}: has no checkpoint to verify.")
    if as_json:
        print_json(_record(place.storage, verdicts))
    else:
        print_all(console(), *_page(verdicts))
    error = _worst(verdicts)
    if error is not None:
        raise typer.Exit(error.exit_code)


def _verdicts(place: Place, tampering: bool) -> list[Verdict]:
    from holdfast.cli.progress import progress_bar
    from holdfast.cli.records import age_of
    from holdfast.engine.sharing import bodies, shared, whole_copies
    from holdfast.engine.verify import bytes_to_read

    entries, broken = _claimed(place)
    files = bodies(place.storage, entries)
    together = shared(files)
    verdicts = [Verdict(one.name, 0, one.error) for one in broken]
    with progress_bar("verifying", sum(map(bytes_to_read, entries))) as advance:
        whole: Whole = set()
        found = [(one, _error(place.storage, one, tampering, advance, whole)) for one in entries]
    copies = whole_copies(files, whole)
    checked = [
        Verdict(one.name, one.size, error, together.get(one.name, {}), _copy_for(error, copies)) for one, error in found
    ]
    if place.name is None:
        # A run under way deletes old checkpoints: one that went while it was being read is gone, not damaged.
        there = set(place.storage.list())
        checked = [one for one in checked if one.error is None or one.name in there]
    verdicts += checked
    return sorted(verdicts, key=lambda one: age_of(one.name))


def _copy_for(error: HoldfastError | None, copies: Mapping[str, str]) -> tuple[str, str] | None:
    """The damaged file that the error begins with, and its like, if there is one."""
    path = str(error).partition(":")[0]
    return (path, copies[path]) if isinstance(error, CorruptError) and path in copies else None


def _claimed(place: Place) -> tuple[Sequence[Entry], Sequence[Broken]]:
    """What is to be read, and what need not be, because its manifest or a file's size is wrong already."""
    from holdfast.engine.catalog import Broken, Catalog
    from holdfast.engine.place import reopen

    if place.name is None:
        listing = Catalog(place.storage).list()
        return listing.entries, listing.broken
    try:
        return [reopen(place.storage, place.name)], []
    except HoldfastError as error:
        return [], [Broken(place.name, error)]


def _error(
    storage: LocalStorage, entry: Entry, tampering: bool, advance: Any, whole: Whole
) -> HoldfastError | None:  # fmt: skip
    from holdfast.engine.verify import verify

    try:
        verify(storage, entry, tampering=tampering, advance=advance, whole=whole)
    except HoldfastError as error:
        return error
    return None


def _worst(verdicts: Sequence[Verdict]) -> HoldfastError | None:
    """The error that the exit code tells of: corruption before anything else."""
    errors = [one.error for one in verdicts if one.error is not None]
    return next((one for one in errors if isinstance(one, CorruptError)), errors[0] if errors else None)


def _summary(verdicts: Sequence[Verdict]) -> str:
    bad = sum(one.error is not None for one in verdicts)
    if bad:
        return f"{bad} of {wording.count(len(verdicts), 'checkpoint')} cannot be loaded"
    total = wording.size(sum(one.size for one in verdicts))
    return f"{wording.count(len(verdicts), 'checkpoint')}, {total}: every byte is as it was committed"


def _record(storage: LocalStorage, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    from holdfast.cli.output import describe

    worst = _worst(verdicts)
    return {
        "folder": storage.root,
        "ok": worst is None,
        "checkpoints": [
            {
                "name": one.name,
                "ok": one.error is None,
                "error": describe(one.error) if one.error else None,
                "shared": dict(one.shared),
                "copy": dict(zip(("damaged", "whole"), one.copy, strict=True)) if one.copy else None,
            }
            for one in verdicts
        ],
        "error": {"kind": worst.kind, "message": _summary(verdicts)} if worst is not None else None,
    }


def _together(verdicts: Sequence[Verdict]) -> list[tuple[str, tuple[str, ...]]]:
    """Each file that several checkpoints have, and which those are, oldest first."""
    age = {one.name: number for number, one in enumerate(verdicts)}
    found = (
        (file, tuple(sorted((one.name, *others), key=lambda name: age.get(name, -1))))
        for one in verdicts
        for file, others in one.shared.items()
    )
    return list(dict.fromkeys(found))


def _page(verdicts: Sequence[Verdict]) -> Iterator[RenderableType]:
    from holdfast.cli.listing import broken_lines
    from holdfast.cli.tables import marked, text
    from holdfast.engine.catalog import Broken

    for one in verdicts:
        if one.error is not None:
            yield broken_lines(Broken(one.name, one.error))
        else:
            yield marked("✓", "bold green", [text(f"{one.name}  {wording.size(one.size)}")])
    for damaged, like in dict.fromkeys(one.copy for one in verdicts if one.copy is not None):
        yield text(f"{like} is whole and has the same bytes: copied over {damaged}, it mends that.", "yellow")
    for file, names in _together(verdicts):
        yield text(f"{file} is one file on disk for {', '.join(names)}.", "dim")
    yield text(f"{_summary(verdicts)}.", "bold red" if _worst(verdicts) else "")
