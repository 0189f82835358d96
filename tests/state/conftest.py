"""A checkpoint in memory: what an engine does between `capture` and `apply`, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from holdfast.format.dtypes import nbytes
from holdfast.state.adapt import adapt
from holdfast.state.item import Captured, Restore
from holdfast.types import Alias, Chunk, ItemRecord, TensorRecord


@dataclass
class Saved:
    record: ItemRecord
    data: dict[str, bytes]


def save(obj: Any, name: str = "item") -> Saved:
    return store(adapt(name, obj).capture(), name)


def store(captured: Captured, name: str = "item") -> Saved:
    seen: dict[Any, str] = {}
    tensors: dict[str, TensorRecord] = {}
    aliases: dict[str, Alias] = {}
    data: dict[str, bytes] = {}
    for key, source in captured.tensors.items():
        if source.identity is not None and source.identity in seen:
            aliases[key] = Alias(name, seen[source.identity])
            continue
        seen[source.identity] = key
        size, shape = nbytes(source.spec), source.spec.shape
        buffer = bytearray(size)
        source.copy_into(memoryview(buffer))
        data[key] = bytes(buffer)
        chunk = Chunk(file="f", offsets=(0,) * len(shape), sizes=shape, begin=0, end=size)
        tensors[key] = TensorRecord(dtype=source.spec.dtype, shape=shape, chunks=(chunk,))
    tree, metadata = msgspec.json.decode(msgspec.json.encode([captured.tree, captured.metadata]))
    record = ItemRecord(kind=captured.kind, tree=tree, tensors=tensors, aliases=aliases, metadata=metadata)
    return Saved(record, data)


def fill(restore: Restore, saved: Saved) -> None:
    for key, target in restore.targets.items():
        alias = saved.record.aliases.get(key)
        data = saved.data[alias.tensor if alias else key]
        buffer = target.buffer()
        assert buffer.nbytes == len(data)
        buffer[:] = data
    for target in restore.targets.values():
        target.finish()


def load(obj: Any, saved: Saved, name: str = "item", **options: bool) -> Restore:
    restore = adapt(name, obj).prepare(saved.record, **options)
    fill(restore, saved)
    restore.apply()
    return restore


@pytest.fixture(name="save")
def _save() -> Callable[..., Saved]:
    return save


@pytest.fixture(name="load")
def _load() -> Callable[..., Restore]:
    return load


@pytest.fixture(name="store")
def _store() -> Callable[..., Saved]:
    return store


@pytest.fixture(name="fill")
def _fill() -> Callable[..., None]:
    return fill
