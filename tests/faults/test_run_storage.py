"""The disk refuses, loses or lacks something while a run trains: the save fails loudly, the training does not."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from holdfast import Every, HoldfastWarning, Run, SaveError, StorageError
from holdfast.testing.faults import failing_call
from tests.harness.history import History, assert_nothing_lost
from tests.harness.small import Small, small, train, untouched
from tests.harness.trainers import start

WIDTH = 4096
"""Of a model whose checkpoints take about 200 kB."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run"


def steps(history: History) -> list[int]:
    return [int(name[5:13]) for name in history.checkpoints]


def fit_waiting(job: Small, run: Run, acts: dict[int, Callable[[], object]]) -> None:
    """Waits for each save, and does ``acts[n]`` in the batch after the first n."""

    def each(batches: int) -> None:
        run._session.saves.wait()
        acts.get(batches, lambda: None)()

    job.fit(run, 2, each)


def test_a_save_that_fails_costs_what_it_took(folder: Path, writer_fault: Any) -> None:
    """Else what bounds the overhead would ask for the next one at once."""
    writer_fault(action="error", function="rename", errno=errno.ENOSPC)
    run = Run(folder, small(WIDTH).state)
    run.save()
    with pytest.warns(HoldfastWarning, match="n0001 failed"):
        run._session.saves.wait()
    (schedule,) = run._session.saves.schedules
    assert (schedule.failed, schedule.cost.measured) == (True, True)
    assert min(schedule.cost.blocking, schedule.cost.persist) > 0
    with pytest.raises(SaveError):
        run.close()


def test_a_full_disk_fails_the_save_and_not_the_training(small_disk: Path) -> None:
    """ENOSPC: a warning, an event and a journal line; former checkpoints stay, and a later save finds room again."""
    folder, ballast, events = small_disk / "run", small_disk / "ballast", []
    job = small(WIDTH)

    def fill() -> None:
        status = os.statvfs(small_disk)
        ballast.write_bytes(bytes(status.f_bavail * status.f_frsize - 65536))

    run = Run(folder, job.state, save=Every(batches=2))
    run.on_event = events.append
    with pytest.warns(HoldfastWarning, match=r"n0002 failed: .*free some space") as caught, run:
        fit_waiting(job, run, {3: fill, 5: ballast.unlink})
    assert len(caught) == 1
    history = History(folder)
    assert steps(history) == [2, 6, 8]
    assert [line["name"] for line in history.events("save_failed")] == ["step-00000004.a0001.n0002"]
    assert [one.data["name"] for one in events if one.kind == "save_failed"] == ["step-00000004.a0001.n0002"]
    assert history.debris == []
    assert_nothing_lost(history, 3)


