"""LocalStorage keeps the contract, and does so durably: what is synced when, and what is never followed."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from holdfast.errors import AlreadyExistsError, CorruptError, StorageError, UsageError
from holdfast.storage.local import LocalStorage
from holdfast.testing.faults import failing_call
from holdfast.testing.storage_conformance import NAME, StorageConformance, blocks


class TestLocalStorage(StorageConformance):
    @pytest.fixture
    def storage(self, tmp_path: Path) -> LocalStorage:
        return LocalStorage(tmp_path / "runs" / "digits")

    def raw_read(self, storage: LocalStorage, path: str) -> bytes:
        return Path(storage.root, path).read_bytes()

    def raw_write(self, storage: LocalStorage, path: str, data: bytes) -> None:
        target = Path(storage.root, path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)

    def raw_names(self, storage: LocalStorage) -> set[str]:
        return {path.name for path in Path(storage.root).iterdir()}


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "run")


@pytest.fixture
def trace(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """The syncs, renames and links in order, as paths relative to ``tmp_path``."""
    events: list[str] = []

    def relative(path: str) -> str:
        return os.path.relpath(path, tmp_path)

    def spy(name: str, describe: Callable[..., str]) -> None:
        original = getattr(os, name)

        def wrapper(*args: object, **kwargs: object) -> object:
            description = describe(*args)
            result = original(*args, **kwargs)
            events.append(f"{name} {description}")
            return result

        monkeypatch.setattr(os, name, wrapper)

    spy("fsync", lambda descriptor: relative(os.readlink(f"/proc/self/fd/{descriptor}")))
    for name in ("rename", "link"):
        spy(name, lambda source, target: f"{relative(source)} -> {relative(target)}")
    spy("mkdir", relative)
    return events


def test_making_a_storage_makes_no_folder(tmp_path: Path) -> None:
    """Looking at a folder that is not there leaves it that way."""
    storage = LocalStorage(tmp_path / "run")
    storage.list(), storage.sweep(), storage.sync(), storage.list_files(NAME)
    assert list(tmp_path.iterdir()) == []


def test_its_url_is_the_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative folder stays the same one when the script changes its working directory; ~ is the home."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert LocalStorage("runs/a").url == str(tmp_path / "runs" / "a")
    assert LocalStorage("~/runs").url == str(tmp_path / "runs")


def test_a_commit_syncs_shards_manifest_folder_then_renames_then_syncs_the_parent(
    storage: LocalStorage, trace: list[str]
) -> None:
    """At no instant can a power cut show a manifest under the final name whose shards are not durable."""
    storage.prepare()
    attempt = storage.begin(NAME, "7f3a")
    trace.clear()
    attempt.write("a", blocks(b"1"), 1)
    attempt.write("b", blocks(b"2"), 1)
    attempt.commit(b"{}")
    partial = f"run/{NAME}.partial-7f3a"
    assert trace == [
        f"fsync {partial}/a",
        f"fsync {partial}/b",
        f"fsync {partial}/manifest.json",
        f"fsync {partial}",
        f"rename {partial} -> run/{NAME}",
        "fsync run",
    ]


def test_a_new_folder_is_durable_in_its_parents(tmp_path: Path, trace: list[str]) -> None:
    """A power cut cannot take away the run folder with the checkpoints in it."""
    LocalStorage(tmp_path / "runs" / "digits").prepare()
    assert trace == ["mkdir runs", "fsync .", "mkdir runs/digits", "fsync runs"]


def test_a_created_file_is_durable_before_it_has_its_name(storage: LocalStorage, trace: list[str]) -> None:
    """The bytes are synced under another name, and the folder after the file got its own."""
    storage.create("attempts/0001.json", b"{}")
    synced = [event for event in trace if event.startswith("fsync")]
    assert synced[-2].startswith("fsync run/0001.json.partial-")
    assert synced[-1] == "fsync run/attempts"


def test_a_deletion_is_durable_before_bytes_go(storage: LocalStorage, trace: list[str]) -> None:
    """A checkpoint is taken away whole: a power cut cannot leave half of it under its name."""
    storage.begin(NAME, "7f3a").commit(b"{}")
    trace.clear()
    with failing_call("unlink"), pytest.raises(StorageError, match=NAME):
        storage.delete(NAME)
    assert trace[0].startswith(f"rename run/{NAME} -> run/.deleting-{NAME}-")
    assert trace[1] == "fsync run"
    assert [name for name in storage.list() if not name.startswith(".deleting-")] == []
    assert len(storage.sweep()) == 1


def test_a_file_system_without_hard_links_still_creates_only(storage: LocalStorage) -> None:
    """Where a name cannot be linked, it is opened exclusively: one claim wins."""
    with failing_call("link", error=errno.EPERM, times=2):
        storage.create("0001.json", b"first")
        with pytest.raises(AlreadyExistsError):
            storage.create("0001.json", b"second")
    assert (Path(storage.root) / "0001.json").read_bytes() == b"first"
    assert storage.list() == ["0001.json"]


def test_a_short_write_is_continued(storage: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A system that takes a few bytes at a time gets them all."""
    original = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: original(descriptor, data[:3]))
    attempt = storage.begin(NAME, "7f3a")
    attempt.write("x", blocks(b"0123456789", b"abcde"), 15)
    journal = storage.append("journal")
    journal.write(b"a long line\n")
    journal.close()
    assert Path(storage.root, f"{NAME}.partial-7f3a", "x").read_bytes() == b"0123456789abcde"
    assert Path(storage.root, "journal").read_bytes() == b"a long line\n"


