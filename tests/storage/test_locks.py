"""A record lock has one holder, over processes and inside one."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from holdfast.errors import StorageError
from holdfast.storage import platform
from holdfast.storage.locks import RecordLock


def test_a_lock_has_one_holder_in_a_process(tmp_path: Path) -> None:
    """The system would grant a process its own lock twice; two objects of it are told apart all the same."""
    first, second = RecordLock(tmp_path / "lock"), RecordLock(tmp_path / "lock")
    assert first.acquire()
    assert first.acquire()
    assert not second.acquire()
    first.release()
    assert second.acquire()
    second.release()


def test_another_name_of_the_file_is_the_same_lock(tmp_path: Path) -> None:
    """A folder reached through a link holds the same lock, and asking for it there does not give it away."""
    (tmp_path / "run").mkdir()
    (tmp_path / "alias").symlink_to(tmp_path / "run")
    lock, other = RecordLock(tmp_path / "run" / "lock"), RecordLock(tmp_path / "alias" / "lock")
    assert lock.acquire()
    assert not other.acquire()
    assert other.holder() == lock.holder()
    lock.release()


def test_the_holder_is_named(tmp_path: Path) -> None:
    """Host, pid and time of start are in the file while the lock is held, and gone after its release."""
    lock = RecordLock(tmp_path / "lock")
    assert lock.holder() is None
    lock.acquire()
    holder = RecordLock(tmp_path / "lock").holder()
    assert holder is not None
    assert holder["pid"] == os.getpid()
    assert holder["host"] == os.uname().nodename
    assert holder["started"].endswith("+00:00")
    lock.release()
    lock.release()
    assert lock.holder() is None
    assert not lock.held


@pytest.mark.parametrize("content", [b"", b"not json", b"[1]", b"\xff"])
def test_a_record_that_makes_no_sense_names_nobody(tmp_path: Path, content: bytes) -> None:
    """Whatever stands in the file, the lock can be asked about and taken."""
    (tmp_path / "lock").write_bytes(content)
    lock = RecordLock(tmp_path / "lock")
    assert lock.holder() is None
    assert lock.acquire()
    lock.release()


def test_a_full_disk_does_not_keep_the_lock_from_being_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The record is for people; the lock is the system's."""

    def full(descriptor: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    lock = RecordLock(tmp_path / "lock")
    assert lock.acquire()
    assert lock.holder() is None
    lock.release()


def test_a_link_in_the_place_of_the_lock_file_is_not_written_through(tmp_path: Path) -> None:
    """A hostile run folder cannot have a file elsewhere emptied."""
    (tmp_path / "precious").write_bytes(b"data")
    (tmp_path / "lock").symlink_to(tmp_path / "precious")
    with pytest.raises(StorageError, match="lock"):
        RecordLock(tmp_path / "lock").acquire()
    assert (tmp_path / "precious").read_bytes() == b"data"


def test_a_file_system_without_locks_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without locks nobody can own the folder: the error says to choose another one, and no descriptor stays open."""

    def refuse(descriptor: int) -> bool:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(platform, "try_lock", refuse)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(StorageError, match="choose a folder on another") as caught:
        RecordLock(tmp_path / "lock").acquire()
    assert caught.value.errno == errno.ENOLCK
    assert len(os.listdir("/proc/self/fd")) == before
