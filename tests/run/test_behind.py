"""What a device copies while training goes on is of one boundary, whatever training changes meanwhile."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from holdfast import Every, HoldfastWarning, KeepAll, Run, SaveError, checkpoints, latest
from holdfast.engine import writer_handle
from holdfast.engine.behind import Behind
from holdfast.state.torch import device_memory, side_copies
from holdfast.state.torch.side_copies import SideStreams
from tests.harness.history import History
from tests.harness.late_device import LateDevice

PLACES = [
    "late",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")),
]


@dataclass
class Job:
    """A model with buffers, its average, and an optimizer of one kernel, with what they were at each boundary."""

    device: str
    folder: Path | None = None
    seen: dict[int, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        torch.manual_seed(0)
        width = 2048 if self.device == "cuda" else 64
        self.inputs = torch.randn(16, width, device=self.device)
        layers = nn.Linear(width, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, width)
        self.model = nn.Sequential(*layers).to(self.device)
        self.average = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), 1e-2, fused=True)

    @property
    def state(self) -> dict[str, Any]:
        return {"model": self.model, "average": self.average, "optimizer": self.optimizer}

    def values(self) -> dict[str, Any]:
        """Copies of all tensors."""
        parts = {"model": self.model.state_dict(), "average": self.average.state_dict()}
        own = {f"{index}/{name}": one for index, kept in self.optimizer.state_dict()["state"].items()
               for name, one in kept.items()}  # fmt: skip
        found = {f"{part}/{name}": one for part, state in parts.items() for name, one in state.items()}
        return {name: one.detach().clone() for name, one in (found | own).items()}

    def step(self) -> None:
        self.model(self.inputs).square().mean().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.average.update_parameters(self.model)

    def fit(self, run: Run, batches: int = 8, each: Callable[[Job], object] = lambda job: None) -> None:
        """Each batch begins with a look at what the boundary before it was, and then with ``each``.

        Behind the step it is waited for what was saved of that boundary, so that the next one can be saved too.
        """
        for _ in run.epochs(1):
            for _ in run.batches(range(batches)):
                self.seen.setdefault(run.progress.step, self.values())
                each(self)
                self.step()
                with contextlib.suppress(SaveError):
                    run.wait()
                _await_pinned(run)
        self.seen[run.progress.step] = self.values()


def _await_pinned(run: Run) -> None:
    """Until then everything is copied at the boundary."""
    arena = run._session.saves.checkpointer._arena
    if arena is not None and arena._prefault is not None:
        arena._prefault.join()


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "cuda":
        return "cuda"
    monkeypatch.setattr(side_copies, "Cuda", LateDevice)
    monkeypatch.setattr(device_memory, "accelerator", LateDevice())
    return "cpu"


def train(folder: Path, job: Job, batches: int = 8, each: Callable[[Job], object] = lambda job: None) -> SideStreams:
    """A run that saves at each boundary; with what copied for it."""
    with Run(folder, job.state, save=Every(batches=1), keep=KeepAll()) as run:
        job.fit(run, batches, each)
        device = run._session.saves.checkpointer.device
    assert isinstance(device, SideStreams)
    return device


def assert_exact(folder: Path, job: Job) -> int:
    """Each checkpoint is the boundary that it says it is. Their number."""
    found = checkpoints(folder)
    for checkpoint in found:
        checkpoint.verify()
        fresh = Job(job.device)
        fresh.step()
        checkpoint.load_into(**fresh.state)
        values, wanted = fresh.values(), job.seen[checkpoint.progress.step]
        assert values.keys() == wanted.keys()
        assert [name for name in wanted if not torch.equal(values[name], wanted[name])] == [], str(checkpoint)
    return len(found)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tensors, or parts of them, each snapshot has left for later."""
    counts: list[int] = []
    start = side_copies.SideCopies.start

    def counting(self: side_copies.SideCopies) -> None:
        counts.append(sum(map(len, self._noted.values())))
        start(self)

    monkeypatch.setattr(side_copies.SideCopies, "start", counting)
    return counts


