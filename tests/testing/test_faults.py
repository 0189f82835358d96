"""FaultyStorage is a storage, and strikes when it is told to."""

from __future__ import annotations

import errno
import os
import threading

import pytest

from holdfast.errors import StorageError
from holdfast.storage.memory import MemoryStorage
from holdfast.testing.faults import Fail, FaultyStorage, Hang, ShortWrite, failing_call
from holdfast.testing.storage_conformance import NAME, StorageConformance, blocks


class TestFaultyStorageWithoutFaults(StorageConformance):
    @pytest.fixture
    def storage(self) -> FaultyStorage:
        self.inner = MemoryStorage()
        return FaultyStorage(self.inner)

    def raw_read(self, storage: FaultyStorage, path: str) -> bytes:
        return self.inner.files[path]

    def raw_write(self, storage: FaultyStorage, path: str, data: bytes) -> None:
        self.inner.files[path] = data

    def raw_names(self, storage: FaultyStorage) -> set[str]:
        return {path.split("/")[0] for path in self.inner.files} | self.inner.folders


def test_the_nth_call_fails() -> None:
    """Calls are counted by verb, from 1, and the others pass."""
    storage = FaultyStorage(MemoryStorage(), Fail(verb="write", call=2, times=2, error=errno.ENOSPC))
    storage.begin(NAME, "1").write("x", blocks(b"1"), 1)
    for try_id in ("2", "3"):
        with pytest.raises(StorageError, match="free some space") as caught:
            storage.begin(NAME, try_id).write("x", blocks(b"1"), 1)
        assert caught.value.errno == errno.ENOSPC
    storage.begin(NAME, "4").write("x", blocks(b"1"), 1)
    assert storage.calls["write"] == 4


def test_a_lost_reply_has_had_its_effect() -> None:
    """The commit stands, and its caller is told that it failed."""
    storage = FaultyStorage(MemoryStorage(), Fail(verb="commit", lost_reply=True))
    with pytest.raises(StorageError):
        storage.begin(NAME, "1").commit(b"{}")
    assert storage.list() == [NAME]


def test_a_short_write_says_nothing() -> None:
    """The file holds less than its caller believes."""
    storage = FaultyStorage(MemoryStorage(), ShortWrite(verb="write", keep=2), ShortWrite(verb="extend", keep=1))
    attempt = storage.begin(NAME, "1")
    attempt.write("x", blocks(b"12345"), 5)
    attempt.commit(b"{}")
    journal = storage.append("journal")
    journal.write(b"line\n")
    assert storage.read(f"{NAME}/x", limit=9) == b"12"
    assert storage.read("journal", limit=9) == b"l"


def test_a_hang_lasts_until_it_is_over() -> None:
    """The call does not return before the event is set, and has its effect then."""
    over = threading.Event()
    storage = FaultyStorage(MemoryStorage(), Hang(verb="create", over=over))
    thread = threading.Thread(target=storage.create, args=("x", b"1"))
    thread.start()
    assert storage.list() == []
    over.set()
    thread.join()
    assert storage.list() == ["x"]


def test_a_failing_system_call_is_put_back() -> None:
    """Outside the block the call is the system's own again."""
    original = os.fsync
    with failing_call("fsync", call=2) as calls, open(os.devnull) as file:
        with pytest.raises(OSError, match="Invalid argument"):
            os.fsync(file.fileno())
        with pytest.raises(OSError, match="Input/output error"):
            os.fsync(file.fileno())
    assert os.fsync is original
    assert calls["fsync"] == 2
