"""MemoryStorage keeps the contract of every storage."""

from __future__ import annotations

import pytest

from holdfast.errors import StorageError
from holdfast.storage.memory import MemoryStorage
from holdfast.testing.storage_conformance import NAME, StorageConformance


class TestMemoryStorage(StorageConformance):
    @pytest.fixture
    def storage(self) -> MemoryStorage:
        return MemoryStorage("test")

    def raw_read(self, storage: MemoryStorage, path: str) -> bytes:
        return storage.files[path]

    def raw_write(self, storage: MemoryStorage, path: str, data: bytes) -> None:
        storage.files[path] = data

    def raw_names(self, storage: MemoryStorage) -> set[str]:
        return {path.split("/")[0] for path in storage.files} | storage.folders


def test_its_url_names_it() -> None:
    """Messages can tell two memory storages apart."""
    assert MemoryStorage("a").url == "memory://a"


def test_a_manifest_that_changed_on_the_way_is_not_committed(monkeypatch: pytest.MonkeyPatch) -> None:
    """With ``read_back`` the commit compares what is kept, and otherwise it does not."""
    storage = MemoryStorage()
    original = storage.create
    monkeypatch.setattr(storage, "create", lambda path, data: original(path, b"[]"))
    with pytest.raises(StorageError, match=r"manifest\.json holds other bytes"):
        storage.begin(NAME, "1").commit(b"{}", read_back=True)
    storage.begin(NAME, "2").commit(b"{}")
    assert storage.files[f"{NAME}/manifest.json"] == b"[]"


def test_what_is_free_is_not_known() -> None:
    """Nobody says how much memory may still be filled."""
    assert MemoryStorage().free() is None
