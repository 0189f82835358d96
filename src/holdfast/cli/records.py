"""Checkpoints as JSON objects, the same in every command."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import msgspec

from holdfast.cli.output import describe
from holdfast.cli.survey import Survey
from holdfast.engine.catalog import Broken, Entry, shard_files
from holdfast.errors import HoldfastError
from holdfast.format.dtypes import nbytes
from holdfast.format.names import CheckpointName
from holdfast.format.values import decode
from holdfast.types import ItemRecord, Json

SUMMARY = (
    "name", "path", "status", "resume", "abandoned", "foreign", "pinned", "run", "attempt", "ordinal",
    "progress", "created", "reason", "size", "shared", "whole", "metrics", "error",
)  # fmt: skip
"""The keys of a checkpoint in `holdfast ls --json`."""


def plain(value: Json) -> Any:
    """A tagged value as the value it is; as it is stored where that would need a type that is not at hand."""
    try:
        return decode(value)
    except HoldfastError:
        return value


def metrics(entry: Entry) -> dict[str, Json]:
    """The metrics as numbers; what JSON has no number for as text, such as ``"nan"``."""
    return {name: _number(value) for name, value in entry.manifest.metrics.items()}


def _number(value: Json) -> Json:
    found = plain(value)
    if isinstance(found, float):
        return found if math.isfinite(found) else str(found)
    return found if found is None or isinstance(found, int | str) else value


def summaries(survey: Survey) -> list[dict[str, Json]]:
    """One object for each checkpoint, broken ones included, oldest first."""
    found = [(one.name, summary(one, survey)) for one in survey.entries]
    found += [(one.name, _broken(one, survey)) for one in survey.broken]
    return [record for _, record in sorted(found, key=lambda pair: age_of(pair[0]))]


def age_of(name: str) -> CheckpointName:
    """What to sort names by, oldest first; those of copies that were renamed come before all."""
    return CheckpointName.parse(name) or CheckpointName("", 0, 0)


def summary(entry: Entry, survey: Survey) -> dict[str, Json]:
    """What a list shows of a checkpoint."""
    manifest = entry.manifest
    return {
        "name": entry.name,
        "path": f"{survey.storage.root}/{entry.name}",
        "status": "ok",
        "resume": entry.name == survey.resume,
        "abandoned": entry.name in survey.abandoned,
        "foreign": entry.name in survey.foreign,
        "pinned": entry.name in survey.pinned,
        "run": manifest.run,
        "attempt": manifest.attempt,
        "ordinal": manifest.ordinal,
        "progress": msgspec.to_builtins(manifest.progress),
        "created": manifest.created,
        "reason": list(manifest.reason),
        "size": entry.size,
        "shared": survey.shared_size(entry),
        "whole": entry.whole,
        "metrics": metrics(entry),
        "error": None,
    }


def _broken(broken: Broken, survey: Survey) -> dict[str, Json]:
    """The same keys, null where only an intact manifest could tell."""
    known = {
        "name": broken.name,
        "path": f"{survey.storage.root}/{broken.name}",
        "status": "broken",
        "resume": False,
        "abandoned": False,
        "foreign": False,
        "pinned": broken.name in survey.pinned,
        "error": describe(broken.error),
    }
    return dict.fromkeys(SUMMARY) | known


def details(entry: Entry, survey: Survey, with_tensors: bool) -> dict[str, Json]:
    """All that the manifest says; configuration and learning rates are tagged JSON (``docs/format.md``)."""
    manifest = entry.manifest
    return summary(entry, survey) | {
        "resume_elsewhere": asdict(survey.elsewhere) if survey.elsewhere is not None else None,
        "digest": manifest.digest,
        "format": manifest.format,
        "requires": list(manifest.requires),
        "parent": msgspec.to_builtins(manifest.parent),
        "origins": msgspec.to_builtins(manifest.origins),
        "intervals": msgspec.to_builtins(manifest.intervals),
        "config": manifest.config,
        "learning_rates": manifest.learning_rates,
        "items": {name: _item(name, item, with_tensors) for name, item in manifest.items.items()},
        "files": {name: _file(entry, name, survey) for name in shard_files(manifest)},
        "environment": manifest.environment,
        "attempts": [msgspec.to_builtins(one) for one in survey.attempts],
    }


def dtypes(item: ItemRecord) -> dict[str, int]:
    """How many tensors are stored in each dtype."""
    return dict(Counter(one.dtype for one in item.tensors.values()))


def item_size(item: ItemRecord) -> int:
    """The bytes of its tensors, each counted where it is stored."""
    return sum(nbytes(one.spec) for one in item.tensors.values())


def aliases(entry: Entry) -> Iterator[tuple[str, str]]:
    """Pairs of a name and the one under which the same memory is stored."""
    for name, item in entry.manifest.items.items():
        for alias, owner in item.aliases.items():
            yield f"{name}/{alias}", f"{owner.item}/{owner.tensor}"


def _item(name: str, item: ItemRecord, with_tensors: bool) -> dict[str, Json]:
    record: dict[str, Json] = {
        "kind": item.kind, "tensors": len(item.tensors), "size": item_size(item), "dtypes": dtypes(item),
        "aliases": {alias: f"{owner.item}/{owner.tensor}" for alias, owner in item.aliases.items()},
    }  # fmt: skip
    if with_tensors:
        record["tensor_list"] = [
            {
                "name": key, "dtype": one.dtype, "shape": list(one.shape), "size": nbytes(one.spec),
                "chunks": [msgspec.to_builtins(chunk) for chunk in one.chunks],
            }
            for key, one in item.tensors.items()
        ]  # fmt: skip
    return record


def _file(entry: Entry, name: str, survey: Survey) -> dict[str, Json]:
    record = shard_files(entry.manifest)[name]
    return {
        "size": record.size, "digest": record.digest, "blocks": len(record.blocks), "block_size": record.block_size,
        "shared_with": list(survey.shared.get(entry.name, {}).get(name, ())),
    }  # fmt: skip
