"""A file system refuses what holdfast rests on, or says that it did it and did not: the probe finds out."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast.cli import main
from holdfast.errors import StorageError
from holdfast.storage import platform
from holdfast.storage.local import LocalStorage
from holdfast.storage.probe import Probe, probe
from holdfast.testing.faults import failing_call

BLOCK = 1 << 16


def probed(folder: Path) -> Probe:
    found = probe(str(folder), 4 * BLOCK, BLOCK)
    assert list(folder.iterdir()) == []
    return found


@pytest.fixture
def said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[[], tuple[int, str]]:
    """The exit code and the words of ``holdfast probe``."""

    def run() -> tuple[int, str]:
        code = main(["probe", str(tmp_path), "--sample", "8 MiB"])
        return code, " ".join(capsys.readouterr().out.split())

    return run


@pytest.mark.usefixtures("flag_refused")
def test_o_direct_refused_goes_through_the_page_cache(tmp_path: Path, said: Callable[[], tuple[int, str]]) -> None:
    """It is measured so, and no reason not to save there."""
    found = probed(tmp_path)
    assert not found.capabilities.direct.works
    assert found.speed is not None
    code, words = said()
    assert code == 0
    assert "✗ O_DIRECT refused: writes go through the page cache" in words


def test_hard_links_refused(tmp_path: Path, said: Callable[[], tuple[int, str]]) -> None:
    """There is a way without."""
    with failing_call("link", times=99, error=errno.EPERM):
        trial = probed(tmp_path).capabilities.links
        code, words = said()
    assert (trial.works, trial.lies, trial.because) == (False, False, os.strerror(errno.EPERM))
    assert code == 0
    assert "✗ hard links Operation not permitted: small records are made in two steps" in words


def test_reservation_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: Callable[[], tuple[int, str]]
) -> None:  # fmt: skip
    """Nothing is lost by it, and checkpoints are written all the same."""
    monkeypatch.setattr(platform, "reserve", lambda *arguments: False)
    assert not probed(tmp_path).capabilities.reservation.works
    code, words = said()
    assert code == 0
    assert "✗ reserving not offered: a full disk is found while a save is written" in words
    storage = LocalStorage(tmp_path / "run")
    attempt = storage.begin("a", "b")
    attempt.reserve("x", 4)
    attempt.write("x", [memoryview(b"data")], 4)
    attempt.commit(b"{}")
    assert storage.read("a/x", limit=4) == b"data"


def test_a_reservation_that_takes_no_room_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some file systems grant anything."""
    monkeypatch.setattr(platform, "reserve", lambda *arguments: True)
    trial = probed(tmp_path).capabilities.reservation
    assert (trial.works, trial.lies) == (False, True)


def test_record_locks_refused_keep_any_run_from_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: Callable[[], tuple[int, str]],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Exit code 8, in JSON too; the speed is measured all the same."""

    def refuse(descriptor: int) -> bool:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(platform, "try_lock", refuse)
    found = probed(tmp_path)
    assert (found.capabilities.locks.works, found.capabilities.locks.lies) == (False, False)
    assert found.speed is not None
    code, words = said()
    assert code == StorageError.exit_code
    assert "✗ record locks No locks available: no run starts here" in words
    assert "holdfast cannot keep a run here, for record locks. Choose another folder." in words
    assert main(["probe", str(tmp_path), "--sample", "8 MiB", "--json"]) == StorageError.exit_code
    found = json.loads(capsys.readouterr().out)
    assert (found["ok"], found["error"]["kind"]) == (False, "storage")
    assert str(tmp_path) in found["error"]["message"]


def test_record_locks_that_lie_are_found_out_by_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: Callable[[], tuple[int, str]]
) -> None:
    """The system says that this process has the lock, and gives it to the next one too."""
    monkeypatch.setattr(platform, "try_lock", lambda descriptor: True)
    trial = probed(tmp_path).capabilities.locks
    assert (trial.works, trial.lies) == (False, True)
    code, words = said()
    assert code == StorageError.exit_code
    assert "another process was given a lock that this one has: two trainers in one folder are not kept apart" in words


@pytest.mark.parametrize("program", ["/bin/false", "/not/there"])
def test_a_lock_that_nobody_else_could_ask_for_proves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    """Where no second process runs, nobody knows."""
    monkeypatch.setattr("sys.executable", program)
    assert not probed(tmp_path).capabilities.locks.works


def test_fsync_fails(tmp_path: Path, said: Callable[[], tuple[int, str]]) -> None:
    """Nothing can be durable there, so no speed of a save is told; exit code 8."""
    with failing_call("fsync", times=999):
        found = probed(tmp_path)
        code, words = said()
    assert found.speed is None
    assert found.capabilities.sync.because == os.strerror(errno.EIO)
    assert code == StorageError.exit_code
    assert "✗ fsync Input/output error: nothing that is written here can be made durable" in words
    assert "save=" not in words


def test_fsync_fails_on_the_sample(tmp_path: Path) -> None:
    """Later than in the trial: an error that names the file, and nothing is left behind."""
    with failing_call("fsync", call=4), pytest.raises(StorageError, match=r"cannot write .*sample") as caught:
        probe(str(tmp_path), 4 * BLOCK, BLOCK)
    assert caught.value.errno == errno.EIO
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_renamed(tmp_path: Path, said: Callable[[], tuple[int, str]]) -> None:
    """As on mounted object stores: no checkpoint can be committed."""
    with failing_call("rename", times=999, error=errno.ENOSYS):
        found = probed(tmp_path)
        code, words = said()
    assert (found.capabilities.rename.works, found.speed) == (False, None)
    assert code == StorageError.exit_code
    assert "✗ rename Function not implemented: no checkpoint can be committed" in words


def test_a_folder_that_cannot_be_renamed_even_to_a_free_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That a taken name is refused, as it should be, does not hide it."""

    def rename(source: str, target: str) -> None:
        number = errno.ENOTEMPTY if Path(target).exists() else errno.ENOSYS
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "rename", rename)
    trial = probed(tmp_path).capabilities.rename
    assert (trial.works, trial.because) == (False, os.strerror(errno.ENOSYS))


def test_a_rename_that_replaces_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: Callable[[], tuple[int, str]]
) -> None:
    """The commit is create-only because a folder that is not empty stays."""
    original = os.rename

    def rename(source: str, target: str) -> None:
        shutil.rmtree(target, ignore_errors=True)
        original(source, target)

    monkeypatch.setattr(os, "rename", rename)
    found = probed(tmp_path)
    assert (found.capabilities.rename.works, found.capabilities.rename.lies) == (False, True)
    assert said()[0] == StorageError.exit_code


def test_a_link_that_replaces_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: Callable[[], tuple[int, str]]
) -> None:
    """So are records that may be made only once."""
    original = os.link

    def link(source: str, target: str) -> None:
        Path(target).unlink(missing_ok=True)
        original(source, target)

    monkeypatch.setattr(os, "link", link)
    trial = probed(tmp_path).capabilities.links
    assert (trial.works, trial.lies) == (False, True)
    assert said()[0] == StorageError.exit_code
