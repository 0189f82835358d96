"""``holdfast show``: what one checkpoint holds."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.cli import arguments
from holdfast.errors import NotFoundError, UsageError

if TYPE_CHECKING:
    from holdfast.cli.survey import Survey
    from holdfast.engine.catalog import Entry

Name = Annotated[
    str | None, typer.Argument(metavar="CHECKPOINT", help="One of the run's checkpoints; the newest by default.")
]
Options = Annotated[bool, typer.Option("--config", help="Show every option of the run's newest start, and its source.")]
Lineage = Annotated[bool, typer.Option("--lineage", help="Show where its state came from, attempt by attempt.")]
Tensors = Annotated[bool, typer.Option("--tensors", help="List every tensor.")]


def show(
    run: arguments.RunOrCheckpoint, checkpoint: Name = None, tensors: Tensors = False, config: Options = False,
    lineage: Lineage = False, as_json: arguments.AsJson = False,
) -> None:  # fmt: skip
    """Show what a checkpoint holds: progress, metrics, configuration, items, files, where it was made."""
    from holdfast.cli.output import console, print_all, print_json
    from holdfast.cli.records import details
    from holdfast.cli.sections import sections
    from holdfast.cli.survey import survey
    from holdfast.engine.place import find

    place = find(run)
    if place.name is not None and checkpoint is not None:
        raise UsageError(f"{run}: is a checkpoint already; leave out {checkpoint!r}.")
    found = survey(place.storage)
    if config:
        _show_options(found, as_json)
        return
    entry = _chosen(found, place.name or checkpoint)
    if lineage:
        _show_lineage(found, entry, as_json)
        return
    if as_json:
        print_json(details(entry, found, tensors))
        return
    target = console()
    print_all(target, *sections(entry, found, target.width, tensors))


def _show_options(found: Survey, as_json: bool) -> None:
    from holdfast.cli.output import console, print_all, print_json
    from holdfast.cli.sections import options

    if not found.attempts:
        raise NotFoundError(f"{found.storage.root}: has no record of a start, so its options are not known.")
    newest = found.attempts[-1]
    if as_json:
        print_json({"attempt": newest.attempt, "options": newest.options})
        return
    target = console()
    print_all(target, *options(newest, target.width))


def _show_lineage(found: Survey, entry: Entry, as_json: bool) -> None:
    from holdfast.cli.lineage import lineage, page, records
    from holdfast.cli.output import console, print_all, print_json

    links = lineage(found.storage, entry)
    if as_json:
        print_json(records(links))
    else:
        print_all(console(), *page(links))


def _chosen(found: Survey, name: str | None) -> Entry:
    from holdfast.engine.place import reopen

    if name is not None:
        return reopen(found.storage, name)
    _warn_of_newer(found)
    if found.newest is None:
        raise NotFoundError(f"{found.storage.root}: has no checkpoint that can be shown yet.")
    return found.newest


def _warn_of_newer(found: Survey) -> None:
    """Broken checkpoints that are newer than the one shown."""
    from holdfast.cli.output import message_of
    from holdfast.cli.wording import printable
    from holdfast.format.names import CheckpointName

    shown = found.newest.manifest.name if found.newest is not None else None
    for broken in found.broken:
        name = CheckpointName.parse(broken.name)
        if shown is None or (name is not None and shown < name):
            print(f"holdfast: skipped a newer checkpoint: {printable(message_of(broken.error))}", file=sys.stderr)