def test_a_short_read_is_continued(storage: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A system that gives a few bytes at a time is asked until every buffer is full."""
    storage.create("x", bytes(range(20)))
    original = os.preadv
    monkeypatch.setattr(os, "preadv", lambda descriptor, views, offset: original(descriptor, [views[0][:3]], offset))
    first, second = bytearray(7), bytearray(10)
    storage.read_into("x", 2, [memoryview(first), memoryview(second)])
    assert first + second == bytes(range(2, 19))


def test_reading_works_without_preadv(storage: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows has no vectored reads."""
    storage.create("x", bytes(range(20)))
    monkeypatch.delattr(os, "preadv")
    first, second = bytearray(7), bytearray(10)
    storage.read_into("x", 2, [memoryview(first), memoryview(second)])
    assert first + second == bytes(range(2, 19))


def test_a_file_that_shrinks_while_it_is_read_is_corrupt(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of the file is never taken for the end of the bytes that were promised."""
    storage.create("x", b"12345678")
    monkeypatch.setattr(os, "preadv", lambda descriptor, views, offset: 0)
    with pytest.raises(CorruptError, match="ends at byte 0"):
        storage.read_into("x", 0, [memoryview(bytearray(8))])


def test_debris_that_cannot_be_removed_stays_and_does_not_raise(storage: LocalStorage) -> None:
    """A run starts although something in its folder cannot be cleaned up."""
    storage.begin(NAME, "old").write("x", blocks(b"1"), 1)
    with failing_call("unlink", error=errno.EACCES):
        assert storage.sweep() == []
    assert storage.sweep() == [f"{NAME}.partial-old"]


def test_removal_does_not_follow_links(storage: LocalStorage, tmp_path: Path) -> None:
    """A link in a checkpoint that is deleted, or that is debris itself, never takes its target along."""
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "data").write_bytes(b"x")
    storage.begin(NAME, "7f3a").commit(b"{}")
    Path(storage.root, NAME, "link").symlink_to(precious)
    Path(storage.root, "a.partial-1").symlink_to(precious)
    storage.delete(NAME)
    assert storage.sweep() == ["a.partial-1"]
    assert storage.list() == []
    assert (precious / "data").read_bytes() == b"x"


def test_abandon_never_raises(storage: LocalStorage) -> None:
    """What cannot be removed after a failure is left to the next sweep; the first error is the one that counts."""
    attempt = storage.begin(NAME, "7f3a")
    attempt.write("x", blocks(b"1"), 1)
    with failing_call("unlink"):
        attempt.abandon()
    assert storage.list() == [f"{NAME}.partial-7f3a"]


def test_a_file_system_without_hard_links_never_shows_half_a_file(storage: LocalStorage) -> None:
    """Killed between the claim of the name and the file, it leaves an empty claim, which the next one fills."""
    with failing_call("link", error=errno.EPERM, times=2), failing_call("replace"):
        with pytest.raises(StorageError):
            storage.create("holdfast.json", b"first")
        assert storage.size("holdfast.json") == 0
    with failing_call("link", error=errno.EPERM, times=2):
        storage.create("holdfast.json", b"second")
        with pytest.raises(AlreadyExistsError):
            storage.create("holdfast.json", b"third")
    assert storage.read("holdfast.json", limit=100) == b"second"
    assert storage.list() == ["holdfast.json"]


def test_a_name_may_be_given_with_the_commit(storage: LocalStorage) -> None:
    """It stands beside the one that the try was begun with, and cannot lead out of the folder."""
    for name in ("../x", "a/b", ""):
        with pytest.raises(UsageError):
            storage.begin("unhashed", f"try{len(name)}").commit(b"{}", name=name)
    storage.sweep()
    storage.begin("unhashed", "7f3a").commit(b"{}", name=NAME)
    assert storage.list() == [NAME]


def test_what_is_free_is_known(storage: LocalStorage) -> None:
    """The bytes that the file system has left for this user; nothing is known where it does not answer."""
    storage.prepare()
    found = os.statvfs(storage.root)
    free = storage.free()
    assert free is not None
    assert 0 < free <= found.f_blocks * found.f_frsize
    with failing_call("statvfs"):
        assert storage.free() is None


def test_a_file_that_vanishes_meanwhile_hides_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody removes a file while its folder is being listed; the others are still there."""
    storage = LocalStorage(tmp_path)
    for name in ("a", "b", "c"):
        storage.create(f"pins/{name}", b"")
    original = os.lstat

    def lstat(path: Any, **options: Any) -> os.stat_result:
        if str(path).endswith("/b"):
            raise FileNotFoundError
        return original(path, **options)

    monkeypatch.setattr(os, "lstat", lstat)
    assert storage.list_files("pins") == {"a": 0, "c": 0}


def test_more_files_are_reserved_than_may_be_open(storage: LocalStorage) -> None:
    """A state has as many items as it has."""
    attempt = storage.begin(NAME, "7f3a")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = [f"{number}.safetensors" for number in range(300)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, before[0]), before[1]))
    try:
        for file in files:
            attempt.reserve(file, 1)
        for file in files:
            attempt.write(file, blocks(b"x"), 1)
        attempt.commit(b"{}")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert set(storage.list_files(NAME)) == {"manifest.json", *files}


