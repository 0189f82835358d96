"""The flight recorder loses nothing that it was given, also on a bad disk."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from holdfast.engine.journal import Journal, read_journal
from holdfast.errors import StorageError
from holdfast.storage.local import LocalStorage
from holdfast.testing.faults import failing_call


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path)


def numbers(storage: LocalStorage) -> list[int]:
    return [line["n"] for line in read_journal(storage, 1)]


def test_lines_that_were_refused_are_written_later(storage: LocalStorage) -> None:
    """In order, each once."""
    journal = Journal(storage, 1)
    for number in range(6):
        journal.add("batch", n=number)
        with failing_call("write", error=errno.ENOSPC, times=int(number in (2, 3))):
            if number in (2, 3):
                with pytest.raises(StorageError, match="free some space"):
                    journal.flush()
            else:
                journal.flush()
    journal.close()
    assert numbers(storage) == list(range(6))


def test_half_a_line_is_taken_back(storage: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that took some bytes before the disk was full leaves none of them."""
    journal = Journal(storage, 1)
    journal.add("batch", n=1)
    journal.flush()
    original = os.write

    def half(descriptor: int, data: Any) -> int:
        if len(data) < 8:
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(descriptor, data[: len(data) // 2])

    journal.add("batch", n=2)
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", half)
        with pytest.raises(StorageError):
            journal.flush()
    assert Path(storage.root, "journal", "0001.jsonl").read_text() == '{"t":"batch","n":1}\n'
    journal.flush()
    journal.close()
    assert numbers(storage) == [1, 2]


def test_a_line_that_is_half_there_hides_no_other(storage: LocalStorage) -> None:
    """After a power cut."""
    path = Path(storage.root, "journal")
    path.mkdir(parents=True)
    (path / "0001.jsonl").write_bytes(b'{"t":"batch","n":1}\n{"t":"bat\0\0\0\n[]\n\n{"t":"batch","n":2}\n{"t":"ba')
    assert numbers(storage) == [1, 2]


def test_an_attempt_without_a_journal_has_no_lines(storage: LocalStorage) -> None:
    """It died before it had one."""
    assert list(read_journal(storage, 7)) == []
