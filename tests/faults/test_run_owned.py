"""Somebody else has the run folder, or had it; the platform cannot own one."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from holdfast import Every, HoldfastWarning, OwnershipError, PlatformError, Run, SaveError, Saver, latest
from holdfast.engine import run_folder
from tests.harness.history import History, assert_nothing_lost
from tests.harness.injection import syscalls
from tests.harness.small import small, train, untouched
from tests.harness.trainers import INJECTION, start


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run"


def test_a_second_live_trainer_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names host and process; the first one trains on, undisturbed."""
    monkeypatch.setattr(run_folder, "TRAINER_WAIT_SECONDS", 0.0)
    first = start("tests.harness.small:linger", folder.parent / "out", folder=str(folder))
    try:
        first.await_text("batch 3")
        for _ in range(2):
            with pytest.raises(OwnershipError, match=f"pid {first.pid} on {socket.gethostname()}") as caught:
                Run(folder, small().state)
            assert "end that one first, or choose another folder" in str(caught.value)
        first.await_text(f"batch {first.text.count('batch') + 3}")
        assert len(History(folder).attempts) == 1
    finally:
        first.kill()
        first.wait()


def test_a_trainer_that_is_still_dying_is_waited_for(folder: Path) -> None:
    """A killed process keeps its lock while its memory is freed: a restart at that moment is not refused."""
    first = start("tests.harness.small:linger", folder.parent / "out", folder=str(folder))
    first.await_text("batch 3")
    first.kill()
    with Run(folder, small().state) as run:
        assert run.resumed_from is not None
    first.wait()


HOLD = """
import sys
from holdfast.storage.locks import RecordLock
RecordLock(sys.argv[1]).acquire()
print("taken", flush=True)
sys.stdin.readline()
"""


def test_a_lock_that_comes_free_in_time_is_taken(folder: Path, python: Callable[..., subprocess.Popen[str]]) -> None:
    """What is waited for is the lock, whoever has it."""
    folder.mkdir()
    holder = python(HOLD, folder / ".trainer.lock")
    assert holder.stdout is not None
    assert holder.stdin is not None
    holder.stdout.readline()
    threading.Timer(0.1, holder.stdin.close).start()
    Run(folder, small().state).close()


def test_a_second_run_in_the_same_process_closes_the_first(folder: Path) -> None:
    """A notebook cell that is run again: the first run saves where it was, and the second goes on from there."""
    job = small()
    first = Run(folder, job.state, save=Every(batches=100))
    for _ in first.epochs(2):
        for (inputs,) in first.batches(job.loader):
            job.step(inputs)
            if first.progress.batches == 2:
                break
        break
    again = small()
    with Run(folder, again.state, save=Every(batches=100)) as second:
        assert second.resumed_from is not None
        again.fit(second)
    assert all(map(torch.equal, again.weights, untouched().weights))
    assert_nothing_lost(History(folder), 3)
    first.close()  # a second time, which does nothing


def test_a_cell_whose_last_save_failed_can_be_run_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The failure was said when it came; the new run is not refused for it."""
    fault = {"action": "error", "function": "rename", "errno": 28, "token": str(folder.parent / "token")}
    with monkeypatch.context() as patch:
        patch.setenv("PYTHONPATH", str(INJECTION))
        patch.setenv(syscalls.VARIABLE, json.dumps([fault]))
        first = Run(folder, small().state)
    first.save()
    with pytest.warns(HoldfastWarning, match="free some space"):
        first._session.saves.wait()
    with Run(folder, small().state) as second:
        second.save()


def test_a_run_that_could_not_start_leaves_nothing_running(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an error in the constructor the folder is free at once, its writer gone and its locks released."""
    train(str(folder))

    def refuse(*arguments: object, **options: object) -> None:
        raise RuntimeError("not now")

    with monkeypatch.context() as patch:
        patch.setattr("holdfast.run.opening.Session", refuse)
        with pytest.raises(RuntimeError, match="not now"):
            Run(folder, small().state)
    monkeypatch.setattr(run_folder, "TRAINER_WAIT_SECONDS", 0.0)
    monkeypatch.setattr(run_folder, "WRITER_WAIT_SECONDS", 0.0)
    Run(folder, small().state).close()


