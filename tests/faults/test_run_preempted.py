"""A run that a scheduler is about to end: signals, exit codes, Slurm's queue, deadlines."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from holdfast import (
    AtMostEvery,
    BeforeDeadline,
    Every,
    HoldfastWarning,
    OnSignal,
    Run,
    SavePolicy,
    Saver,
    UsageError,
    checkpoints,
)
from holdfast.policies.moment import Moment
from holdfast.run.saves import Saves
from tests.harness.history import History
from tests.harness.small import Small, small


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """Puts this process into job 42, whose `scontrol` is a script; what it was asked for."""
    tools, asked = tmp_path / "bin", tmp_path / "asked"
    tools.mkdir()
    for name in ("scontrol", "squeue"):
        script = tools / name
        script.write_text(f'#!/bin/sh\necho "{name} $@" >> {asked}\n')
        script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    return lambda: [line for line in asked.read_text().splitlines() if "requeue" in line] if asked.exists() else []


def stopped(folder: Path, save: Any, number: int | None = None) -> Any:
    """The exit code of a run that gets a signal in its third batch, or ends by itself."""
    job = small()
    with pytest.raises(SystemExit) as ended, Run(folder, job.state, save=save) as run:
        job.fit(run, 1000, lambda batches: _tell(batches, number))
    return ended.value.code


def _tell(batches: int, number: int | None) -> None:
    if number is not None and batches == 2:
        os.kill(os.getpid(), number)
    if number is None:
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2])
def test_each_of_the_signals_saves(folder: Path, number: int) -> None:
    """Schedulers send any of them; the exit code tells which."""
    assert stopped(folder, OnSignal(), number) == 128 + number
    assert [one.progress.batches for one in checkpoints(folder)] == [3]


def test_the_exit_code_may_be_chosen(folder: Path) -> None:
    """For schedulers that start a job again by its code; it is the same where no boundary comes any more."""
    assert stopped(folder, OnSignal(exit_code=75), signal.SIGTERM) == 75
    with pytest.raises(SystemExit) as ended:
        leave_and_be_told(folder)
    assert ended.value.code == 75


def leave_and_be_told(folder: Path) -> None:
    job = small()
    with Run(folder, job.state, save=OnSignal(exit_code=75)) as run:
        for (inputs,) in run.batches(job.loader):
            job.step(inputs)
            break
        os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2])
def test_a_slurm_job_is_requeued_when_the_save_is_durable(
    folder: Path, slurm: Any, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the signals that `sbatch --signal` sends: the job that Slurm then starts again finds the checkpoint."""
    there: list[int] = []
    monkeypatch.setattr("holdfast.run.stops.requeue", lambda: there.append(len(checkpoints(folder))))
    stopped(folder, OnSignal(requeue=True), number)
    assert there == [1]


def test_what_was_cancelled_is_not_requeued(folder: Path, slurm: Any, capsys: Any) -> None:
    """`scancel` sends SIGTERM, and so does an end of time that nobody planned for; it is said."""
    stopped(folder / "cancelled", OnSignal(requeue=True), signal.SIGTERM)
    assert "not requeued: SIGTERM may be a scancel" in capsys.readouterr().err
    stopped(folder / "not asked for", OnSignal(), signal.SIGUSR1)
    assert slurm() == []
    stopped(folder / "requeued", OnSignal(requeue=True), signal.SIGUSR1)
    assert slurm() == ["scontrol requeue 42"]


def test_outside_of_slurm_nothing_is_said_to_have_been_cancelled(folder: Path) -> None:
    """The same script on a laptop."""
    with pytest.warns(HoldfastWarning, match="in no Slurm job"):
        stopped(folder, OnSignal(requeue=True), signal.SIGTERM)


def test_a_job_that_cannot_be_requeued_is_told(folder: Path) -> None:
    """The checkpoint is there all the same, and the exit code is what it would have been."""
    with pytest.warns(HoldfastWarning, match="is not requeued: this process is in no Slurm job"):
        assert stopped(folder, OnSignal(requeue=True), signal.SIGUSR1) == 138
    assert len(checkpoints(folder)) == 1


def test_a_run_saves_before_its_deadline_and_goes_on(folder: Path, tmp_path: Path) -> None:
    """Once for each deadline, in time for the save to finish."""
    notice = tmp_path / "notice"
    job = small()
    save = BeforeDeadline(notice=notice, grace=600, margin=900)
    with Run(folder, job.state, save=save) as run:
        job.fit(run, 30, lambda batches: _give_notice(notice, batches, run))
    found = checkpoints(folder)
    assert [one.reason[0][:19] for one in found] == ["before the deadline", "at end"]
    assert found[0].progress.batches < 118


