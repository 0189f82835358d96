"""The file system, or the kernel, refuses O_DIRECT."""

from __future__ import annotations

import errno
import mmap
from pathlib import Path

import pytest

from holdfast.errors import StorageError
from holdfast.storage.local import LocalStorage
from holdfast.testing.faults import failing_call
from holdfast.testing.storage_conformance import NAME

SIZE = 3 * 65536 - 100


@pytest.fixture
def memory() -> memoryview:
    view = memoryview(mmap.mmap(-1, 3 * 65536))
    view[:] = bytes(i % 251 for i in range(len(view)))
    return view


def save(storage: LocalStorage, memory: memoryview) -> None:
    attempt = storage.begin(NAME, "1")
    attempt.write("x", (memory[i : i + 65536] for i in range(0, len(memory), 65536)), SIZE)
    attempt.commit(b"{}")


@pytest.mark.parametrize("call", [1, 2, 3])
def test_a_write_refused_with_einval_is_buffered(tmp_path: Path, memory: memoryview, call: int) -> None:
    """Wherever in the file it is refused, every byte arrives once, in its place."""
    with failing_call("write", call=call, error=errno.EINVAL):
        save(LocalStorage(tmp_path), memory)
    assert (tmp_path / NAME / "x").read_bytes() == memory[:SIZE]


@pytest.mark.usefixtures("flag_refused")
def test_a_file_that_cannot_be_direct_is_buffered(tmp_path: Path, memory: memoryview) -> None:
    """A file system without O_DIRECT is used all the same."""
    save(LocalStorage(tmp_path), memory)
    assert (tmp_path / NAME / "x").read_bytes() == memory[:SIZE]


def test_a_buffered_write_refused_with_einval_is_an_error(tmp_path: Path, memory: memoryview) -> None:
    """The fallback is tried once, not for ever."""
    with (
        failing_call("write", times=2, error=errno.EINVAL) as calls,
        pytest.raises(StorageError, match="Invalid argument"),
    ):
        save(LocalStorage(tmp_path), memory)
    assert calls["write"] == 2
