"""A run is asked to stop: it saves at the next boundary, and the one who asked again is obeyed at once."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from holdfast import Every, HoldfastWarning, OnSignal, Run, SaveError
from holdfast.run.saves import Saves
from tests.harness.history import History, assert_nothing_lost
from tests.harness.injection import syscalls
from tests.harness.small import small, untouched
from tests.harness.trainers import INJECTION, Trainer, start

STOPPING = [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def linger(folder: Path) -> Iterator[Any]:
    """Starts a trainer that goes on for minutes; it is gone afterwards."""
    trainers: list[Trainer] = []

    def begin(**arguments: Any) -> Trainer:
        trainers.append(start("tests.harness.small:linger", folder.parent / "out", folder=str(folder), **arguments))
        trainers[-1].await_text("batch 3\n")
        return trainers[-1]

    yield begin
    for trainer in trainers:
        trainer.discard()


def newest_step(folder: Path) -> int:
    return int(History(folder).checkpoints[-1][5:13])


@pytest.mark.parametrize("number", STOPPING)
def test_a_signal_saves_at_the_next_boundary(folder: Path, linger: Any, number: signal.Signals) -> None:
    """It is said at once; the last batch that ran is in the checkpoint, and the exit code is 128 + n."""
    trainer = linger()
    trainer.send(number)
    assert trainer.wait() == 128 + number, trainer.text
    assert f"holdfast: {number.name}: saving at the next boundary; again to stop now" in trainer.text
    assert newest_step(folder) == int(trainer.text.rsplit("batch ", 1)[1].split()[0]) + 1
    newest = History(folder).checkpoints[-1]
    assert f"stopped by signal {number}: saved; the newest checkpoint is {newest}" in trainer.text
    assert "Traceback" not in trainer.text
    assert "on signal" in History(folder).events("snapshot")[-1]["message"]
    assert_nothing_lost(History(folder), 3)


def test_the_exit_of_a_real_interpreter(folder: Path, linger: Any) -> None:
    """Nothing in its long way out changes the exit code or says anything."""
    trainer = linger(genuine_exit=True)
    trainer.send(signal.SIGTERM)
    assert trainer.wait() == 143
    assert trainer.text.splitlines()[-1].startswith("holdfast: stopped by signal 15: saved")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, -15), (signal.SIGUSR1, -10), (signal.SIGINT, 1)])
def test_a_second_signal_stops_now(folder: Path, linger: Any, number: signal.Signals, code: int) -> None:
    """In the midst of a batch without end, as if holdfast were not there, and without another save."""
    trainer = linger(slow_batch=5)
    trainer.await_text("batch 5\n")
    trainer.send(number)
    trainer.await_text("again to stop now")
    trainer.send(number)
    assert trainer.wait() == code, trainer.text
    assert ("KeyboardInterrupt" in trainer.text) == (number == signal.SIGINT)
    assert "no save" not in trainer.text
    assert all("(every 2 batches)" in line["message"] for line in History(folder).events("snapshot"))


def test_without_the_policy_a_signal_ends_the_process(folder: Path, linger: Any) -> None:
    """No handler is installed that nobody asked for."""
    trainer = linger(policies=False)
    trainer.send(signal.SIGTERM)
    assert trainer.wait() == -15
    assert "holdfast" not in trainer.text


def test_a_whole_process_group_is_told_with_loader_workers_alive(folder: Path, linger: Any) -> None:
    """The workers do not die of it, which would take the trainer along before it could save."""
    trainer = linger(workers=2)
    os.killpg(trainer.pid, signal.SIGTERM)
    assert trainer.wait() == 143, trainer.text
    assert "exited unexpectedly" not in trainer.text
    assert newest_step(folder) == int(trainer.text.rsplit("batch ", 1)[1].split()[0]) + 1


@pytest.fixture
def heard() -> Iterator[list[int]]:
    """The user's own handler of SIGUSR1."""
    numbers: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: numbers.append(number))
    yield numbers
    signal.signal(signal.SIGUSR1, before)