def source(storage: LocalStorage) -> str:
    """The path of a shard of a committed checkpoint."""
    attempt = storage.begin(f"{NAME}x", "7f3a")
    attempt.write("a", blocks(b"weights"), 7)
    attempt.commit(b"{}")
    return f"{NAME}x/a"


def test_a_linked_file_has_its_name_before_the_folder_is_synced(storage: LocalStorage, trace: list[str]) -> None:
    """A power cut cannot show a checkpoint without it; its bytes were durable already."""
    path = source(storage)
    attempt = storage.begin(NAME, "7f3a")
    trace.clear()
    assert attempt.link(path, "a", 7)
    attempt.commit(b"{}")
    partial = f"run/{NAME}.partial-7f3a"
    assert trace == [
        f"link run/{path} -> {partial}/a",
        f"fsync {partial}/manifest.json",
        f"fsync {partial}",
        f"rename {partial} -> run/{NAME}",
        "fsync run",
    ]


@pytest.mark.parametrize("error", [errno.EPERM, errno.EMLINK, errno.EXDEV, errno.EOPNOTSUPP, errno.ENOENT])
def test_what_cannot_have_another_name_is_written(storage: LocalStorage, error: int) -> None:
    """No hard links there, too many of this file, or it was deleted a moment ago: the try goes on."""
    path = source(storage)
    attempt = storage.begin(NAME, "7f3a")
    with failing_call("link", error=error):
        assert attempt.link(path, "a", 7) is False
    attempt.write("a", blocks(b"weights"), 7)
    attempt.commit(b"{}")
    assert storage.status(f"{NAME}/a").names == 1


def test_a_link_that_fails_ends_its_try(storage: LocalStorage) -> None:
    """An I/O error in the folder may have lost the names of other files too."""
    path = source(storage)
    attempt = storage.begin(NAME, "7f3a")
    with failing_call("link", error=errno.EIO), pytest.raises(StorageError, match="cannot link"):
        attempt.link(path, "a", 7)
    with pytest.raises(UsageError, match="has failed"):
        attempt.commit(b"{}")


def test_only_a_regular_file_is_linked(storage: LocalStorage, tmp_path: Path) -> None:
    """A symbolic link in its place leads nowhere; one in the place of its folder is refused."""
    path = source(storage)
    (tmp_path / "secret").write_bytes(b"secrets")
    Path(storage.root, path).unlink()
    Path(storage.root, path).symlink_to(tmp_path / "secret")
    attempt = storage.begin(NAME, "7f3a")
    assert attempt.link(path, "a", 7) is False
    assert storage.list_files(f"{NAME}.partial-7f3a") == {}
    Path(storage.root, "elsewhere").symlink_to(tmp_path)
    with pytest.raises(CorruptError, match="links are not followed"):
        attempt.link("elsewhere/secret", "a", 7)
