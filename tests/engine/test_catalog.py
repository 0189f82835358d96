"""What a run folder holds, listed again and again."""

from __future__ import annotations

import pytest

from holdfast.engine.catalog import Catalog
from holdfast.format.manifest import Manifest, seal
from holdfast.storage.memory import MemoryStorage
from holdfast.types import ItemRecord, TensorRecord


class Counting(MemoryStorage):
    """Remembers which files were read."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[str] = []

    def read(self, path: str, *, limit: int) -> bytes:
        self.reads.append(path)
        return super().read(path, limit=limit)


def committed(storage: MemoryStorage, ordinal: int) -> str:
    empty = TensorRecord(dtype="int8", shape=(0,), chunks=())
    item = ItemRecord(kind="module", tree={"weight": {"$tensor": "weight"}}, tensors={"weight": empty})
    manifest = Manifest(run="r", attempt=1, ordinal=ordinal, try_id="t", created="", items={"model": item})
    attempt = storage.begin(str(manifest.name), str(ordinal))
    attempt.commit(seal(manifest))
    return str(manifest.name)


@pytest.mark.parametrize("outlines", [False, True])
def test_each_manifest_is_read_once(outlines: bool) -> None:
    """However often it is listed: what was committed never changes."""
    storage = Counting()
    catalog = Catalog(storage, outlines)
    names = [committed(storage, 1)]
    catalog.list()
    names.append(committed(storage, 2))
    assert [one.name for one in catalog.list().entries] == names
    assert storage.reads == [f"{name}/manifest.json" for name in names]


def test_what_is_gone_is_forgotten() -> None:
    """A run that saves for weeks holds no manifest of a checkpoint that was deleted long ago, and takes none for it."""
    storage = Counting()
    catalog = Catalog(storage)
    name = committed(storage, 1)
    catalog.list()
    storage.delete(name)
    assert catalog.list().entries == ()
    committed(storage, 1)
    catalog.list()
    assert len(storage.reads) == 2


def test_outlines_hold_no_tensors() -> None:
    """Who only decides what stays holds in memory no record of any tensor."""
    storage = Counting()
    name = committed(storage, 1)
    assert Catalog(storage).entry(name).manifest.items["model"].tensors
    assert Catalog(storage, outlines=True).entry(name).manifest.items["model"] == ItemRecord(kind="module", tree=None)
