"""The trainer or its writer process is killed: what was promised is kept, and training goes on."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from holdfast import Every, HoldfastWarning, Run, SaveError
from holdfast.engine.writer_handle import RESTARTS
from tests.harness.history import History, assert_nothing_lost
from tests.harness.small import small, untouched
from tests.harness.trainers import Trainer, await_condition, start

SCENES = "tests.harness.small"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run"


def begin(scene: str, folder: Path, **arguments: Any) -> Trainer:
    outputs = len(list(folder.parent.glob("*.out")))
    return start(f"{SCENES}:{scene}", folder.parent / f"{outputs}.out", folder=str(folder), **arguments)


def writer_of(trainer: Trainer) -> int:
    trainer.await_text("writer ")
    return int(trainer.text.split("writer ")[1].split()[0])


def test_killed_right_after_its_snapshot_the_checkpoint_appears(folder: Path) -> None:
    """The writer had not touched the snapshot; a restart at once waits for it and resumes from it."""
    trainer = begin("die_after_snapshot", folder, stop_writer=True)
    writer = writer_of(trainer)
    assert trainer.wait() == -signal.SIGKILL
    assert History(folder).checkpoints == []
    again = begin("resume", folder)
    again.await_text("waiting for the writer of the previous attempt")
    os.kill(writer, signal.SIGCONT)
    assert again.wait() == 0, again.text
    assert "resumed from step-00000003.a0001.n0001" in again.text
    assert "exact" in again.text
    assert_nothing_lost(History(folder), 3)


def test_killed_right_after_its_snapshot_and_restarted_within_a_millisecond(folder: Path) -> None:
    """Nobody stops the writer or waits for it: the restart finds the checkpoint all the same."""
    trainer = begin("die_after_snapshot", folder, stop_writer=False)
    assert trainer.wait() == -signal.SIGKILL
    again = begin("resume", folder)
    assert again.wait() == 0, again.text
    assert "resumed from step-00000003.a0001.n0001" in again.text
    assert "exact" in again.text


def test_killed_right_after_a_snapshot_taken_while_the_writer_started(folder: Path) -> None:
    """A save that returned is kept, also when its writer had only just been started."""
    trainer = begin("die_at_once", folder)
    assert trainer.wait() == -signal.SIGKILL
    again = begin("resume", folder)
    assert again.wait() == 0, again.text
    assert "resumed from step-00000000.a0001.n0001" in again.text
    assert "exact" in again.text


@pytest.mark.parametrize("wakes", ["before the restart", "after the restart"])
def test_killed_while_a_save_waits_for_a_writer_that_has_not_started(folder: Path, wakes: str) -> None:
    """That save had not returned: nothing of it is there, no restart is refused, and the old writer does nothing."""
    trainer = begin("wait_for_stopped_writer", folder)
    trainer.await_text("snapshot taken")
    trainer.kill()
    if wakes == "before the restart":
        os.kill(writer_of(trainer), signal.SIGCONT)
    again = begin("resume", folder)
    if wakes == "after the restart":
        again.await_text("resumed from")
        os.kill(writer_of(trainer), signal.SIGCONT)
    assert again.wait() == 0, again.text
    assert "resumed from None" in again.text
    assert "exact" in again.text
    history = History(folder)
    assert {name.split(".")[1] for name in history.checkpoints} == {"a0002"}
    assert "Traceback" not in history.writer_log


def test_a_writer_killed_with_nothing_to_do_is_replaced(folder: Path) -> None:
    """The next boundary notices, and the next save works as if nothing had happened."""
    job, pids = small(), set()

    def each(batches: int) -> None:
        writer = run._session.saves.checkpointer.writer
        pids.add(writer.pid)
        if batches == 1:
            writer._await_ready()
            os.kill(writer.pid, signal.SIGKILL)
            writer._process.wait()

    with Run(folder, job.state, save=Every(batches=4)) as run, pytest.warns(HoldfastWarning, match="died 1 time"):
        job.fit(run, 2, each)
    assert len(pids) == 2
    assert_nothing_lost(History(folder), 3)
    assert History(folder).checkpoints


def test_a_writer_killed_before_the_first_batch_was_over(folder: Path) -> None:
    """The arena that the state after the first step needs does not replace the one that still holds a snapshot."""
    job = small(width=4096)
    run = Run(folder, job.state, save=Every(batches=100))
    writer = run._session.saves.checkpointer.writer
    writer._await_ready()
    os.kill(writer.pid, signal.SIGSTOP)
    run.save()

    def each(batches: int) -> None:
        if batches == 2:
            os.kill(writer.pid, signal.SIGKILL)
            writer._process.wait()

    with pytest.warns(HoldfastWarning, match="n0001: the writer process had died 1 time"):
        job.fit(run, 1, each)
    run.close()
    assert_nothing_lost(History(folder), 3)
    assert len(History(folder).events("saved")) == 2


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_writer_killed_while_it_gives_back_space(folder: Path, writer_fault: Any, when: str) -> None:
    """The checkpoint was durable before that, and what is left of the deleted one goes at the end of the run."""
    writer_fault(action="kill", function="unlink", call=2, when=when)
    job = small()
    with Run(folder, job.state, save=Every(batches=2)) as run:
        job.fit(run, each=lambda _: run.wait())
    history = History(folder)
    assert not history.events("save_failed")
    assert [int(name[5:13]) for name in history.checkpoints] == [4, 6, 8]
    assert_nothing_lost(history, 3)
    assert history.debris == []


@pytest.mark.parametrize("function", ["write", "fsync", "rename"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_writer_killed_while_it_writes_is_replaced(folder: Path, writer_fault: Any, function: str, when: str) -> None:
    """The arena is persisted again by another one, which removes what the first one left."""
    writer_fault(action="kill", function=function, call=2, when=when)
    job = small()
    replaced = pytest.warns(HoldfastWarning, match="the writer process had died 1 time and was replaced")
    with replaced, Run(folder, job.state, save=Every(batches=2)) as run:
        job.fit(run, each=lambda _: run.wait())
    history = History(folder)
    assert history.debris == []
    assert not history.events("save_failed")
    assert [int(name[5:13]) for name in history.checkpoints] == [4, 6, 8]
    assert_nothing_lost(history, 3)


def test_a_writer_that_dies_again_and_again_does_not_end_the_training(folder: Path, writer_fault: Any) -> None:
    """After the limit the save has failed, loudly; the next one, whose writer lives, works."""
    writer_fault(action="kill", function="fsync", times=RESTARTS + 1)
    job = small()
    with pytest.warns(HoldfastWarning) as caught, Run(folder, job.state, save=Every(batches=4)) as run:
        job.fit(run, 2)
    first, second = (str(one.message) for one in caught)
    assert f"n0001 failed: the writer process died {RESTARTS + 1} times over one save" in first
    assert "n0002: the writer process had died 1 time and was replaced" in second
    history = History(folder)
    assert [line["name"] for line in history.events("save_failed")] == ["step-00000004.a0001.n0001"]
    assert history.checkpoints == ["step-00000008.a0001.n0002"]
    assert history.debris == []
    assert all(map(torch.equal, job.weights, untouched().weights))


def test_a_save_that_is_waited_for_raises_when_its_writers_die(folder: Path, writer_fault: Any) -> None:
    """`wait` and `close` raise `SaveError`."""
    writer_fault(action="kill", function="fsync", times=100)
    job = small()
    run = Run(folder, job.state)
    run.save()
    refused = pytest.raises(SaveError, match="Earlier checkpoints are untouched")
    with pytest.warns(HoldfastWarning, match="failed"), refused:
        run.wait()
    with pytest.raises(SaveError):
        run.close()


def test_a_launcher_that_captures_the_output_does_not_wait_for_the_writer(folder: Path) -> None:
    """The end of the trainer's output comes with its death, while the writer still holds a snapshot."""
    pipe = folder.parent / "0.out"
    os.mkfifo(pipe)
    lines: list[str] = []
    reader = threading.Thread(target=lambda: lines.append(pipe.read_text()))
    reader.start()
    trainer = start(f"{SCENES}:die_after_snapshot", pipe, folder=str(folder), stop_writer=True)
    assert trainer.wait() == -signal.SIGKILL
    reader.join(30)
    writer = int("".join(lines).split("writer ")[1].split()[0])
    try:
        assert not reader.is_alive()
        assert History(folder).checkpoints == []
    finally:
        os.kill(writer, signal.SIGCONT)
    await_condition(lambda: History(folder).checkpoints, lambda: "the checkpoint")


def test_a_forked_child_does_not_disturb(folder: Path) -> None:
    """It closes the run it inherited and ends like a script; the parent keeps lock, writer and exactness."""
    trainer = begin("fork_a_child", folder)
    assert trainer.wait() == 0, trainer.text
    assert trainer.text.splitlines() == ["exact"]
    assert len(History(folder).attempts) == 1
    assert_nothing_lost(History(folder), 3)


def test_a_forked_child_cannot_train_on(folder: Path) -> None:
    """It is told so at the next boundary and at a save, and starts no writer; the parent is exact."""
    trainer = begin("train_on_in_a_fork", folder)
    assert trainer.wait() == 0, trainer.text
    save, opened, loop, parent = trainer.text.splitlines()
    assert save.startswith("UsageError: this process is a fork")
    assert opened.startswith("OwnershipError: ")
    assert loop.startswith("in the loop: this process is a fork")
    assert parent == "exact"
    assert len(History(folder).attempts) == 1
    assert_nothing_lost(History(folder), 3)
