"""MemoryStorage keeps the contract of every storage."""

from __future__ import annotations

import pytest

from holdfast.storage.memory import MemoryStorage
from holdfast.testing.storage_conformance import StorageConformance


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