def test_a_disk_without_a_single_free_block_does_not_end_the_training(small_disk: Path) -> None:
    """Not even the journal can be written: said once, and its lines come later, none torn, none lost."""
    folder, ballast = small_disk / "run", small_disk / "ballast"
    job = small(WIDTH)

    def fill() -> None:
        with open(ballast, "wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))

    def log_much() -> None:
        run.log(**{f"metric{number}": float(number) for number in range(400)})

    with pytest.warns(HoldfastWarning) as caught, Run(folder, job.state, save=Every(batches=2)) as run:
        fit_waiting(job, run, {3: fill, 4: log_much, 5: ballast.unlink})
    said = [str(one.message) for one in caught]
    assert [one for one in said if "the journal is not written" in one and "Training goes on" in one] == said[1:2]
    history = History(folder)
    assert steps(history) == [2, 6, 8]
    assert [line["n"] for line in history.events("batch")] == list(range(1, 9))


def test_the_last_save_fails_and_the_end_says_so(small_disk: Path) -> None:
    """`close` raises `SaveError`; the checkpoint before is what a restart uses, and it ends the run as it should."""
    folder, ballast = small_disk / "run", small_disk / "ballast"
    job = small(WIDTH)
    run = Run(folder, job.state, save=Every(batches=3))

    def fill() -> None:
        status = os.statvfs(small_disk)
        ballast.write_bytes(bytes(status.f_bavail * status.f_frsize - 65536))

    with pytest.warns(HoldfastWarning, match="free some space"):
        fit_waiting(job, run, {4: fill})
    with pytest.raises(SaveError, match="Earlier checkpoints are untouched"):
        run.close()
    ballast.unlink()
    again = small(WIDTH)
    with Run(folder, again.state) as run:
        assert run.resumed_from == "step-00000003.a0001.n0001"
        again.fit(run)
    assert all(map(torch.equal, again.weights, job.weights))


def test_a_failed_save_of_the_last_boundary_is_tried_again_at_the_end(folder: Path, writer_fault: Any) -> None:
    """The final state is on disk, although the save that was due at the same boundary had failed."""
    writer_fault(action="error", function="rename", errno=errno.ENOSPC, call=2)
    job = small()

    def fit(run: Run) -> None:
        for (inputs,) in run.steps(job.loader, 8):
            run._session.saves.wait()
            job.step(inputs)

    with pytest.warns(HoldfastWarning, match="n0002 failed"), Run(folder, job.state, save=Every(batches=4)) as run:
        fit(run)
    assert [line["name"] for line in History(folder).events("save_failed")] == ["step-00000008.a0001.n0002"]
    assert History(folder).checkpoints == ["step-00000004.a0001.n0001", "step-00000008.a0001.n0003"]


@pytest.fixture
def file_size_limit() -> Iterator[Callable[[int, int], None]]:
    """Sets the soft limit of a process; that of this one is set back."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(pid: int, size: int) -> None:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, before[1]))

    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_file_size_limit_fails_the_save_and_not_the_training(folder: Path, file_size_limit: Any) -> None:
    """EFBIG, not the signal that would kill, nor a refusal of shared memory; without the limit, saves work again."""
    job = small(WIDTH)
    file_size_limit(0, 50_000)

    def lift() -> None:
        file_size_limit(run._session.saves.checkpointer.writer.pid, resource.RLIM_INFINITY)

    run = Run(folder, job.state, save=Every(batches=2))
    with pytest.warns(HoldfastWarning, match=r"n0001 failed: .*ulimit -f"), run:
        fit_waiting(job, run, {3: lift})
    history = History(folder)
    assert steps(history) == [4, 6, 8]
    assert history.debris == []
    assert_nothing_lost(history, 3)


def test_an_fsync_that_fails_once_is_mended_by_fresh_files(folder: Path, writer_fault: Any) -> None:
    """EIO: written once more under another name, said with a warning, and committed."""
    writer_fault(action="error", function="fsync")
    with pytest.warns(HoldfastWarning, match="I/O error.*Writing it once more to fresh files"):
        train(str(folder))
    history = History(folder)
    assert not history.events("save_failed")
    assert history.debris == []
    assert_nothing_lost(history, 3)


def test_an_error_that_was_mended_does_not_keep_the_arena_from_growing(folder: Path, writer_fault: Any) -> None:
    """The writer lets go of all of it, and lives on."""
    writer_fault(action="error", function="write", call=6)
    state = {"tensors": {"first": torch.zeros(8_000_000)}}
    run = Run(folder, state)
    run.save()
    with pytest.warns(HoldfastWarning, match="Writing it once more to fresh files"):
        run.wait()
    state["tensors"]["second"] = torch.zeros(8_000_000)
    run.save()
    run.close()
    assert len(History(folder).checkpoints) == 2
    assert "Traceback" not in History(folder).writer_log


def test_an_fsync_that_fails_again_fails_the_save(folder: Path, writer_fault: Any) -> None:
    """The second EIO is final for this save; the next one works."""
    writer_fault(action="error", function="fsync", times=2)
    with pytest.warns(HoldfastWarning) as caught:
        train(str(folder))
    assert any("n0001 failed" in str(one.message) for one in caught)
    history = History(folder)
    assert [line["name"] for line in history.events("save_failed")] == ["step-00000002.a0001.n0001"]
    assert history.checkpoints
    assert history.debris == []
    assert_nothing_lost(history, 3)


@pytest.mark.parametrize("call", range(1, 7))
def test_no_save_is_called_durable_when_one_of_its_fsyncs_failed(folder: Path, writer_fault: Any, call: int) -> None:
    """Of three files, a manifest and a folder, all is written again; of the parent, the save has failed."""
    writer_fault(action="error", function="fsync", call=call)
    job = small()
    run = Run(folder, job.state)
    with pytest.warns(HoldfastWarning, match="I/O error"):
        job.fit(run)
    history = History(folder)
    if call < 6:
        run.close()
        assert len(history.events("saved")) == 1
    else:
        refused = pytest.raises(SaveError, match="cannot commit")
        with pytest.warns(HoldfastWarning, match="without a checkpoint"), refused:
            run.close()
        assert not history.events("saved")
    history.verify_all()


def test_a_file_system_without_direct_writes_is_used_all_the_same(folder: Path, writer_fault: Any) -> None:
    """O_DIRECT refused at the first write of a shard: buffered from there on, and nothing to warn of."""
    writer_fault(action="error", function="write", errno=errno.EINVAL, call=2)  # the first one is the lock's record
    job = small(WIDTH)
    with Run(folder, job.state, save=Every(batches=2)) as run:
        job.fit(run)
    assert (folder.parent / "token.0").exists()
    history = History(folder)
    assert history.events("saved")
    assert_nothing_lost(history, 3)


def test_a_file_system_that_turns_read_only_does_not_end_the_training(folder: Path, writer_fault: Any) -> None:
    """EROFS: saves and journal fail, each is said, and the training ends with its bits."""
    writer_fault(action="error", function="mkdir", errno=errno.EROFS, call=2, times=100)
    job = small()
    run = Run(folder, job.state, save=Every(batches=2))
    with contextlib.ExitStack() as stack:
        turn = failing_call("write", error=errno.EROFS, times=1_000_000)
        caught = stack.enter_context(pytest.warns(HoldfastWarning))
        fit_waiting(job, run, {3: lambda: stack.enter_context(turn)})
    said = [str(one.message) for one in caught]
    assert sum("the journal is not written" in one for one in said) == 1
    assert sum("failed: [Errno 30]" in one for one in said) == len(said) - 1 == 3
    with pytest.raises(SaveError, match="read-only: remount it"):
        run.close()
    assert all(map(torch.equal, job.weights, untouched().weights))
    assert steps(History(folder)) == [2]


def test_a_run_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    """The error names it; the file and the model stay as they are."""
    file = tmp_path / "notes.txt"
    file.write_bytes(b"mine")
    job = small()
    before = job.weights
    with pytest.raises(StorageError, match=r"notes\.txt.*is a file, not a folder: choose another"):
        Run(file, job.state)
    assert file.read_bytes() == b"mine"
    assert all(map(torch.equal, job.weights, before))


def test_an_unwritable_folder_is_refused(tmp_path: Path) -> None:
    """The error names the folder and the way out."""
    place = tmp_path / "theirs"
    place.mkdir(mode=0o500)
    trainer = start("tests.harness.small:open_as_nobody", tmp_path / "out", folder=str(place / "run"))
    assert trainer.wait() == 1
    assert f"StorageError: [Errno {errno.EACCES}] cannot create the folder {place}/run" in trainer.text
    assert "change the permissions, or choose another folder" in trainer.text
    assert list(place.iterdir()) == []


def test_a_lack_of_processes_fails_the_save_and_not_the_training(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer that cannot be started is no reason to lose the training."""
    import subprocess

    job = small()
    original = subprocess.Popen

    def kill_writer() -> None:
        writer = run._session.saves.checkpointer.writer
        monkeypatch.setattr(subprocess, "Popen", refuse)
        os.kill(writer.pid, 9)
        writer._process.wait()

    def refuse(*arguments: Any, **options: Any) -> None:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    def allow() -> None:
        monkeypatch.setattr(subprocess, "Popen", original)

    with pytest.warns(HoldfastWarning) as caught, Run(folder, job.state, save=Every(batches=2)) as run:
        fit_waiting(job, run, {3: kill_writer, 5: allow})
    assert any("cannot start the writer process" in str(one.message) for one in caught)
    assert steps(History(folder)) == [2, 6, 8]
