"""The device reports an I/O error when it is asked to make bytes durable."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from holdfast.errors import StorageError, UsageError
from holdfast.storage.local import LocalStorage
from holdfast.testing.faults import failing_call
from holdfast.testing.storage_conformance import NAME, blocks


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path)


def test_a_failed_fsync_is_never_retried_on_the_same_file(storage: LocalStorage) -> None:
    """The pages may be gone, and a second fsync would not say so: the try is over, a fresh one works."""
    attempt = storage.begin(NAME, "1")
    with failing_call("fsync") as calls:
        with pytest.raises(StorageError, match="I/O error") as caught:
            attempt.write("x", blocks(b"1"), 1)
        assert caught.value.errno == errno.EIO
        for again in (lambda: attempt.write("y", blocks(b"1"), 1), lambda: attempt.commit(b"{}")):
            with pytest.raises(UsageError, match="has failed: begin another one"):
                again()
        assert calls["fsync"] == 1
    attempt.abandon()
    fresh = storage.begin(NAME, "2")
    fresh.write("x", blocks(b"1"), 1)
    fresh.commit(b"{}")
    assert storage.list() == [NAME]


@pytest.mark.parametrize("call", [1, 2])
def test_no_checkpoint_appears_before_manifest_and_folder_are_durable(storage: LocalStorage, call: int) -> None:
    """When the manifest's or the folder's fsync fails, nothing stands under the final name."""
    attempt = storage.begin(NAME, "1")
    with failing_call("fsync", call=call), pytest.raises(StorageError, match="cannot write"):
        attempt.commit(b"{}")
    attempt.abandon()
    assert storage.list() == []


def test_a_commit_that_may_not_be_durable_is_an_error_and_stays(storage: LocalStorage) -> None:
    """After the rename the checkpoint is visible and whole: it is not announced, and not removed either."""
    attempt = storage.begin(NAME, "1")
    with failing_call("fsync", call=3), pytest.raises(StorageError, match=f"cannot commit .*{NAME}"):
        attempt.commit(b"{}")
    attempt.abandon()
    assert storage.list_files(NAME) == {"manifest.json": 2}


def test_a_record_whose_fsync_failed_is_not_created(storage: LocalStorage) -> None:
    """No name is given to bytes that may not be there."""
    with failing_call("fsync"), pytest.raises(StorageError, match="cannot create"):
        storage.create("holdfast.json", b"{}")
    assert storage.list() == []


def test_a_write_error_fails_the_save(storage: LocalStorage) -> None:
    """EIO from a write is as final as one from an fsync."""
    attempt = storage.begin(NAME, "1")
    with failing_call("write"), pytest.raises(StorageError, match="I/O error"):
        attempt.write("x", blocks(b"1"), 1)
    with pytest.raises(UsageError, match="has failed"):
        attempt.commit(b"{}")
