"""A device, a step or a process that fails while a snapshot is copied behind training: nobody waits for ever."""

from __future__ import annotations

import os
import signal
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from holdfast import Every, HoldfastWarning, KeepAll, Run
from holdfast.engine.behind import Behind, Copy
from holdfast.engine.leaves import Source
from holdfast.engine.messages import Persist
from holdfast.state.torch import side_copies
from holdfast.state.torch.side_copies import SideStreams
from tests.harness.history import History
from tests.harness.late_device import Late, LateDevice
from tests.run.test_behind import Job, assert_exact, train


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run"


class Exhausted(LateDevice):
    """A device without memory for what call number ``last`` asks of it."""

    def __init__(self, last: int) -> None:
        super().__init__()
        self.last, self.calls = last, 0

    def now(self, device: torch.device) -> Late:
        self.calls += 1
        if self.calls == self.last:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return super().now(device)


@pytest.mark.parametrize("last", [1, 2, 3])
def test_device_without_memory(folder: Path, monkeypatch: pytest.MonkeyPatch, last: int) -> None:
    """At the boundary, for the first look at the parameters, or in a step: no step fails of it, nor waits for ever."""
    monkeypatch.setattr(side_copies, "Cuda", lambda: Exhausted(last))
    job = Job("cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HoldfastWarning)
        train(folder, job)
    assert job.seen.keys() >= set(range(1, 9))
    assert assert_exact(folder, job) >= 6
    assert all("out of memory" in one["message"] for one in History(folder).events("save_failed"))


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_fork_steps_while_the_device_copies(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread that copies is not in the child: an optimizer that steps there waits for nothing."""
    monkeypatch.setattr(side_copies, "Cuda", lambda: LateDevice(delay=0.5))
    job, ended = Job("cpu"), []

    def each(job: Job) -> None:
        if run.progress.step == 4:
            assert run._session.saves.checkpointer._behind is not None
            ended.append(_exit_code_of(_step_and_exit))

    with Run(folder, job.state, save=Every(batches=1), keep=KeepAll()) as run:
        job.fit(run, each=each)
    assert ended == [7]
    assert assert_exact(folder, job) >= 3


class _Copies:
    """Of nothing."""

    finished = 0

    def start(self) -> None:
        pass

    def copy_of(self, source: Source) -> Copy:
        return source.copy_into

    def finish(self) -> str | None:
        self.finished += 1
        return None


def _interrupt() -> None:
    raise KeyboardInterrupt


def _interrupted_start(self: threading.Thread) -> None:
    _start_thread(self)
    raise KeyboardInterrupt


_start_thread = threading.Thread.start


@pytest.mark.parametrize("start", [lambda _: _interrupt(), _interrupted_start])
def test_interrupt_while_the_thread_is_started(
    monkeypatch: pytest.MonkeyPatch, start: Callable[[threading.Thread], None]
) -> None:
    """Whether the thread has begun or not, the copies are finished, and handed over, once."""
    monkeypatch.setattr(threading.Thread, "start", start)
    copies, complete = _Copies(), list[Persist]()
    behind = Behind(Persist({}, 1, 0, 0), copies, complete.append)
    with pytest.raises(KeyboardInterrupt):
        behind.start()
    assert behind.is_over(30)
    assert (behind.obstacle, copies.finished, len(complete)) == (None, 1, 1)


def test_interrupt_before_the_copies_are_started() -> None:
    """The snapshot is not there, which is said; nobody waits for it."""
    behind = Behind(Persist({}, 1, 0, 0), _Copies(), list[Persist]().append)
    assert behind.is_over(30)
    assert behind.obstacle == "it was interrupted."


def _step_and_exit() -> None:
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(20)  # one that waits for ever must not outlive the test
    parameter = torch.nn.Parameter(torch.zeros(3))
    parameter.grad = torch.ones(3)
    torch.optim.SGD([parameter], 0.1).step()
    os._exit(7)


def _exit_code_of(child: Callable[[], None]) -> int:
    pid = os.fork()
    if not pid:
        child()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_run_ends_while_a_step_of_another_waits(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch goes through the hooks of all runs in each step, and fails where one of them comes or goes meanwhile."""
    monkeypatch.setattr(side_copies, "Cuda", LateDevice)
    raised: list[BaseException] = []
    inside, leave = threading.Event(), threading.Event()
    ours = [_watching(Job("cpu")) for _ in range(3)]

    def step() -> None:
        parameter = torch.nn.Parameter(torch.zeros(3))
        parameter.grad = torch.ones(3)
        try:
            torch.optim.SGD([parameter], 0.1).step()
        except BaseException as error:
            raised.append(error)

    def wait(*_: Any) -> None:
        inside.set()
        leave.wait(30)

    first, second, third = ours
    first.copies()
    first._under_way.guard = wait  # type: ignore[method-assign, union-attr]
    second.copies()
    thread = threading.Thread(target=step)
    thread.start()
    assert inside.wait(30)
    second.close()
    third.copies()
    leave.set()
    thread.join(30)
    for one in (first, third):
        one.close()
    assert raised == []


class _Watch:
    def __init__(self, job: Job) -> None:
        self.tensors = list(job.model.parameters())

    def optimized(self) -> list[torch.Tensor]:
        return self.tensors

    announced = optimized


def _watching(job: Job) -> SideStreams:
    return SideStreams(_Watch(job))


class Torn(LateDevice):
    """A device that fails once, in the midst of the copies of a snapshot; ``late`` if they go on behind that."""

    torn = late = False

    def copy(self, parts: Any, device: torch.device, after: Late) -> Late:
        found = list(parts)
        self.late |= not all(one.reached.is_set() for one in self.begun)
        if self.torn or len(found) < 2:
            return super().copy(found, device, after)
        self.torn = True
        super().copy(found[:1], device, after)
        raise RuntimeError("the device has fallen off the bus")


def test_device_fails_in_the_midst_of_the_copies(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it has begun is over before the memory is used for another snapshot, which holds one moment only."""
    device = Torn(delay=0.4)
    monkeypatch.setattr(side_copies, "Cuda", lambda: device)
    job = Job("cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HoldfastWarning)
        train(folder, job)
    assert device.torn
    assert not device.late
    assert assert_exact(folder, job) >= 6
    assert len(History(folder).events("save_failed")) == 1


def test_device_has_no_room_for_a_clone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then its tensors are copied at the boundary, and no save fails."""

    def refuse(_: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(side_copies, "Cuda", LateDevice)
    monkeypatch.setattr(side_copies, "cloned", refuse)
    job = Job("cpu")
    train(folder, job)
    assert assert_exact(folder, job) >= 6
    assert not History(folder).events("save_failed")
