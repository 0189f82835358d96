"""A folder to try things out in goes, whatever happens, and nothing else does."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.errors import StorageError
from holdfast.storage import platform
from holdfast.storage.scratch import scratch_folder
from holdfast.testing.faults import failing_call


def fill(folder: str) -> None:
    Path(folder, "inner").mkdir()
    Path(folder, "inner", "file").write_bytes(b"data")


def left(folder: Path, lock: bool = True) -> Path:
    """What a killed process leaves."""
    scratch = folder / ".holdfast-probe-0123abcd"
    (scratch / "inside").mkdir(parents=True)
    fill(str(scratch / "inside"))
    if lock:
        (scratch / "owner.lock").touch()
    return scratch


def test_it_is_hidden_new_and_goes(tmp_path: Path) -> None:
    """With all that is in it."""
    with scratch_folder(str(tmp_path)) as folder:
        (hidden,) = tmp_path.iterdir()
        assert Path(folder).parent == hidden
        assert hidden.name.startswith(".")
        fill(folder)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_it_goes_however_the_body_ends(tmp_path: Path, error: type[BaseException]) -> None:
    """The body's own error comes out."""

    def use() -> None:
        with scratch_folder(str(tmp_path)) as folder:
            fill(folder)
            raise error

    with pytest.raises(error):
        use()
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    """Before anything else, so that its room can be used again."""
    scratch = left(tmp_path)
    with scratch_folder(str(tmp_path)):
        assert not scratch.exists()


def test_that_of_a_process_that_lives_stays(tmp_path: Path) -> None:
    """Two may be at work in one folder."""
    with scratch_folder(str(tmp_path)) as first, scratch_folder(str(tmp_path)) as second:
        assert first != second
        assert Path(first).is_dir()


def test_without_the_owners_lock_nobody_knows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is being made has no lock yet; where there are no locks, all are left alone."""
    without = left(tmp_path, lock=False)
    with scratch_folder(str(tmp_path)):
        assert without.is_dir()
    (without / "owner.lock").touch()

    def refuse(descriptor: int) -> bool:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(platform, "try_lock", refuse)
    with scratch_folder(str(tmp_path)) as folder:
        assert Path(folder).is_dir()
    assert list(tmp_path.iterdir()) == [without]


def test_only_folders_of_that_name_are_removed(tmp_path: Path) -> None:
    """A link with such a name is no folder of ours, and leads to somebody else's."""
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "owner.lock").write_bytes(b"data")
    (tmp_path / ".holdfast-probe-0123abcd").symlink_to(precious)
    (tmp_path / ".holdfast-probe-notes").mkdir()
    (tmp_path / ".holdfast-probe-notes" / "owner.lock").touch()
    with scratch_folder(str(tmp_path)):
        pass
    assert (precious / "owner.lock").read_bytes() == b"data"
    assert len(list(tmp_path.iterdir())) == 3


def test_a_folder_that_cannot_be_written_to_is_an_error(tmp_path: Path) -> None:
    """It says what to do."""
    with (
        failing_call("mkdir", error=errno.EROFS),
        pytest.raises(StorageError, match="read-only: remount it, or choose another folder"),
        scratch_folder(str(tmp_path)),
    ):
        raise AssertionError("there is no folder")


def test_one_that_cannot_be_removed_is_an_error(tmp_path: Path) -> None:
    """Somebody has to know what stays behind; an error of the body is more important than that."""
    with failing_call("rmdir"), pytest.raises(StorageError, match="cannot remove"), scratch_folder(str(tmp_path)):
        pass
    with failing_call("rmdir"), pytest.raises(ValueError, match="body"), scratch_folder(str(tmp_path)):
        raise ValueError("body")


def test_the_lock_goes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed in between, what takes room is still known as abandoned, whatever order the system lists files in."""
    removed: list[str] = []
    unlink, scandir = os.unlink, os.scandir

    def note(path: str) -> None:
        removed.append(Path(path).name)
        unlink(path)

    @contextlib.contextmanager
    def lock_first(path: str) -> Iterator[Iterator[os.DirEntry[str]]]:
        with scandir(path) as entries:
            yield iter(sorted(entries, key=lambda one: one.name, reverse=True))

    with scratch_folder(str(tmp_path)) as folder:
        fill(folder)
        monkeypatch.setattr(os, "unlink", note)
        monkeypatch.setattr(os, "scandir", lock_first)
    assert removed == ["file", "owner.lock"]


def test_a_removal_that_was_cut_short_is_finished_by_the_next(tmp_path: Path) -> None:
    """What takes room goes before the lock by which it is known."""
    with failing_call("unlink"), pytest.raises(StorageError), scratch_folder(str(tmp_path)) as folder:
        fill(folder)
    assert len(list(tmp_path.iterdir())) == 1
    with scratch_folder(str(tmp_path)):
        pass
    assert list(tmp_path.iterdir()) == []