def test_a_moved_run_folder_is_the_same_run(folder: Path) -> None:
    """Nothing in it says where it is: moved between attempts, it resumes and prunes as before."""
    train(str(folder), epochs=1)
    identity = (folder / "holdfast.json").read_bytes()
    moved = Path(shutil.move(folder, folder.parent / "elsewhere"))
    job = train(str(moved), epochs=2)
    assert (moved / "holdfast.json").read_bytes() == identity
    assert not folder.exists()
    assert all(map(torch.equal, job.weights, untouched().weights))
    assert len(History(moved).checkpoints) == 3
    assert_nothing_lost(History(moved), 3)


def test_windows_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`Run` says what works there, and touches nothing."""
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(PlatformError, match="Reading checkpoints and the holdfast command work on Windows"):
        Run(folder, {"model": torch.nn.Linear(1, 1)})
    assert not folder.exists()


def test_a_folder_that_was_removed_takes_no_more_checkpoints(folder: Path) -> None:
    """Made again behind the user's back, it would look like a run that began in its middle."""
    run = Run(folder, small().state)
    run.save()
    run.wait()
    shutil.rmtree(folder)
    run.save()
    with pytest.warns(HoldfastWarning, match="is gone: nothing of this run can be saved"), pytest.raises(SaveError):
        run.wait()
    with pytest.raises(SaveError):
        run.close()
    assert not folder.exists()


def test_a_trainer_whose_folder_was_started_anew_does_not_write_into_it(folder: Path) -> None:
    """`rm -rf` and a fresh start while the old job still runs: the old one fails loudly, the new one is alone."""
    old = Run(folder, small().state)
    shutil.rmtree(folder)
    subprocess.run([sys.executable, "-c", FRESH, str(folder)], check=True)
    before = History(folder).checkpoints
    old.save()
    with pytest.warns(HoldfastWarning, match="holds another run now"), pytest.raises(SaveError):
        old.wait()
    with pytest.raises(SaveError):
        old.close()
    assert History(folder).checkpoints == before


FRESH = """
import sys
from tests.harness.small import train
train(sys.argv[1])
"""


def test_a_checkpoint_of_another_run_is_passed_over(folder: Path, tmp_path: Path) -> None:
    """Whoever put it there, its state is not this run's; it is named, kept, and never newest."""
    train(str(folder))
    train(str(tmp_path / "other"), 4)
    stranger = sorted((tmp_path / "other").glob("step-*"))[-1]
    own = latest(folder)
    shutil.copytree(stranger, folder / stranger.name)
    assert own is not None
    assert latest(folder) == own
    with pytest.warns(HoldfastWarning, match="written by another run"), Run(folder, small().state) as run:
        assert run.resumed_from == own.name
    assert (folder / stranger.name).exists()


def test_checkpoints_copied_without_the_record_of_their_run_still_are_one(folder: Path, tmp_path: Path) -> None:
    """People copy `step-*` to another disk and go on there."""
    train(str(folder))
    newest = latest(folder)
    assert newest is not None
    shutil.copytree(newest.path, tmp_path / "copy" / newest.name)
    with Run(tmp_path / "copy", small().state) as run:
        assert run.resumed_from == newest.name
        assert run.id == newest.manifest.run


def test_a_copy_does_not_write_into_the_folders_of_the_original(folder: Path, tmp_path: Path) -> None:
    """`cp -r` of the run's own folder: both would save into the other one, whether or not they run at one time."""
    savers = [Saver(tmp_path / "models", items=["model"]), Saver()]
    Run(folder, small().state, savers=savers).close()
    copy = shutil.copytree(folder, tmp_path / "copy")
    with pytest.raises(OwnershipError, match=rf"the run in .*{folder} saves into this folder, and .*{copy} is a copy"):
        Run(copy, small().state, savers=savers)
    folder.rename(tmp_path / "away")
    Run(copy, small().state, savers=savers).close()
    with pytest.raises(OwnershipError, match="is a copy of it"):
        Run(tmp_path / "away", small().state, savers=savers)
