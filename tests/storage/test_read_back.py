"""What a try has written is read back from the medium, not from the page cache, and is measured before the commit."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from holdfast.errors import StorageError, UsageError
from holdfast.storage import platform
from holdfast.storage.local import LocalStorage, LocalTry
from holdfast.testing.faults import failing_call
from holdfast.testing.storage_conformance import NAME, blocks

BLOCK = 1 << 20
SIZES = [0, 1, 4095, 4096, 4097, 5 * BLOCK + 3]


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "run")


@pytest.fixture
def trace(storage: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Syncs, drops from the page cache and reads in order, each with the file's name; reads are direct or buffered."""
    storage.prepare()
    events: list[str] = []

    def spy(name: str, describe: Callable[[int], str]) -> None:
        original = getattr(os, name)

        def wrapper(descriptor: int, *args: Any) -> Any:
            events.append(f"{describe(descriptor)} {Path(os.readlink(f'/proc/self/fd/{descriptor}')).name}")
            return original(descriptor, *args)

        monkeypatch.setattr(os, name, wrapper)

    spy("fsync", lambda descriptor: "sync")
    spy("posix_fadvise", lambda descriptor: "drop")
    spy("preadv", lambda descriptor: "direct" if is_direct(descriptor) else "buffered")
    return events


@pytest.fixture
def read_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that takes the flag, and then refuses every direct read."""
    original = os.preadv

    def refuse(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        if is_direct(descriptor):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return original(descriptor, buffers, offset)

    monkeypatch.setattr(os, "preadv", refuse)


@pytest.fixture(params=["direct", "flag_refused", "read_refused"])
def way(request: pytest.FixtureRequest) -> str:
    """Each way that the bytes can take."""
    if request.param != "direct":
        request.getfixturevalue(request.param)
    return str(request.param)


def is_direct(descriptor: int) -> bool:
    return bool(fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT)


def written(storage: LocalStorage, data: bytes, file: str = "x") -> tuple[LocalTry, Path]:
    """A try that has written ``data``, and where it did."""
    attempt = storage.begin(NAME, "7f3a")
    attempt.write(file, blocks(data), len(data))
    return attempt, Path(attempt.folder, file)


def held(attempt: LocalTry, file: str = "x", block_size: int = BLOCK) -> bytes:
    return b"".join([bytes(block) for block in attempt.read_back(file, block_size=block_size)])


def pattern(size: int) -> bytes:
    return (bytes(range(251)) * (size // 251 + 1))[:size]


def require_direct(folder: Path) -> None:
    descriptor = os.open(folder / "probe", platform.CREATE)
    offered = platform.set_direct(descriptor, True)
    os.close(descriptor)
    if not offered:
        pytest.skip("this file system takes no O_DIRECT")


def bytes_from_devices() -> int:
    """What this process had the system fetch from storage devices, ever."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("read_bytes")))


def require_a_device(folder: Path) -> None:
    """Skips where not even a file that is in no cache makes the counter move."""
    probe = folder / "probe"
    try:
        before = bytes_from_devices()
    except OSError:
        pytest.skip("this system does not count what is read from devices")
    with probe.open("w+b") as file:
        file.write(pattern(BLOCK))
        file.flush()
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    probe.read_bytes()
    if bytes_from_devices() - before < BLOCK:
        pytest.skip("this folder is not on a device whose reads are counted")


@pytest.mark.parametrize("size", SIZES)
def test_what_was_written_is_read_back(storage: LocalStorage, way: str, size: int) -> None:
    """Whole blocks and tails that no sector ends at come back, with O_DIRECT or without."""
    attempt, _ = written(storage, pattern(size))
    assert held(attempt) == pattern(size)


def test_a_block_may_be_larger_than_the_file(storage: LocalStorage, way: str) -> None:
    """A reader with one block size for all files reads small ones, too."""
    attempt, _ = written(storage, b"weights")
    assert held(attempt, block_size=4 * BLOCK) == b"weights"


def test_the_page_cache_is_gone_around(storage: LocalStorage, tmp_path: Path, trace: list[str]) -> None:
    """Where the file system takes O_DIRECT, every read has it; cached pages go before, in case it is ignored."""
    require_direct(tmp_path)
    attempt, _ = written(storage, pattern(2 * BLOCK + 3))
    held(attempt)
    assert trace == ["sync x", "drop x", "direct x", "direct x", "direct x"]


