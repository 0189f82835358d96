"""The page that ``holdfast show`` prints, section by section."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from holdfast import wording
from holdfast.cli import records
from holdfast.cli.listing import LEGEND, STYLES, elsewhere, mark_of
from holdfast.cli.survey import Survey
from holdfast.cli.tables import Column, column, fitting, pairs, table, text
from holdfast.engine.catalog import Entry, shard_files
from holdfast.engine.run_folder import AttemptRecord
from holdfast.format.dtypes import nbytes
from holdfast.types import Alias, ItemRecord, Json, TensorRecord


def sections(entry: Entry, found: Survey, width: int, with_tensors: bool) -> Iterator[RenderableType]:
    """Everything about ``entry``; sections that would be empty are left out."""
    manifest = entry.manifest
    yield _heading(entry, found)
    yield ""
    yield pairs(_facts(entry, found))
    yield from _listed("metrics", [(name, wording.number(value)) for name, value in records.metrics(entry).items()])
    yield from _intervals(entry)
    yield from _listed("config", _flat(records.plain(manifest.config)))
    yield from _listed("learning rates", [(name, _rates(value)) for name, value in manifest.learning_rates.items()])
    yield from _tabled("items", _items(manifest.items), width)
    if with_tensors:
        yield from _tabled("tensors", _tensors(manifest.items), width)
    yield from _listed("aliases", [(alias, f"is {owner}") for alias, owner in records.aliases(entry)])
    yield from _tabled("files", _files(entry), width)
    yield from _listed("shared files", [(file, f"also in {', '.join(them)}") for file, them in _shared(entry, found)])
    yield from _listed("environment", _known(records.plain(manifest.environment)))
    yield from _tabled("attempts", _attempts(found), width)


def _heading(entry: Entry, found: Survey) -> Text:
    mark = mark_of(entry, found)
    note = f"\n{mark} {LEGEND[mark]}" if mark else ""
    return Text.assemble(text(entry.name, "bold"), (note, STYLES.get(mark, "")))


def _facts(entry: Entry, found: Survey) -> Iterator[tuple[str, object]]:
    manifest, progress = entry.manifest, entry.manifest.progress
    age = wording.age(manifest.created, datetime.now(UTC))
    yield "saved", f"{wording.clock(manifest.created)} ({age}), {', '.join(manifest.reason) or 'no reason given'}"
    counts = [f"epoch {progress.epoch}", f"batch {progress.batch}", f"step {progress.step:,}"]
    counts += [f"{progress.samples:,} samples"] if progress.samples else []
    counts += [f"{progress.tokens:,} tokens"] if progress.tokens else []
    yield "progress", " · ".join((*counts, f"trained for {wording.duration(progress.elapsed)}"))
    if entry.name in found.pinned:
        yield "pinned", "stays whatever the keep policy says, until it is unpinned"
    if found.elsewhere is not None:
        yield "resume", elsewhere(found.elsewhere)
    yield "run", f"{manifest.run} · attempt {manifest.attempt}, save {manifest.ordinal}"
    yield "parent", manifest.parent.name if manifest.parent is not None else "none"
    for origin in manifest.origins:
        yield "began from", f"{origin.name} of run {origin.run} ({', '.join(origin.items)})"
    together = found.shared_size(entry)
    also = f", {wording.size(together)} of it together with other checkpoints" if together else ""
    yield "size", f"{wording.size(entry.size)} in {wording.count(len(shard_files(manifest)) + 1, 'file')}{also}"
    yield "manifest", f"format {manifest.format} · {manifest.digest}"


def _intervals(entry: Entry) -> Iterator[RenderableType]:
    """What savers had chosen by what they measured, each with its policy below, over the whole width."""
    for index, one in enumerate(entry.manifest.intervals):
        yield _title("intervals") if index == 0 else ""
        yield text(f"every {wording.duration(one.seconds)}: {one.because}")
        yield text(f"chosen by {one.policy}", "dim")


def options(attempt: AttemptRecord, width: int) -> Iterator[RenderableType]:
    """Every option of an attempt, with who says so."""
    rows = attempt.options.items()
    yield text(f"attempt {attempt.attempt}, started {wording.clock(attempt.started)}", "bold")
    yield from _tabled("options", [
        column("option", [name for name, _ in rows]),
        column("value", [one.get("value", "") for _, one in rows], elastic="fold"),
        column("says", [one.get("source", "") for _, one in rows]),
    ], width)  # fmt: skip


def _title(name: str) -> Text:
    return Text(f"\n{name}", style="bold")


def _listed(title: str, rows: Iterable[tuple[str, object]]) -> Iterator[RenderableType]:
    found = list(rows)
    if found:
        yield _title(title)
        yield pairs(found)


def _tabled(title: str, columns: list[Column], width: int) -> Iterator[RenderableType]:
    if columns and columns[0].cells:
        yield _title(title)
        yield table(fitting(columns, width)[0], width)


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Nested dicts as lines, ``optimizer.betas``; everything else as Python would write it."""
    if isinstance(value, dict) and value:
        for key, part in value.items():
            yield from _flat(part, f"{path}.{key}" if path else str(key))
    elif value is not None or path:
        yield path, value if isinstance(value, str) else repr(value)


