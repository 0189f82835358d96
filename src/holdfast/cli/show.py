"""``holdfast show``: what one checkpoint holds."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.cli import arguments
from holdfast.errors import NotFoundError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from holdfast.cli.survey import Survey
    from holdfast.engine.catalog import Entry

Name = Annotated[
    str | None, typer.Argument(metavar="CHECKPOINT", help="One of the run's checkpoints; the newest by default.")
]
Options = Annotated[bool, typer.Option("--config", help="Show every option of the run's newest start, and its source.")]
Lineage = Annotated[bool, typer.Option("--lineage", help="Show where its state came from, attempt by attempt.")]
Tensors = Annotated[bool, typer.Option("--tensors", help="List every tensor.")]


@dataclass(frozen=True, slots=True)
class Part:
    """Something that was asked for: as lines for people, and for programs."""

    name: str
    lines: Iterable[RenderableType]
    record: Any


def show(
    run: arguments.RunOrCheckpoint, checkpoint: Name = None, tensors: Tensors = False, config: Options = False,
    lineage: Lineage = False, as_json: arguments.AsJson = False,
) -> None:  # fmt: skip
    """Show what a checkpoint holds: progress, metrics, configuration, items, files, where it was made."""
    from holdfast.cli.output import console, print_all, print_json
    from holdfast.cli.survey import survey

    place = arguments.place(run, checkpoint)
    found, name, target = survey(place.storage), place.name, console()
    parts = list[Part]()
    if tensors or not (config or lineage):
        parts.append(_contents(found, _chosen(found, name), target.width, tensors))
    if config:
        parts.append(_options(found, target.width))
    if lineage:
        parts.append(_line(found, _chosen(found, name)))
    if as_json:
        print_json(parts[0].record if len(parts) == 1 else {one.name: one.record for one in parts})
    else:
        print_all(target, *_below_each_other(parts))


def _below_each_other(parts: Iterable[Part]) -> Iterator[RenderableType]:
    for index, part in enumerate(parts):
        yield from ("",) if index else ()
        yield from part.lines


def _contents(found: Survey, entry: Entry, width: int, tensors: bool) -> Part:
    from holdfast.cli.records import details
    from holdfast.cli.sections import sections

    return Part("checkpoint", sections(entry, found, width, tensors), details(entry, found, tensors))


def _options(found: Survey, width: int) -> Part:
    from holdfast.cli.sections import options

    if not found.attempts:
        raise NotFoundError(f"{found.storage.root}: has no record of a start, so its options are not known.")
    newest = found.attempts[-1]
    return Part("config", options(newest, width), {"attempt": newest.attempt, "options": newest.options})


def _line(found: Survey, entry: Entry) -> Part:
    from holdfast.cli.lineage import lineage, page, records

    links = lineage(found.storage, entry)
    return Part("lineage", page(links), records(links))


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
    from holdfast.format.names import CheckpointName
    from holdfast.wording import printable

    shown = found.newest.manifest.name if found.newest is not None else None
    for broken in found.broken:
        name = CheckpointName.parse(broken.name)
        if shown is None or (name is not None and shown < name):
            print(f"holdfast: skipped a newer checkpoint: {printable(message_of(broken.error))}", file=sys.stderr)
