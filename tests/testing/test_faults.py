"""FaultyStorage is a storage, and strikes when it is told to."""

from __future__ import annotations

import errno
import os
import threading

import pytest

from holdfast.errors import StorageError
from holdfast.storage.memory import MemoryStorage
from holdfast.testing.faults import Fail, FaultyStorage, FlipBit, Hang, ShortWrite, failing_call
from holdfast.testing.storage_conformance import NAME, StorageConformance, blocks, read_back, written


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


def test_a_short_write_shows_when_it_is_read_back() -> None:
    """Neither the storage inside nor its commit knows of the bytes that were held back; a reader gets none of them."""
    storage = FaultyStorage(MemoryStorage(), ShortWrite(verb="write", keep=2))
    attempt = written(storage, b"12345")
    assert read_back(attempt) == b"12"
    attempt.commit(b"{}", read_back=True)


def test_a_flipped_bit_says_nothing() -> None:
    """On the way to the medium, which then holds it, or only on the way back."""
    storage = FaultyStorage(
        MemoryStorage(), FlipBit(verb="write", bit=9), FlipBit(verb="read_back", call=2, bit=0), FlipBit(verb="sync")
    )
    attempt = storage.begin(NAME, "1")
    attempt.write("x", blocks(b"\0\0", b"\0"), 3)
    for held in (b"\0\2\0", b"\1\2\0"):
        assert b"".join(attempt.read_back("x", block_size=4096)) == held
    attempt.commit(b"{}")
    assert storage.read(f"{NAME}/x", limit=9) == b"\0\2\0"


@pytest.mark.parametrize(("bit", "seen"), [(0, b"023"), (9, b"103"), (23, b"12\xb3"), (24, b"123")])
def test_a_bit_after_the_end_is_none(bit: int, seen: bytes) -> None:
    """Bits count from the beginning of the file; the last one flips, and the one after it does not."""
    storage = FaultyStorage(MemoryStorage(), FlipBit(verb="read_back", bit=bit))
    assert read_back(written(storage, b"123")) == seen


def test_a_bit_in_a_later_block_is_flipped() -> None:
    """Bits count from the beginning of the file, whatever the blocks."""
    storage = FaultyStorage(MemoryStorage(), FlipBit(verb="read_back", bit=8 * 5000))
    assert read_back(written(storage, bytes(10_000))) == bytes(5000) + b"\1" + bytes(4999)


def test_a_flipped_bit_leaves_the_writer_its_bytes() -> None:
    """What is flipped on the way to the medium is a copy: another try with the same bytes writes the right ones."""
    data = bytearray(b"123")
    storage = FaultyStorage(MemoryStorage(), FlipBit(verb="write"))
    for try_id, kept in (("1", b"023"), ("2", b"123")):
        attempt = storage.begin(NAME, try_id)
        attempt.write("x", [memoryview(data)], 3)
        assert read_back(attempt) == kept


def test_two_flips_in_one_call_add_up() -> None:
    """Faults that strike together all have their effect."""
    flips = [FlipBit(verb="read_back", bit=bit) for bit in (0, 1)]
    assert read_back(written(FaultyStorage(MemoryStorage(), *flips), b"0")) == b"3"


def test_a_commit_is_asked_to_read_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """The storage inside compares its manifest when it is told to."""
    inner = MemoryStorage()
    original = inner.create
    monkeypatch.setattr(inner, "create", lambda path, data: original(path, b"[]"))
    storage = FaultyStorage(inner)
    with pytest.raises(StorageError, match="other bytes"):
        storage.begin(NAME, "1").commit(b"{}", read_back=True)
    storage.begin(NAME, "2").commit(b"{}")


def test_a_medium_can_fail_to_be_read() -> None:
    """The verb is counted like the others, once it is asked for its first block."""
    storage = FaultyStorage(MemoryStorage(), Fail(verb="read_back", call=2))
    attempt = written(storage, b"123")
    assert read_back(attempt) == b"123"
    with pytest.raises(StorageError, match="cannot read_back") as caught:
        read_back(attempt)
    assert caught.value.errno == errno.EIO
    assert storage.calls["read_back"] == 2


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
