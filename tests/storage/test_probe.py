"""What a probe measures, and how much it writes for that."""

from __future__ import annotations

import errno
import itertools
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast.errors import StorageError
from holdfast.storage import mounts, platform, speed
from holdfast.storage.mounts import Mount
from holdfast.storage.probe import Probe, probe
from holdfast.storage.speed import measure

BLOCK = 1 << 16
SAMPLE = 16 * BLOCK


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How much each write has written, blocks only."""
    sizes: list[int] = []
    original = os.write

    def write(descriptor: int, data: Any) -> int:
        if len(data) == BLOCK:
            sizes.append(len(data))
        return original(descriptor, data)

    monkeypatch.setattr(os, "write", write)
    return sizes


def test_everything_works_here_and_is_measured(tmp_path: Path) -> None:
    """On the file system of the tests; all that was written is gone."""
    found = probe(str(tmp_path), SAMPLE, BLOCK)
    able = found.capabilities
    assert able.sync.works
    assert able.rename.works
    assert able.locks.works
    assert found.speed is not None
    assert found.speed.write.size == found.speed.read.size == found.sample == SAMPLE
    assert found.speed.sync.median <= found.speed.sync.worst
    assert found.speed.rename.times > 2
    assert found.free is not None
    assert found.total is not None
    assert found.free <= found.total
    assert list(tmp_path.iterdir()) == []


def test_what_is_in_the_folder_is_left_as_it_is(tmp_path: Path, picture: Any) -> None:
    """Names, times and bytes."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".trainer.lock").write_bytes(b"held")
    before = picture(tmp_path / "run")
    probe(str(tmp_path / "run"), SAMPLE, BLOCK)
    assert picture(tmp_path / "run") == before


def test_progress_is_told_of_every_byte_written_and_read(tmp_path: Path) -> None:
    """Twice the sample."""
    done: list[int] = []
    probe(str(tmp_path), SAMPLE, BLOCK, advance=done.append)
    assert sum(done) == 2 * SAMPLE


def free(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(platform, "free_bytes", lambda path: count)


def test_a_sample_takes_at_most_a_quarter_of_what_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In whole blocks."""
    free(monkeypatch, 4 * 5 * BLOCK + 3)
    assert probe(str(tmp_path), SAMPLE, BLOCK).sample == 5 * BLOCK


def test_without_room_for_a_block_nothing_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says how much is needed, and the folder is as it was."""
    free(monkeypatch, 4 * BLOCK - 1)
    with pytest.raises(StorageError, match=r"262\.1 kB is free, and at least 262\.1 kB is needed") as caught:
        probe(str(tmp_path), SAMPLE, BLOCK)
    assert caught.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("kind", "expected"), [("tmpfs", 3 * BLOCK), ("ext4", SAMPLE)])
def test_in_memory_only_what_this_process_may_use_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, expected: int
) -> None:
    """The file system may be larger than the control group's limit, whose price is a kill."""
    mount = Mount(point="/", type=kind, source="none", options=())
    monkeypatch.setattr("holdfast.storage.probe.mount_of", lambda path: mount)
    found = probe(str(tmp_path), SAMPLE, BLOCK, memory=4 * 3 * BLOCK)
    assert found.sample == expected


class Clock:
    """Each look at it takes ``seconds``."""

    def __init__(self, seconds: float) -> None:
        self._now = itertools.count(0.0, seconds)

    def __call__(self) -> float:
        return next(self._now)


def test_a_slow_disk_is_measured_by_less(tmp_path: Path) -> None:
    """After some seconds of writing, and of reading, as much as was done has to do."""
    found = measure(str(tmp_path), SAMPLE, BLOCK, Clock(1.0))
    assert 0 < found.write.size < SAMPLE
    assert 0 < found.read.size <= found.write.size
    assert found.sync.times == 3


def test_a_disk_that_reads_slowly_is_measured_by_less(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though it writes at once."""
    seconds = 0.0
    original = speed.read_medium

    def read(path: str, size: int, block_size: int) -> Iterator[memoryview]:
        nonlocal seconds
        for block in original(path, size, block_size):
            seconds += 2.0
            yield block

    monkeypatch.setattr(speed, "read_medium", read)
    found = measure(str(tmp_path), SAMPLE, BLOCK, lambda: seconds)
    assert (found.write.size, found.read.size) == (SAMPLE, 3 * BLOCK)


def test_a_slow_fsync_is_foreseen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: list[int]) -> None:
    """Where the page cache takes all at once, the fsync behind it would take minutes: a first piece tells."""
    seconds = 0.0
    synced = speed.FileWriter.finish

    def finish(self: speed.FileWriter, size: int) -> None:
        nonlocal seconds
        synced(self, size)
        seconds += 20.0 * size / SAMPLE

    monkeypatch.setattr(speed.FileWriter, "finish", finish)
    monkeypatch.setattr(speed, "_FIRST", 2 * BLOCK)
    found = measure(str(tmp_path), SAMPLE, BLOCK, lambda: seconds)
    assert found.write.size == 4 * BLOCK
    assert sum(written) == 6 * BLOCK


def test_writing_is_what_a_save_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: list[int]) -> None:
    """Whole blocks, past the page cache where that is possible, and no bytes that could be compressed."""
    sources: list[bytes] = []
    original = speed.FileWriter.write

    def write(self: speed.FileWriter, block: memoryview, needed: int) -> None:
        if needed == BLOCK:
            sources.append(bytes(block))
        original(self, block, needed)

    monkeypatch.setattr(speed.FileWriter, "write", write)
    found = measure(str(tmp_path), SAMPLE, BLOCK, Clock(0.0))
    assert found.write.size == SAMPLE
    assert len(set(sources[-16:])) == 16
    assert len(zlib.compress(sources[0])) > BLOCK


def test_a_system_that_tells_nothing_is_probed_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither mounts nor space are known."""
    monkeypatch.setattr(mounts, "_TABLE", tmp_path / "not there")
    monkeypatch.setattr("holdfast.storage.probe.mount_of", lambda path: None)
    monkeypatch.setattr(platform, "_space", lambda path: (None, None))
    found: Probe = probe(str(tmp_path), SAMPLE, BLOCK)
    assert (found.mount, found.free, found.total, found.sample) == (None, None, None, SAMPLE)