def test_handlers_are_there_in_the_loop_only(folder: Path, heard: list[int]) -> None:
    """Before and after, signals go where the user's script sends them."""
    own = [signal.getsignal(number) for number in STOPPING]
    job = small()
    with Run(folder, job.state) as run:
        assert [signal.getsignal(number) for number in STOPPING] == own
        job.fit(run, 1, lambda _: None if own != [signal.getsignal(n) for n in STOPPING] else pytest.fail("no handler"))
        assert [signal.getsignal(number) for number in STOPPING] == own
        os.kill(os.getpid(), signal.SIGUSR1)
    assert heard == [signal.SIGUSR1]


def test_a_second_signal_goes_to_the_handler_before(folder: Path, heard: list[int]) -> None:
    """Handlers are chained: the user's own one hears what is not holdfast's."""
    job = small()

    def each(batches: int) -> None:
        if batches == 2:
            os.kill(os.getpid(), signal.SIGUSR1)
            os.kill(os.getpid(), signal.SIGUSR1)

    with Run(folder, job.state, save=Every(batches=100) | OnSignal()) as run, pytest.raises(SystemExit) as stopped:
        job.fit(run, 2, each)
    assert stopped.value.code == 128 + signal.SIGUSR1
    assert heard == [signal.SIGUSR1]


def test_a_stopped_run_goes_on_where_it_was(folder: Path) -> None:
    """The restart ends with the bits of the run that nobody stopped."""
    job = small()
    with Run(folder, job.state) as run, pytest.raises(SystemExit):
        job.fit(run, 2, lambda batches: batches == 4 and os.kill(os.getpid(), signal.SIGTERM))
    again = small()
    with Run(folder, again.state) as run:
        again.fit(run)
    assert all(map(torch.equal, again.weights, untouched().weights))


def test_a_signal_during_the_last_save_is_not_swallowed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was promised that the run would stop, and so it does, with its final checkpoint."""
    original = Saves.save

    def save(self: Saves, *arguments: Any, **options: Any) -> bool:
        os.kill(os.getpid(), signal.SIGTERM)
        return original(self, *arguments, **options)

    monkeypatch.setattr(Saves, "save", save)
    job = small()
    with Run(folder, job.state) as run, pytest.raises(SystemExit) as stopped:
        job.fit(run)
    assert stopped.value.code == 143
    assert newest_step(folder) == 8


def test_a_notebook_is_interrupted_and_not_ended(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """KeyboardInterrupt instead of an exit, which would take the kernel along; the next loop is not stopped again."""
    import builtins

    monkeypatch.setattr(builtins, "__IPYTHON__", True, raising=False)
    job = small()
    run = Run(folder, job.state)
    with pytest.raises(KeyboardInterrupt):
        job.fit(run, 2, lambda batches: batches == 4 and os.kill(os.getpid(), signal.SIGINT))
    again = small()
    with Run(folder, again.state) as second:
        again.fit(second)
    assert all(map(torch.equal, again.weights, untouched().weights))


def test_a_failed_save_is_not_called_saved(folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    """What is said names the checkpoint that a restart will really use."""
    fault = {"action": "error", "function": "rename", "errno": 28, "call": 2, "token": str(folder.parent / "token")}
    monkeypatch.setenv("PYTHONPATH", str(INJECTION))
    monkeypatch.setenv(syscalls.VARIABLE, json.dumps([fault]))
    job = small()
    run = Run(folder, job.state, save=Every(batches=2) | OnSignal())
    with pytest.warns(HoldfastWarning, match="n0002 failed"), pytest.raises(SystemExit):
        job.fit(run, 2, lambda batches: batches == 2 and os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(SaveError):
        run.close()
    said = capfd.readouterr().err
    assert "stopped by signal 15: the save failed" in said
    assert "the newest checkpoint is step-00000002.a0001.n0001" in said


def test_in_another_thread_signals_do_not_save(folder: Path) -> None:
    """Only the main thread may install handlers: said once, and the training goes on."""
    import threading

    job = small()
    failures: list[BaseException] = []

    def work() -> None:
        try:
            with pytest.warns(HoldfastWarning, match="not in the main thread"), Run(folder, job.state) as run:
                job.fit(run)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert failures == []
    assert newest_step(folder) == 8
