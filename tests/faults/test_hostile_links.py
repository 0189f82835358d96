"""A checkpoint holds links, pipes or folders where files should be."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast.errors import AlreadyExistsError, CorruptError, StorageError
from holdfast.storage.local import LocalStorage
from holdfast.testing.storage_conformance import NAME


def _link_out(path: Path) -> None:
    path.symlink_to(path.parent.parent.parent / "secret")


def _link_inside(path: Path) -> None:
    path.symlink_to("manifest.json")


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(path))


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "elsewhere").mkdir()
    storage = LocalStorage(tmp_path / "run")
    storage.begin(NAME, "1").commit(b"{}")
    return storage


@pytest.mark.parametrize("make", [_link_out, _link_inside, os.mkfifo, os.mkdir, _socket])
def test_a_shard_that_is_no_regular_file_is_refused(
    storage: LocalStorage, make: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing outside the folder is read, and a pipe cannot make the reader wait for ever."""
    shard = Path(storage.root, NAME, "model.safetensors")
    monkeypatch.chdir(shard.parent)
    make(shard)
    path = f"{NAME}/model.safetensors"
    assert storage.list_files(NAME) == {"manifest.json": 2}
    for read in (
        lambda: storage.size(path),
        lambda: storage.read(path, limit=100),
        lambda: storage.read_into(path, 0, [memoryview(bytearray(1))]),
    ):
        with pytest.raises(CorruptError, match=r"model\.safetensors is a .*a regular file was expected"):
            read()


def test_a_link_put_there_at_the_last_instant_is_refused(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The open itself refuses a link, whatever a look at it had said before."""
    (tmp_path / "run" / "x").symlink_to(tmp_path / "secret")
    monkeypatch.setattr(os, "lstat", os.stat)
    with pytest.raises(StorageError, match="x: Too many levels of symbolic links"):
        storage.read("x", limit=100)


def test_a_checkpoint_that_is_a_link_is_refused(storage: LocalStorage, tmp_path: Path) -> None:
    """A whole checkpoint cannot lead out of the run folder either."""
    (tmp_path / "run" / "step-9").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "manifest.json").write_bytes(b"{}")
    for read in (
        lambda: storage.list_files("step-9"),
        lambda: storage.size("step-9/manifest.json"),
        lambda: storage.read("step-9/manifest.json", limit=9),
    ):
        with pytest.raises(CorruptError, match="step-9 is a symbolic link"):
            read()


def test_nothing_is_written_through_a_link(storage: LocalStorage, tmp_path: Path) -> None:
    """A hostile run folder cannot direct journals, records or checkpoints elsewhere."""
    (tmp_path / "run" / "journal").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "run" / "log").symlink_to(tmp_path / "secret")
    (tmp_path / "run" / "step-9").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CorruptError, match="journal is a symbolic link"):
        storage.append("journal/0001.jsonl")
    with pytest.raises(CorruptError, match="journal is a symbolic link"):
        storage.create("journal/x", b"x")
    with pytest.raises(StorageError):
        storage.append("log")
    with pytest.raises(AlreadyExistsError):
        storage.create("log", b"x")
    with pytest.raises(AlreadyExistsError):
        storage.begin("step-9", "1").commit(b"{}")
    assert (tmp_path / "secret").read_bytes() == b"secret"
    assert list((tmp_path / "elsewhere").iterdir()) == []
