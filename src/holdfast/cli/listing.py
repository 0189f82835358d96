"""The page that ``holdfast ls`` prints, and the marks that checkpoints bear on every page."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from rich.console import RenderableType
from rich.text import Text

from holdfast import wording
from holdfast.cli import records
from holdfast.cli.output import message_of
from holdfast.cli.survey import Elsewhere, Survey
from holdfast.cli.tables import Column, column, fitting, marked, table, text
from holdfast.engine.catalog import Broken, Entry

RESUME, ABANDONED, FOREIGN, DAMAGED, FUTILE, PARTIAL, BROKEN = "→", "⊘", "≠", "⚠", "↺", "◐", "✗"
LEGEND = {
    RESUME: "a resume tries this one first",
    ABANDONED: "left behind by a rollback",
    FOREIGN: "written by another run",
    DAMAGED: "found to be corrupt by a resume",
    FUTILE: "its error came again after a resume",
    PARTIAL: "holds only parts of the state: to load from, not to resume from",
}
STYLES = {RESUME: "bold green", ABANDONED: "dim", FOREIGN: "dim", DAMAGED: "red", FUTILE: "yellow", BROKEN: "bold red"}
_NAMED = 4
"""Columns without room that are called by their names."""


def page(found: Survey, width: int) -> Iterator[RenderableType]:
    """What there is, in ``width`` columns of text; what is broken comes last, with its reason."""
    yield _heading(found)
    if found.entries:
        shown, left_out = fitting(_columns(found, datetime.now(UTC)), width)
        yield ""
        yield table(shown, width)
        yield from _legend(found)
        if left_out:
            yield Text(f"No room for {_some(left_out)}: widen the terminal, or use --json.", style="dim")
    if found.elsewhere is not None:
        yield ""
        yield Text.assemble((RESUME, STYLES[RESUME]), text(f" a resume {elsewhere(found.elsewhere)}"), overflow="fold")
    for broken in found.broken:
        yield ""
        yield broken_lines(broken)


def mark_of(entry: Entry, found: Survey) -> str:
    """The sign in front of a checkpoint's name: the first that fits."""
    signs = {
        RESUME: entry.name == found.resume,
        ABANDONED: entry.name in found.abandoned,
        FOREIGN: entry.name in found.foreign,
        DAMAGED: entry.name in found.damaged,
        FUTILE: entry.name in found.futile,
        PARTIAL: not entry.whole,
    }
    return next((sign for sign, fits in signs.items() if fits), "")


def elsewhere(place: Elsewhere) -> str:
    """Where a resume continues, in another folder of the run."""
    return f"continues from {place.name} in {_shown(place.folder)}"


def broken_lines(broken: Broken) -> RenderableType:
    """A checkpoint that is none, and why."""
    message = message_of(broken.error)
    reason = message.removeprefix(broken.name).lstrip(":/ ") if message.startswith(broken.name) else message
    return marked(BROKEN, STYLES[BROKEN], [text(broken.name, "red"), reason])


def _heading(found: Survey) -> Text:
    total = sum(one.size for one in found.entries)
    words = wording.count(len(found.entries), "checkpoint") if found.entries else "no checkpoint"
    words += f", {wording.size(total)}" if total else ""
    words += f" ({wording.size(found.on_disk)} on disk, as they share files)" if found.on_disk < total else ""
    words += f" · {wording.count(len(found.attempts), 'attempt')}" if found.attempts else ""
    return Text.assemble(text(_shown(found.storage.root), "bold"), f"\n{words}", overflow="fold")


def _shown(folder: str) -> str:
    """The path as one would type it here."""
    try:
        here = os.getcwd()
    except OSError:  # the shell stands in a folder that is gone
        return folder
    return os.path.relpath(folder, here) if folder.startswith(here + os.sep) else folder


def _columns(found: Survey, now: datetime) -> list[Column]:
    entries = found.entries
    progress = [one.manifest.progress for one in entries]
    return [
        column("  checkpoint", [_named(one, found) for one in entries]),
        column("epoch", [one.epoch for one in progress], right=True, rank=1),
        column("batch", [one.batch for one in progress], right=True, rank=3),
        column("step", [f"{one.step:,}" for one in progress], right=True, rank=6),
        column("saved", [wording.age(one.manifest.created, now) for one in entries]),
        column("why", [", ".join(one.manifest.reason) for one in entries], rank=5),
        *_pinned_column(found),
        *_contents_columns(entries),
        column("size", [wording.size(one.size) for one in entries], right=True, rank=2),
        *_metric_columns(entries),
    ]


def _named(entry: Entry, found: Survey) -> Text:
    mark = mark_of(entry, found)
    return text(f"{mark or ' '} {entry.name}", STYLES.get(mark, ""))


def _pinned_column(found: Survey) -> Iterator[Column]:
    cells = ["pinned" if one.name in found.pinned else "" for one in found.entries]
    if any(cells):
        yield column("stays", cells, rank=1)


def _contents_columns(entries: Sequence[Entry]) -> Iterator[Column]:
    """What is in checkpoints that hold only parts of the state, if there are any."""
    if not all(one.whole for one in entries):
        yield column("holds", ["" if one.whole else ", ".join(one.manifest.items) for one in entries], rank=4)


def _metric_columns(entries: Sequence[Entry]) -> Iterator[Column]:
    """One for each metric, those of the newest checkpoint first; all but the first are the first to go."""
    rows = [records.metrics(one) for one in entries]
    names = dict.fromkeys(name for row in reversed(rows) for name in row)
    for index, name in enumerate(names):
        cells = [wording.number(row[name]) if name in row else "" for row in rows]
        yield column(name, cells, right=True, rank=4 if index == 0 else 9 + index)


def _legend(found: Survey) -> Iterator[RenderableType]:
    """What the signs mean that are used, one below the other."""
    used = {mark_of(one, found) for one in found.entries}
    lines = [
        Text.assemble((mark, STYLES.get(mark, "")), (f" {words}", "dim"))
        for mark, words in LEGEND.items()
        if mark in used
    ]
    if lines:
        yield ""
        yield from lines


def _some(names: list[str]) -> str:
    if len(names) <= _NAMED:
        return ", ".join(names)
    return f"{', '.join(names[:_NAMED])} and {len(names) - _NAMED} more"