def test_steps_wait_for_what_is_being_copied(folder: Path, place: str, counted: list[int]) -> None:
    """An optimizer that moves no version counter, an average and BatchNorm's buffers: none mixes two boundaries."""
    job = Job(place)
    device = train(folder, job)._accelerator
    assert assert_exact(folder, job) >= 3
    assert counted
    assert min(counted) >= 4 + 12
    if isinstance(device, LateDevice):
        assert device.held_back
        assert not device.pinned, "the arena's memory was not given back"


def _load(job: Job) -> None:
    job.model.load_state_dict({name: one + 1 for name, one in job.model.state_dict().items()})


def _write(job: Job) -> None:
    with torch.no_grad():
        job.model[0].weight.mul_(0.5)


def _write_in_a_thread(job: Job) -> None:
    thread = threading.Thread(target=_write, args=(job,))
    thread.start()
    thread.join()


def _write_unseen(job: Job) -> None:
    """As some clip the weights of a critic: no version counter is moved."""
    for parameter in job.model.parameters():
        parameter.data.clamp_(-0.01, 0.01)


def _load_checkpoint(job: Job) -> None:
    """Straight into the device's memory, past torch."""
    newest = None if job.folder is None else latest(job.folder)
    if newest is not None:
        newest.load_into(optimizer=job.optimizer)


def _negate_unseen(job: Job) -> None:
    """Which leaves their norm as it is."""
    for parameter in job.model.parameters():
        parameter.data.neg_()


def _nudge_unseen(job: Job) -> None:
    """By the last bit of one element of each."""
    for parameter in job.model.parameters():
        first = parameter.data.view(-1)[:1]
        first.copy_(torch.nextafter(first, torch.ones_like(first)))


def _step_unknown(job: Job) -> None:
    """An optimizer that the run has never heard of."""
    job.model(job.inputs).square().mean().backward()
    torch.optim.SGD(job.model.parameters(), 0.1, fused=True).step()


def _swap(job: Job) -> None:
    job.model[0].weight.data = job.model[0].weight.data * 2