def test_cached_pages_are_dropped_where_the_flag_is_refused(
    storage: LocalStorage, flag_refused: None, trace: list[str]
) -> None:
    """Without O_DIRECT the cache forgets the durable file before it is read."""
    attempt, _ = written(storage, pattern(BLOCK + 3))
    held(attempt)
    assert trace == ["sync x", "drop x", "buffered x", "buffered x"]


def test_cached_pages_are_dropped_where_direct_reads_are_refused(
    storage: LocalStorage, tmp_path: Path, read_refused: None, trace: list[str]
) -> None:
    """That reads are refused is found out once for a file, and what follows is read the ordinary way."""
    require_direct(tmp_path)
    attempt, _ = written(storage, pattern(BLOCK + 3))
    held(attempt)
    assert trace == ["sync x", "drop x", "direct x", "buffered x", "buffered x"]


def test_the_bytes_come_from_the_device(storage: LocalStorage, tmp_path: Path, way: str) -> None:
    """All of a file that the page cache holds is fetched from the device again."""
    require_a_device(tmp_path)
    attempt, path = written(storage, pattern(5 * BLOCK + 3))
    assert path.read_bytes() == pattern(5 * BLOCK + 3)
    before = bytes_from_devices()
    held(attempt)
    assert bytes_from_devices() - before >= 5 * BLOCK + 3


def test_a_system_that_offers_neither_reads_the_ordinary_way(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither O_DIRECT nor advice to the page cache, as on macOS: the bytes are compared all the same."""
    monkeypatch.setattr(platform, "_DIRECT", 0)
    monkeypatch.delattr(os, "posix_fadvise")
    attempt, _ = written(storage, pattern(BLOCK + 3))
    assert held(attempt) == pattern(BLOCK + 3)


def test_a_short_read_is_continued(storage: LocalStorage, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read that stops where O_DIRECT cannot go on is gone on with through the page cache."""
    attempt, _ = written(storage, pattern(10_000))
    original = os.preadv
    monkeypatch.setattr(os, "preadv", lambda descriptor, views, offset: min(original(descriptor, views, offset), 1001))
    assert held(attempt, block_size=8192) == pattern(10_000)


@pytest.mark.parametrize("call", [1, 2])
def test_a_medium_that_cannot_be_read_fails_the_try(storage: LocalStorage, way: str, call: int) -> None:
    """An I/O error, in the first block or a later one, names the file and is the try's last act."""
    attempt, path = written(storage, pattern(BLOCK + 3))
    with (
        failing_call("preadv", call=call, times=9),
        pytest.raises(StorageError, match=f"cannot read back {path}") as at,
    ):
        held(attempt)
    assert at.value.errno == errno.EIO
    for again in (lambda: held(attempt), lambda: attempt.commit(b"{}")):
        with pytest.raises(UsageError, match="has failed"):
            again()


@pytest.mark.parametrize("kept", [0, 1, 4096, 5000, BLOCK, BLOCK + 2])
def test_a_truncated_file_is_not_read_as_whole(storage: LocalStorage, way: str, kept: int) -> None:
    """Lost bytes are an error that names the file and both sizes, wherever the file ends."""
    attempt, path = written(storage, pattern(BLOCK + 3))
    os.truncate(path, kept)
    with pytest.raises(StorageError, match=f"{path} holds {kept:,} bytes, 1,048,579 were written"):
        held(attempt)
    with pytest.raises(UsageError, match="has failed"):
        attempt.commit(b"{}")


def test_a_file_that_vanished_fails_the_try(storage: LocalStorage) -> None:
    """What is not there any more is named, even if it held nothing."""
    attempt, path = written(storage, b"")
    path.unlink()
    with pytest.raises(StorageError, match=f"cannot read back {path}: No such file"):
        held(attempt)
    with pytest.raises(UsageError, match="has failed"):
        attempt.commit(b"{}")


def test_a_link_in_the_place_of_a_file_is_not_followed(storage: LocalStorage, tmp_path: Path) -> None:
    """What is read back is the file that was written, not one elsewhere with the same bytes."""
    attempt, path = written(storage, b"weights")
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageError, match="cannot read back"):
        held(attempt)


