"""The checkpoints of one snapshot as they are handed to the engine: what each holds, and what it says of itself."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from holdfast.engine.catalog import Entry
from holdfast.engine.checkpointer import ItemDraft
from holdfast.engine.plan import Contents
from holdfast.format.dtypes import nbytes
from holdfast.format.manifest import Interval, Manifest, Origin, Parent
from holdfast.format.names import unhashed
from holdfast.format.values import encode
from holdfast.policies.keep import Kept, described
from holdfast.policies.written import written
from holdfast.run.environment import describe_environment
from holdfast.run.name_template import Naming
from holdfast.run.schedule import Schedule
from holdfast.types import Json, Progress

Firing = Sequence[tuple[Schedule, tuple[str, ...]]]
"""The savers that take part in a snapshot, each with its reasons."""


@dataclass(frozen=True, slots=True)
class Content:
    """What the checkpoints of one snapshot hold together."""

    items: Mapping[str, ItemDraft]
    progress: Progress
    metrics: Mapping[str, float]
    rates: dict[str, list[float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What all checkpoints of one attempt have in common."""

    run: str
    attempt: int
    config: Json = None
    origins: tuple[Origin, ...] = ()


def reasons_of(firing: Firing) -> tuple[str, ...]:
    """Why a checkpoint for these savers is made, each reason once."""
    return tuple(dict.fromkeys(reason for _, reasons in firing for reason in reasons))


def make_manifest(
    identity: Identity, firing: Firing, content: Content, ordinal: int, created: datetime, parent: Parent | None
) -> Manifest:
    """All that is known of a checkpoint before its items and files are."""
    naming = Naming(
        progress=content.progress, metrics=content.metrics, attempt=identity.attempt, ordinal=ordinal,
        created=created, run=identity.run,
    )  # fmt: skip
    template = next((one.saver.name for one, _ in firing if one.saver.name is not None), None)
    return Manifest(
        run=identity.run, attempt=identity.attempt, ordinal=ordinal, try_id=os.urandom(6).hex(),
        label="" if template is None else template.label(naming), parent=parent, origins=identity.origins,
        savers=tuple(dict.fromkeys(one.identity for one, _ in firing)), intervals=_intervals(firing),
        created=created.isoformat(), reason=reasons_of(firing), progress=content.progress,
        metrics=_tagged(content.metrics), config=identity.config, learning_rates=content.rates,
        environment=describe_environment(),
    )  # fmt: skip


def coming(manifest: Manifest, contents: Contents, whole: bool, content: Content) -> Kept:
    """The checkpoint to be committed, as a keep policy will see it."""
    items = frozenset(name for name in content.items if contents.takes(name))
    seen = described(Entry(unhashed(str(manifest.name)), manifest, size_of(content.items, contents)))
    return msgspec.structs.replace(seen, items=items, whole=whole)


def size_of(items: Mapping[str, ItemDraft], contents: Contents) -> int:
    """Bytes of the tensors that belong into a checkpoint, those that share their memory counted once."""
    unique: dict[Any, int] = {}
    for name, item in items.items():
        if contents.takes(name):
            left = set(contents.left_out(name, item.sources))
            for source in (one for key, one in item.sources.items() if key not in left):
                unique[id(source) if source.identity is None else source.identity] = nbytes(source.spec)
    return sum(unique.values())


def _intervals(firing: Firing) -> tuple[Interval, ...]:
    return tuple(
        Interval(policy=written(schedule.saver.save), seconds=one.seconds, because=one.because)
        for schedule, _ in firing
        for one in schedule.chosen.values()
    )


def _tagged(metrics: Mapping[str, float]) -> dict[str, Any]:
    return {name: encode(value, f"metrics/{name}") for name, value in metrics.items()}
