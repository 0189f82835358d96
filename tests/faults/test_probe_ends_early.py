"""A probe is interrupted, killed, or finds no room: nothing is left behind, or the next one removes it."""

from __future__ import annotations

import errno
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast.cli import main
from holdfast.errors import StorageError
from holdfast.storage import platform
from holdfast.storage.probe import probe

Python = Callable[..., subprocess.Popen[str]]

WRITE_FOR_EVER = """
import signal, sys, time
from holdfast.cli import main
from holdfast.storage import speed

class Slow(speed.FileWriter):
    def write(self, block, needed):
        super().write(block, needed)
        print("writing", flush=True)
        time.sleep(60)

speed.FileWriter = Slow
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup
for name in sys.argv[2:]:
    signal.signal(getattr(signal, name), signal.SIG_IGN)
sys.exit(main(["probe", sys.argv[1], "--sample", "16 MiB"]))
"""

LIMITED = """
import resource, sys
from holdfast.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (6_000_000, 6_000_000))
sys.stderr = sys.stdout
sys.exit(main(["probe", sys.argv[1], "--sample", "16 MiB"]))
"""

BLOCK = 1 << 16


def started(python: Python, folder: Path, *ignored: str) -> subprocess.Popen[str]:
    """A probe that has begun to write its sample."""
    process = python(WRITE_FOR_EVER, folder, *ignored)
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    assert len(list(folder.iterdir())) == 1
    return process


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)], ids=["INT", "TERM", "HUP"]
)
def test_a_signal_ends_it_and_nothing_is_left(python: Python, tmp_path: Path, number: int, code: int) -> None:
    """With the exit code that a shell expects."""
    process = started(python, tmp_path)
    process.send_signal(number)
    assert process.wait(60) == code
    assert list(tmp_path.iterdir()) == []


def test_a_signal_that_was_ignored_stays_ignored(python: Python, tmp_path: Path) -> None:
    """As by nohup: the system's own list of what the process ignores has it, at the bit below its number."""
    process = started(python, tmp_path, "SIGHUP")
    status = Path(f"/proc/{process.pid}/status").read_text()
    ignored = next(line.split()[1] for line in status.splitlines() if line.startswith("SigIgn:"))
    assert int(ignored, 16) >> (signal.SIGHUP - 1) & 1
    process.terminate()
    assert process.wait(60) == 143


def test_what_sigkill_leaves_the_next_one_removes(
    python: Python, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And while it lives, nobody takes it away."""
    process = started(python, tmp_path)
    (left,) = tmp_path.iterdir()
    assert main(["probe", str(tmp_path), "--sample", "8 MiB"]) == 0
    assert list(tmp_path.iterdir()) == [left]
    process.kill()
    process.wait()
    assert main(["probe", str(tmp_path), "--sample", "8 MiB"]) == 0
    assert list(tmp_path.iterdir()) == []


def test_the_disk_fills_up(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the midst of the sample, because somebody else writes too: a typed error, and the room is free again."""
    before = platform.free_bytes(str(small_disk))
    with monkeypatch.context() as patch:
        patch.setattr(platform, "free_bytes", lambda path: 1 << 40)
        with pytest.raises(StorageError, match=r"cannot write .*sample: .*free some space") as caught:
            probe(str(small_disk), 4 << 20, BLOCK)
    assert caught.value.errno == errno.ENOSPC
    assert list(small_disk.iterdir()) == []
    assert platform.free_bytes(str(small_disk)) == before


def test_the_disk_is_full_already(small_disk: Path) -> None:
    """Trials that find no room say nothing about what the file system can do."""
    (small_disk / "data").write_bytes(bytes(900_000))
    with pytest.raises(StorageError, match="is free, and at least"):
        probe(str(small_disk), 4 << 20, BLOCK)
    assert [one.name for one in small_disk.iterdir()] == ["data"]


def test_a_trial_that_finds_no_room_is_an_error(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not say that O_DIRECT is refused."""
    monkeypatch.setattr(platform, "free_bytes", lambda path: 1 << 40)
    with pytest.raises(StorageError, match=r"cannot write in .*free some space"):
        probe(str(small_disk), 4 << 20, 2 << 20)
    assert list(small_disk.iterdir()) == []


def test_a_disk_that_is_too_small_at_the_shell(small_disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 8, and how much is needed."""
    assert main(["probe", str(small_disk)]) == StorageError.exit_code
    assert "1.0 MB is free, and at least 16.8 MB is needed" in capsys.readouterr().err


def test_a_read_only_file_system(
    small_disk: Path, read_only: Callable[[], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 8, and what to do."""
    read_only()
    assert main(["probe", str(small_disk)]) == StorageError.exit_code
    assert "read-only: remount it, or choose another folder" in capsys.readouterr().err


def test_files_may_not_be_so_large(python: Python, tmp_path: Path) -> None:
    """Exit code 8: a checkpoint could not be either."""
    process = python(LIMITED, tmp_path)
    words, _ = process.communicate()
    assert process.returncode == StorageError.exit_code
    assert "ulimit -f" in words
    assert list(tmp_path.iterdir()) == []
