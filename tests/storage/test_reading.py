"""Reading past the page cache, and knowing what it holds."""

from __future__ import annotations

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from holdfast.storage import platform
from holdfast.storage.local import LocalStorage

DATA = bytes(range(256)) * (9 << 12) + b"the end"
"""A little over 9 MiB: more than is read at a time."""


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    storage = LocalStorage(str(tmp_path / "run"))
    storage.prepare()
    storage.create("x", DATA)
    return storage


@pytest.fixture
def cold(storage: LocalStorage) -> LocalStorage:
    """Its file is on the disk only."""
    descriptor = os.open(Path(storage.root, "x"), os.O_RDONLY)
    os.fsync(descriptor)
    platform.drop_cached(descriptor)
    held = platform.is_cached(descriptor, 0)
    os.close(descriptor)
    if held:
        pytest.skip("this file system keeps its files in memory, or does not say what is there")
    return storage


def whole(storage: LocalStorage, *, direct: bool) -> bytes:
    target = bytearray(len(DATA))
    storage.read_into("x", 0, [memoryview(target)], direct=direct)
    return bytes(target)


def test_a_file_that_was_just_written_is_cached(storage: LocalStorage) -> None:
    """Its pages are there until something else needs them."""
    assert storage.is_cached("x")


def test_what_is_read_is_cached_and_what_is_read_past_the_cache_is_not(cold: LocalStorage) -> None:
    """Neither asking nor a direct read brings pages in, which would push out others."""
    assert not cold.is_cached("x")
    assert whole(cold, direct=True) == DATA
    assert not cold.is_cached("x")
    assert whole(cold, direct=False) == DATA
    assert cold.is_cached("x")


def test_small_parts_at_odd_places_are_read_past_the_cache_in_large_ones(
    cold: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each byte once: a read for every tensor would wait for the disk as often."""
    asked, preadv = list[int](), os.preadv

    def count(descriptor: int, views: list[memoryview], offset: int) -> int:
        asked.append(offset)
        return preadv(descriptor, views, offset)

    monkeypatch.setattr(os, "preadv", count)
    target = memoryview(bytearray(6 << 20))
    cold.read_into("x", 5001, [target[at : at + 1000] for at in range(0, len(target), 1000)], direct=True)
    assert target == DATA[5001 : 5001 + len(target)]
    assert len(asked) == 4
    descriptor = os.open(Path(cold.root, "x"), os.O_RDONLY)
    assert not any(platform.is_cached(descriptor, at) for at in range(0, len(DATA), 1 << 20))
    os.close(descriptor)


def test_a_file_of_which_only_some_is_cached_is_not(cold: LocalStorage) -> None:
    """As one that is larger than the memory that was left when it was read."""
    cold.read_into("x", 0, [memoryview(bytearray(10))])
    assert not cold.is_cached("x")


def test_a_file_that_was_cut_short_is_asked_about_all_the_same(tmp_path: Path) -> None:
    """Somebody may have cut it after its size was looked at; the read says what is wrong with it."""
    (tmp_path / "file").write_bytes(b"short")
    with (tmp_path / "file").open("rb") as file:
        assert platform.is_cached(file.fileno(), 9000)


def test_threads_read_past_the_cache_side_by_side(storage: LocalStorage) -> None:
    """Each has a window of its own."""
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: whole(storage, direct=True), range(16))) == {DATA}


def test_a_direct_read_that_is_refused_goes_through_the_cache(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """File systems differ in what they take; some say so at the first read only."""
    refused, preadv = list[int](), os.preadv

    def fail_once(descriptor: int, views: list[memoryview], offset: int) -> int:
        if not refused:
            refused.append(offset)
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return preadv(descriptor, views, offset)

    monkeypatch.setattr(os, "preadv", fail_once)
    assert whole(storage, direct=True) == DATA
    assert refused == [0]


def test_short_direct_reads_are_continued(storage: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a file system gives a part that does not end where the next direct read could begin."""
    preadv = os.preadv
    monkeypatch.setattr(os, "preadv", lambda descriptor, views, at: min(preadv(descriptor, views, at), 700_001))
    assert whole(storage, direct=True) == DATA


def test_a_disk_that_fails_is_no_refusal(storage: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page cache would not have the bytes either."""

    def fail(*_: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "preadv", fail)
    with pytest.raises(OSError, match="cannot read") as caught:
        whole(storage, direct=True)
    assert caught.value.errno == errno.EIO


def test_contiguous_memory_begins_where_a_disk_can_read_to() -> None:
    """And has the size that was asked for, all of it zeros."""
    for size in (1, 4096, 2 << 20, 5 << 20):
        memory = platform.contiguous_memory(size)
        assert bytes(memory) == bytes(size)


def test_a_read_that_ends_early_is_read_on(cold: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a network: only a read of nothing says that the file has ended."""
    read_some = platform.read_some
    monkeypatch.setattr(platform, "read_some", lambda descriptor, buffer, at: read_some(descriptor, buffer[:1000], at))
    target = bytearray(5_000)
    cold.read_into("x", 3_500, [memoryview(target)], direct=True)
    assert bytes(target) == DATA[3_500:8_500]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_reads_into_memory_of_its_own(cold: LocalStorage) -> None:
    """That of the parent stays with the parent: a page into which the disk writes must not become the child's."""
    assert whole(cold, direct=True) == DATA
    child = os.fork()
    if not child:
        os._exit(0 if whole(cold, direct=True) == DATA else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert whole(cold, direct=True) == DATA
