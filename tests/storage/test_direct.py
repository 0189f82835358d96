"""A file is written past the page cache where that works, and holds the right bytes either way."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import sys
import types
from pathlib import Path

import pytest

from holdfast.storage import platform
from holdfast.storage.direct import FileWriter, write_file

BLOCK = 1 << 16


@pytest.fixture
def aligned() -> memoryview:
    """Four blocks of memory that begin on a page."""
    view = memoryview(mmap.mmap(-1, 4 * BLOCK))
    view[:] = bytes(i % 253 for i in range(4 * BLOCK))
    return view


def cut(view: memoryview) -> list[memoryview]:
    return [view[begin : begin + BLOCK] for begin in range(0, len(view), BLOCK)]


@pytest.mark.parametrize("size", [1, BLOCK, 3 * BLOCK + 1, 4 * BLOCK - 4095, 4 * BLOCK])
def test_aligned_blocks_read_back_right(tmp_path: Path, aligned: memoryview, size: int) -> None:
    """A padded last block is cut to the size, direct or not."""
    write_file(str(tmp_path / "x"), cut(aligned), size)
    assert (tmp_path / "x").read_bytes() == aligned[:size]


def test_aligned_blocks_go_past_the_page_cache(tmp_path: Path, aligned: memoryview) -> None:
    """Where the file system takes O_DIRECT, no aligned block falls back to buffered writing."""
    writer = FileWriter(str(tmp_path / "x"), direct=True)
    offered = writer.direct
    for block in cut(aligned):
        writer.write(block, len(block))
    still_direct = writer.direct
    writer.close()
    if not offered:
        pytest.skip("this file system takes no O_DIRECT")
    assert still_direct


def test_unaligned_blocks_fall_back(tmp_path: Path, aligned: memoryview) -> None:
    """A block that O_DIRECT cannot take is buffered, and so is all that follows it."""
    write_file(str(tmp_path / "x"), [aligned[:BLOCK], aligned[BLOCK : BLOCK + 7], aligned[BLOCK + 7 :]], 4 * BLOCK)
    assert (tmp_path / "x").read_bytes() == aligned


def test_what_precedes_the_padding_is_enough(
    tmp_path: Path, aligned: memoryview, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write that stops inside the padding is complete: a limit between the size and its padding does no harm."""
    original = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: original(descriptor, data[:4096]))
    calls: list[int] = []
    monkeypatch.setattr(os, "ftruncate", lambda descriptor, size: calls.append(size))
    write_file(str(tmp_path / "x"), [aligned[:BLOCK]], 4096)
    assert (tmp_path / "x").read_bytes() == aligned[:4096]
    assert calls == []


def test_an_existing_file_is_not_written_over(tmp_path: Path) -> None:
    """A file is always a new one."""
    (tmp_path / "x").write_bytes(b"old")
    with pytest.raises(FileExistsError):
        write_file(str(tmp_path / "x"), [memoryview(b"new")], 3)
    assert (tmp_path / "x").read_bytes() == b"old"


def test_a_folder_that_cannot_be_synced_is_let_pass_only_where_that_means_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EINVAL from a folder's fsync says that the file system does not offer it; EIO says that names may be lost."""

    def fail_with(number: int) -> None:
        def fsync(descriptor: int) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "fsync", fsync)

    fail_with(errno.EINVAL)
    platform.sync_folder(str(tmp_path))
    fail_with(errno.EIO)
    with pytest.raises(OSError, match="Input/output"):
        platform.sync_folder(str(tmp_path))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux reserves")
def test_a_reservation_that_a_signal_interrupts_is_made_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked for again."""
    answers = [errno.EINTR, errno.EINTR, 0]

    def fallocate(*arguments: object) -> int:
        ctypes.set_errno(answers.pop(0))
        return -1 if ctypes.get_errno() else 0

    monkeypatch.setattr(platform.ctypes, "CDLL", lambda *_, **__: types.SimpleNamespace(fallocate=fallocate))
    assert platform.reserve(-1, 1)
    assert answers == []
