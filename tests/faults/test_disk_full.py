"""The disk fills up while a checkpoint is written."""

from __future__ import annotations

import errno
import mmap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from holdfast.engine.messages import CommitRequest, Failed, ShardRequest
from holdfast.engine.persist import Shards
from holdfast.errors import StorageError
from holdfast.format.manifest import Manifest
from holdfast.storage.local import LocalStorage, LocalTry
from holdfast.storage.locks import RecordLock
from holdfast.testing.storage_conformance import NAME, blocks
from tests.harness.persisting import persist

SIZE = 2 << 20


@pytest.fixture
def storage(small_disk: Path) -> LocalStorage:
    storage = LocalStorage(small_disk / "run")
    storage.prepare()
    return storage


def commit_small(storage: LocalStorage, name: str) -> None:
    attempt = storage.begin(name, "small")
    attempt.write("x", blocks(b"x"), 1)
    attempt.commit(b"{}")


@pytest.mark.parametrize("source", ["bytes", "aligned"])
def test_a_save_fails_whole_and_earlier_checkpoints_stay(storage: LocalStorage, source: str) -> None:
    """ENOSPC is loud and says what to do; the next save works once the failed one is gone."""
    commit_small(storage, "earlier")
    data = memoryview(mmap.mmap(-1, SIZE)) if source == "aligned" else memoryview(bytes(SIZE))
    attempt = storage.begin(NAME, "large")
    with pytest.raises(StorageError, match="free some space") as caught:
        attempt.write("x", (data[i : i + 65536] for i in range(0, SIZE, 65536)), SIZE)
    assert caught.value.errno == errno.ENOSPC
    attempt.abandon()
    assert storage.list() == ["earlier"]
    assert storage.read("earlier/x", limit=1) == b"x"
    commit_small(storage, NAME)
    assert storage.list() == ["earlier", NAME]


def test_it_is_known_before_the_first_byte(small_disk: Path) -> None:
    """Also where only the last file does not fit: nothing was written in vain, and nothing is left."""
    written: list[str] = []

    class Watched(LocalTry):
        def write(self, file: str, *arguments: Any) -> None:
            written.append(file)

    storage = LocalStorage(small_disk / "run")
    begin = storage.begin
    storage.begin = lambda *arguments: Watched(begin(*arguments).folder, "")  # type: ignore[method-assign]
    manifest = Manifest(run="7f3a", attempt=1, ordinal=1, try_id="t", created="2026-11-26T00:00:00Z")
    commit = CommitRequest(folder=storage.root, files=("small", "large"), manifest=manifest)
    shards = Shards([ShardRequest("small", 0, 1, 4096), ShardRequest("large", 0, SIZE, SIZE)], memoryview(bytes(SIZE)))
    outcome = persist(storage, commit, shards, [])
    assert isinstance(outcome, Failed)
    assert "reserve room for" in outcome.message
    assert "free some space" in outcome.message
    assert written == []
    assert storage.list() == []


def test_no_half_written_record_takes_a_name(storage: LocalStorage) -> None:
    """A file that could not be created whole is not there, and nothing else is left of it."""
    with pytest.raises(StorageError, match="free some space"):
        storage.create("attempts/0001.json", bytes(SIZE))
    assert storage.list() == ["attempts"]
    assert storage.list_files("attempts") == {}


def test_the_journal_says_so(storage: LocalStorage) -> None:
    """An append that does not fit is an error with errno, and the file can still be closed."""
    journal = storage.append("journal/0001.jsonl")
    with pytest.raises(StorageError, match="free some space") as caught:
        journal.write(bytes(SIZE))
    assert caught.value.errno == errno.ENOSPC
    journal.close()


def test_a_checkpoint_can_be_deleted_from_a_full_disk(storage: LocalStorage) -> None:
    """The way out that the message names is open."""
    commit_small(storage, NAME)
    with pytest.raises(StorageError):
        storage.begin("large", "1").write("x", blocks(bytes(SIZE)), SIZE)
    storage.delete(NAME)
    assert storage.sweep() == ["large.partial-1"]
    assert storage.list() == []


def test_a_read_only_file_system_refuses_with_advice(
    storage: LocalStorage, small_disk: Path, read_only: Callable[[], None]
) -> None:
    """Nothing can be written or locked, the error says why, and what is there can still be read."""
    commit_small(storage, NAME)
    read_only()
    for verb in (
        lambda: storage.create("holdfast.json", b"{}"),
        lambda: storage.append("journal/0001.jsonl"),
        lambda: storage.begin("next", "1"),
        lambda: storage.delete(NAME),
        lambda: LocalStorage(small_disk / "other").prepare(),
        lambda: RecordLock(small_disk / "lock").acquire(),
    ):
        with pytest.raises(StorageError, match="read-only: remount it, or choose another folder") as caught:
            verb()
        assert caught.value.errno == errno.EROFS
    assert storage.read(f"{NAME}/x", limit=1) == b"x"