def test_stopping_early_leaves_no_file_open(storage: LocalStorage) -> None:
    """A reader that has seen enough may drop the blocks."""
    attempt, path = written(storage, pattern(3 * BLOCK))
    reading = attempt.read_back("x", block_size=BLOCK)
    next(reading)
    assert path in opened()
    del reading
    assert path not in opened()


def opened() -> list[Path]:
    descriptors = Path("/proc/self/fd").iterdir()
    return [Path(os.readlink(link)) for link in descriptors if link.is_symlink()]


# ---- at the commit


@pytest.fixture
def after_sync(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Callable[[Path], object]], None]:
    """Has something happen to the file of a name once it is synced."""
    original = os.fsync

    def put(file: str, happen: Callable[[Path], object]) -> None:
        def fsync(descriptor: int) -> None:
            original(descriptor)
            path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
            if path.name == file:
                happen(path)

        monkeypatch.setattr(os, "fsync", fsync)

    return put


def flip_first_bit(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(bytes([data[0] ^ 1]) + data[1:])


@pytest.mark.parametrize("file", ["x", "manifest.json"])
@pytest.mark.parametrize("size", [0, 2, 4, 9])
def test_a_file_of_another_size_is_not_committed(
    storage: LocalStorage, after_sync: Callable[..., None], file: str, size: int
) -> None:
    """A file system that lost bytes, or gained some, without saying so: the file is named with both sizes."""
    after_sync(file, lambda path: os.truncate(path, size))
    attempt, _ = written(storage, b"123")
    with pytest.raises(StorageError, match=rf"{file} holds {size} bytes, 3 were written") as caught:
        attempt.commit(b"{ }")
    assert caught.value.errno == errno.EIO
    assert storage.list() == [f"{NAME}.partial-7f3a"]


def test_a_manifest_that_changed_on_the_way_is_not_committed(
    storage: LocalStorage, way: str, after_sync: Callable[..., None]
) -> None:
    """The medium's manifest is compared before the rename; the try is over then."""
    after_sync("manifest.json", flip_first_bit)
    attempt, _ = written(storage, b"123")
    with pytest.raises(StorageError, match=r"manifest\.json holds other bytes") as caught:
        attempt.commit(b"{}", read_back=True)
    assert caught.value.errno == errno.EIO
    with pytest.raises(UsageError, match="has failed"):
        attempt.commit(b"{}")
    assert storage.list() == [f"{NAME}.partial-7f3a"]


def test_a_manifest_is_read_back_when_asked_for_only(storage: LocalStorage, trace: list[str]) -> None:
    """A commit reads nothing by itself; with ``read_back`` it reads the manifest after all syncs but the last."""
    storage.begin(NAME, "7f3a").commit(b"{}")
    assert not [event for event in trace if not event.startswith("sync")]
    trace.clear()
    storage.begin(NAME + "x", "7f3a").commit(b"{}", read_back=True)
    events = [event.split()[0] for event in trace if "manifest.json" in event]
    assert events[:2] == ["sync", "drop"]
    assert trace[-1] == "sync run"
    assert {event.split()[1] for event in trace if not event.startswith("sync")} == {"manifest.json"}


@pytest.mark.parametrize("size", SIZES)
def test_a_manifest_of_any_size_is_compared_whole(
    storage: LocalStorage, way: str, after_sync: Callable[..., None], size: int
) -> None:
    """Manifests longer than one read pass, and their last byte counts."""
    storage.begin(NAME, "7f3a").commit(pattern(size), read_back=True)
    assert storage.size(f"{NAME}/manifest.json") == size
    after_sync("manifest.json", lambda path: path.write_bytes(pattern(size)[:-1] + b"\xff"))
    if size:
        with pytest.raises(StorageError, match="other bytes"):
            storage.begin(NAME + "x", "7f3a").commit(pattern(size), read_back=True)


def test_a_manifest_that_cannot_be_read_is_not_committed(storage: LocalStorage) -> None:
    """An I/O error while the manifest is read back is the commit's."""
    attempt = storage.begin(NAME, "7f3a")
    with failing_call("preadv"), pytest.raises(StorageError, match=r"cannot read back .*manifest\.json"):
        attempt.commit(b"{}", read_back=True)
    assert storage.list() == [f"{NAME}.partial-7f3a"]