def _give_notice(notice: Path, batches: int, run: Run) -> None:
    if batches == 3:
        notice.touch()
        deadline = time.monotonic() + 30
        while not run._session._stops.deadlines():
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_a_run_ends_itself_before_the_end_of_its_slurm_job(
    folder: Path, slurm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `stop`, saved and requeued, with the exit code that schedulers were promised."""
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(time.time() + 1000)))
    save = BeforeDeadline(slurm=True, margin=2000, stop=True) | OnSignal(exit_code=0, requeue=True)
    assert stopped(folder, save) == 0
    assert slurm() == ["scontrol requeue 42"]
    (only,) = checkpoints(folder)
    assert only.reason[0].startswith("before the deadline")
    assert "stopped by the deadline: saved" in History(folder).events("stopped")[0]["message"]


def test_a_deadline_that_is_too_near_is_said(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A save that will hardly be durable in time is tried, and the run says how much time is missing."""
    notice = tmp_path / "notice"
    notice.touch()
    os.utime(notice, (time.time() + 20, time.time() + 20))
    slow_saves(monkeypatch, 60.0)
    save = BeforeDeadline(notice=notice, grace=1)
    with pytest.warns(HoldfastWarning, match=r"s are left until the deadline, and a save takes about 1 min"):
        linger(folder, save)


def linger(folder: Path, save: Any) -> None:
    job = small()
    with Run(folder, job.state, save=save) as run:
        job.fit(run, 50, lambda batches: time.sleep(0.01))


def slow_saves(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """As if the state were large, before the first save."""
    from holdfast.run.costs import SaveCost

    def estimate(self: Saves, items: Any) -> None:
        for schedule in self.schedules:
            if not schedule.cost.measured:
                schedule.cost = SaveCost(blocking=1.0, persist=seconds - 1.0)

    monkeypatch.setattr(Saves, "estimate", estimate)


def test_a_signal_that_leaves_too_little_time_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is known how long after a signal the kill comes."""
    slow_saves(monkeypatch, 60.0)
    with pytest.warns(HoldfastWarning, match=r"a save takes about 1 min, and 30 s after the signal comes the kill"):
        stopped(folder, OnSignal(grace=30) | Every(epochs=500), signal.SIGTERM)
    assert len(checkpoints(folder)) == 1


def test_a_restart_before_the_same_deadline_does_not_stop_at_once(folder: Path) -> None:
    """Else it would be started again and again until the deadline, and get nothing done."""
    save = BeforeDeadline(at=time.time() + 1000, margin=2000, stop=True)
    assert stopped(folder, save) == 143
    job: Small = small()
    with Run(folder, job.state, save=save) as run:
        job.fit(run, 2)
    assert checkpoints(folder)[-1].progress.batches == 8


class AtTheLastBatch(SavePolicy):
    """As a deadline that is near at the last batch of an epoch of four."""

    def due(self, moment: Moment) -> str | None:
        return "near" if moment.event == "boundary" and moment.progress.batches == 4 else None

    def insists(self, moment: Moment) -> bool:
        return self.due(moment) is not None

    urgent = insists


@pytest.mark.parametrize("save", [AtTheLastBatch(), AtTheLastBatch() & AtMostEvery(batches=1)])
def test_the_end_comes_during_the_evaluation_behind_the_last_batch(folder: Path, save: SavePolicy) -> None:
    """What is urgent is saved at that batch; other saves wait for the end of the epoch."""
    job, found = small(), list[list[tuple[int, int]]]()
    with Run(folder, job.state, save=save) as run:
        for _ in run.epochs(2):
            for (inputs,) in run.batches(job.loader):
                job.step(inputs)
            run.wait()
            found.append([(one.progress.epoch, one.progress.batch) for one in checkpoints(folder)])
    assert found == [[(0, 4)], [(0, 4)]]


def test_another_save_is_being_written_when_the_end_comes(folder: Path) -> None:
    """What is urgent waits for it, and so does training: a few batches later would be too late."""
    job = small(batches=6)
    with Run(folder, job.state, save=Every(batches=3) | AtTheLastBatch()) as run:
        run.save()
        run.wait()

        def each(batches: int) -> None:
            if batches == 2:
                writer = run._session.saves.checkpointer.writer.pid
                os.kill(writer, signal.SIGSTOP)
                threading.Timer(0.5, os.kill, (writer, signal.SIGCONT)).start()

        job.fit(run, 1, each)
    assert [one.progress.batches for one in checkpoints(folder)] == [3, 4, 6]


def test_the_storage_refuses_before_the_deadline(folder: Path, writer_fault: Any) -> None:
    """The failure is said, the process ends all the same, and what is told of its end is true."""
    writer_fault(action="error", function="rename", errno=28)
    with pytest.warns(HoldfastWarning, match="n0001 failed"), pytest.warns(match="ends without a checkpoint"):
        assert stopped(folder, BeforeDeadline(at=time.time() + 1000, margin=2000, stop=True)) == 143
    assert checkpoints(folder) == []
    (line,) = History(folder).events("stopped")
    assert line["saved"] is False
    assert "stopped by the deadline: the save failed" in line["message"]


def test_a_folder_failed_before_the_signal(folder: Path, tmp_path: Path) -> None:
    """An export that could not be written long ago says nothing of what is saved now."""
    savers = [Saver(save=OnSignal()), Saver(tmp_path / "models", save=AtTheLastBatch(), items=["model"])]
    job = small()

    def each(batches: int) -> None:
        if batches == 0:
            shutil.rmtree(tmp_path / "models")
        if batches == 6:
            os.kill(os.getpid(), signal.SIGTERM)

    with (
        pytest.warns(HoldfastWarning, match="is gone"),
        pytest.raises(SystemExit),
        Run(folder, job.state, savers=savers) as run,
    ):
        job.fit(run, 2, each)
    assert [one.progress.batches for one in checkpoints(folder)] == [7]
    assert History(folder).events("stopped")[0]["saved"] is True


def _notices() -> list[Saver]:
    return [Saver(save=BeforeDeadline(notice=lambda: None)), Saver("models", save=BeforeDeadline(notice=lambda: None))]


@pytest.mark.parametrize(
    ("savers", "said"),
    [
        ([Saver(save=OnSignal(exit_code=75)), Saver("models", save=OnSignal(exit_code=3))], "savers ask for 3, 75"),
        (_notices(), "not for the same"),
    ],
)
def test_savers_that_contradict_each_other_are_refused(
    tmp_path: Path, savers: list[Saver], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process ends with one code, and a name has one notice: nothing is made on disk."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=said):
        Run("run", small().state, savers=savers)
    assert list(tmp_path.iterdir()) == []