def _known(environment: Any) -> Iterator[tuple[str, str]]:
    if isinstance(environment, dict):
        yield from _flat({name: value for name, value in environment.items() if value is not None})


def _rates(value: Json) -> str:
    rates = records.plain(value)
    return ", ".join(map(wording.number, rates)) if isinstance(rates, list) else wording.number(rates)


def _items(items: dict[str, ItemRecord]) -> list[Column]:
    rows = items.items()
    return [
        column("item", [name for name, _ in rows], elastic="fold"),
        column("kind", [one.kind for _, one in rows], rank=2),
        column("tensors", [f"{len(one.tensors):,}" for _, one in rows], right=True),
        column("bytes", [wording.size(records.item_size(one)) if one.tensors else "" for _, one in rows], right=True),
        column("dtypes", [_dtypes(one) for _, one in rows], rank=1, elastic="ellipsis"),
    ]


def _dtypes(item: ItemRecord) -> str:
    found = records.dtypes(item)
    if len(found) == 1:
        return next(iter(found))
    return ", ".join(f"{count:,} {name}" for name, count in sorted(found.items(), key=lambda pair: -pair[1]))


def _tensors(items: dict[str, ItemRecord]) -> list[Column]:
    rows = [(f"{name}/{key}", one) for name, item in items.items() for key, one in _leaves(item)]
    return [
        column("tensor", [name for name, _ in rows], elastic="fold"),
        column("dtype", [one.dtype if isinstance(one, TensorRecord) else "" for _, one in rows]),
        column("shape", [_shape(one) for _, one in rows], rank=1),
        column("bytes", [_bytes(one) for _, one in rows], right=True, rank=2),
        column("file", [_file(one) for _, one in rows], rank=3),
    ]


def _leaves(item: ItemRecord) -> Iterator[tuple[str, TensorRecord | Alias]]:
    yield from item.tensors.items()
    yield from item.aliases.items()


def _shape(leaf: TensorRecord | Alias) -> str:
    if isinstance(leaf, Alias):
        return f"is {leaf.item}/{leaf.tensor}"
    return " × ".join(map(str, leaf.shape)) or "scalar"


def _bytes(leaf: TensorRecord | Alias) -> str:
    return wording.size(nbytes(leaf.spec)) if isinstance(leaf, TensorRecord) else ""


def _file(leaf: TensorRecord | Alias) -> str:
    if isinstance(leaf, Alias):
        return ""
    return ", ".join(dict.fromkeys(chunk.file for chunk in leaf.chunks))


def _files(entry: Entry) -> list[Column]:
    rows = shard_files(entry.manifest).items()
    return [
        column("file", [name for name, _ in rows]),
        column("size", [wording.size(one.size) for _, one in rows], right=True),
        column("blocks", [f"{len(one.blocks):,}" for _, one in rows], right=True, rank=1),
        column("digest", [one.digest for _, one in rows], elastic="ellipsis"),
    ]


def _shared(entry: Entry, found: Survey) -> Iterable[tuple[str, list[str]]]:
    """Files that are the same ones on disk as those of other checkpoints, and of which."""
    return found.shared.get(entry.name, {}).items()


def _attempts(found: Survey) -> list[Column]:
    rows = found.attempts
    return [
        column("attempt", [one.attempt for one in rows], right=True),
        column("started", [wording.clock(one.started) for one in rows]),
        column("host", [one.host for one in rows], rank=1),
        column("pid", [one.pid for one in rows], right=True, rank=2),
        column("from", [_origin(one) for one in rows]),
    ]


def _origin(attempt: AttemptRecord) -> str:
    """Where an attempt began: at a checkpoint of its own run, or of others, or afresh."""
    if attempt.resumed_from is not None:
        return f"{attempt.resumed_from}{' (a rollback)' if attempt.rollback else ''}"
    others = ", ".join(f"{one.name} of run {one.run}" for one in attempt.origins)
    return others or "a fresh start"