CHANGES = [
    _load, _load_checkpoint, _write, _write_in_a_thread, _write_unseen, _negate_unseen, _nudge_unseen, _step_unknown,
    _swap,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_changed_outside_the_steps_is_not_in_a_checkpoint(
    folder: Path, place: str, change: Callable[[Job], None]
) -> None:
    """Either the device holds the change back, or the snapshot is taken back and the next boundary saved instead."""
    job = Job(place, folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HoldfastWarning)
        train(folder, job, each=change)
    assert assert_exact(folder, job) >= 2


def test_a_snapshot_that_was_taken_back_is_said_and_made_up_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The warning says why; the next boundary is saved for the same reasons; three such, and all are copied at once."""
    monkeypatch.setattr(side_copies, "Cuda", LateDevice)
    job = Job("cpu")
    with pytest.warns(HoldfastWarning, match="something else than the step of an optimizer"):
        device = train(folder, job, 12, _write)
    assert device._spoilt == 3
    failures = History(folder).events("save_failed")
    assert len(failures) == 3
    assert all("next boundary is saved" in one["message"] for one in failures)
    assert assert_exact(folder, job) >= 3


def test_tensors_that_anybody_may_change_are_copied_at_the_boundary_where_no_room_is_for_clones(
    folder: Path, monkeypatch: pytest.MonkeyPatch, counted: list[int]
) -> None:
    """The average of a model, which no optimizer has, is exact also then."""
    monkeypatch.setattr(side_copies, "Cuda", lambda: LateDevice(spare=0))
    job = Job("cpu")
    train(folder, job)
    assert_exact(folder, job)
    assert set(counted) == {6 + 18}, "the parameters, and three tensors of the optimizer for each"


def test_a_hook_that_raises(folder: Path, place: str) -> None:
    """Somebody's own hook stops a step: the error is theirs, and what was saved before is whole."""
    job = Job(place)
    calls: list[int] = []

    def hook(*_: Any) -> None:
        calls.append(1)
        if len(calls) == 4:
            raise RuntimeError("their hook")

    job.optimizer.register_step_pre_hook(hook)
    with pytest.raises(RuntimeError, match="their hook"):
        train(folder, job)
    assert assert_exact(folder, job) >= 1


def test_an_optimizer_added_mid_run(folder: Path, place: str) -> None:
    """Its steps are held back too, from the first one on."""
    job = Job(place)
    added: list[torch.optim.Optimizer] = []

    def each(job: Job) -> None:
        if len(job.seen) == 3:
            added.append(torch.optim.SGD(job.model[3].parameters(), 0.1))
        for one in added:
            job.model(job.inputs).square().mean().backward()
            one.step()

    train(folder, job, each=each)
    assert assert_exact(folder, job) >= 2


def test_a_device_that_fails(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The save fails, with the driver's words; training goes on; what is copied at the boundary is saved after all."""
    monkeypatch.setattr(side_copies, "Cuda", lambda: LateDevice(fails=True))
    job = Job("cpu")
    with pytest.warns(HoldfastWarning, match="fallen off the bus"):
        train(folder, job)
    assert assert_exact(folder, job) >= 3


def test_memory_that_cannot_be_pinned(folder: Path, monkeypatch: pytest.MonkeyPatch, counted: list[int]) -> None:
    """Everything is copied at the boundary."""
    monkeypatch.setattr(side_copies, "Cuda", lambda: LateDevice(refuses_to_pin=True))
    job = Job("cpu")
    train(folder, job)
    assert assert_exact(folder, job) >= 3
    assert counted == []


def test_steps_that_are_recorded_into_a_graph(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The host waits, for a graph cannot; and of an optimizer whose steps are replayed nothing is left for later."""
    device = LateDevice()
    monkeypatch.setattr(side_copies, "Cuda", lambda: device)
    job = Job("cpu")

    def each(_: Job) -> None:
        device.recorded = True

    streams = train(folder, job, each=each)
    assert device.copied
    assert device.held_back == 0
    job.optimizer.param_groups[0]["capturable"] = True
    assert streams.copies() is None
    assert assert_exact(folder, job) >= 3


def test_no_thread_is_to_be_had(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then it is copied at the boundary; no step waits for a thread that never began."""
    monkeypatch.setattr(side_copies, "Cuda", LateDevice)
    start = threading.Thread.start

    def refuse(self: threading.Thread) -> None:
        if self.name == "holdfast-behind":
            raise RuntimeError("can't start new thread")
        start(self)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    job = Job("cpu")
    train(folder, job)
    assert assert_exact(folder, job) >= 3


def test_the_writer_dies_while_the_device_copies(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another one takes over once all is there."""
    monkeypatch.setattr(side_copies, "Cuda", lambda: LateDevice(delay=0.3))
    job = Job("cpu")
    killed: list[int] = []
    start = Behind.start

    def killing(self: Behind) -> None:
        start(self)
        [writer] = writer_handle._handles
        if not killed:
            killed.append(writer.pid)
            os.kill(writer.pid, signal.SIGKILL)
            writer._process.wait()

    monkeypatch.setattr(Behind, "start", killing)
    with pytest.warns(HoldfastWarning, match="died 1 time and was replaced"):
        train(folder, job)
    assert killed
    assert assert_exact(folder, job) >= 2
    assert History(folder).debris == []


def test_a_fork_steps_while_the_device_copies(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has no thread that copies, and waits for none."""
    monkeypatch.setattr(side_copies, "Cuda", lambda: LateDevice(delay=0.5))
    job, ended = Job("cpu"), list[int]()

    def each(job: Job) -> None:
        if run._session.saves.checkpointer._behind is not None and not ended:
            child = os.fork()
            if child == 0:
                signal.alarm(20)
                job.optimizer.step()
                os._exit(0)
            ended.append(os.waitpid(child, 0)[1])

    with Run(folder, job.state, save=Every(batches=1), keep=KeepAll()) as run:
        job.fit(run, each=each)
    assert ended == [0]
    assert assert_exact(folder, job) >= 2


KILLED = """
    import os, signal, sys
    from holdfast import Every, KeepAll, Run
    from holdfast.state.torch import device_memory, side_copies
    from tests.harness.late_device import LateDevice
    from tests.run.test_behind import Job
    side_copies.Cuda = lambda: LateDevice(delay=60.0)
    job = Job("cpu")

    def each(job):
        if run.progress.step == 4:
            assert run._session.saves.checkpointer._behind is not None
            os.kill(os.getpid(), signal.SIGKILL)

    run = Run(sys.argv[1], job.state, save=Every(batches=1), keep=KeepAll())
    job.fit(run, each=each)
"""


def test_the_trainer_dies_while_the_device_copies(folder: Path, tmp_path: Path) -> None:
    """Nothing of that snapshot is left, and a restart goes on from the one before."""
    script = tmp_path / "train.py"
    script.write_text(textwrap.dedent(KILLED))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(Path(__file__).parents[2])])}
    ended = subprocess.run([sys.executable, script, folder], env=environment, timeout=120, check=False)
    assert ended.returncode == -signal.SIGKILL
    deadline = time.monotonic() + 60
    while History(folder).debris and time.monotonic() < deadline:
        time.sleep(0.05)
    assert History(folder).debris == []
    job = Job("cpu")
    with Run(folder, job.state) as run:
        assert run.resumed_from is not None
        job.fit(run)
    assert checkpoints(folder)[-1].progress.batches == 8


RESUMED = """
    import os, signal, sys
    import torch
    from holdfast import Every, Run
    from holdfast.state.torch import device_memory, side_copies
    from tests.harness.late_device import LateDevice
    from tests.run.test_behind import Job
    folder, place, last = sys.argv[1:]
    torch.use_deterministic_algorithms(True)
    if place == "cpu":
        side_copies.Cuda = LateDevice
    job = Job(place)

    def each(job):
        torch.nn.functional.dropout(job.inputs)
        if run.progress.step == int(last):
            os.kill(os.getpid(), signal.SIGKILL)

    with Run(folder, job.state, save=Every(batches=1)) as run:
        job.fit(run, each=each)
    torch.save((job.values(), torch.rand(3, device=place)), folder + ".pt")
"""


def test_a_run_that_was_killed_ends_like_its_twin(folder: Path, tmp_path: Path, place: str) -> None:
    """Three kills, each in a process of its own: the same weights, moments, buffers and random numbers, bit for bit."""
    script = tmp_path / "train.py"
    script.write_text(textwrap.dedent(RESUMED))
    paths = os.pathsep.join([*sys.path, str(Path(__file__).parents[2])])
    environment = {**os.environ, "PYTHONPATH": paths, "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    for last in ("3", "4", "6", "never"):
        arguments = [sys.executable, script, folder, place, last.replace("never", "-1")]
        ended = subprocess.run(arguments, env=environment, timeout=120, check=False)
        assert ended.returncode == (0 if last == "never" else -signal.SIGKILL)
    twin = folder.with_name("twin")
    subprocess.run([sys.executable, script, twin, place, "-1"], env=environment, timeout=120, check=True)
    found, wanted = (torch.load(f"{one}.pt", weights_only=True) for one in (folder, twin))
    assert [name for name in wanted[0] if not torch.equal(found[0][name], wanted[0][name])] == []
    assert torch.equal(found[1], wanted[1])


def test_a_save_outside_the_loop_is_complete_when_it_returns(folder: Path, place: str, counted: list[int]) -> None:
    """Whatever is changed behind it."""
    job = Job(place)
    with Run(folder, job.state, save=Every(batches=100)) as run:
        job.fit(run, 2)
        before = len(counted)
        run.save()
        with torch.no_grad():
            job.model[0].weight.data.zero_()
        assert len(counted) == before
    assert_exact(folder, job)
