"""State that a batch has half changed is never saved as that of the boundary before it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from holdfast import Every, HoldfastWarning, OnError, Run, SaveError, checkpoints
from tests.harness.history import History

BATCHES = 6


class Mean(nn.Module):
    """Puts a new buffer in the old one's place in each forward."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(2))
        self.linear = nn.Linear(2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.mean = self.mean * 0.5 + x.mean(0)
        result: torch.Tensor = self.linear(x - self.mean)
        return result


class Counting(nn.Module):
    """Counts its forwards in its extra state."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 1)
        self.forwards = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.forwards += 1
        result: torch.Tensor = self.linear(x) * (1 + 0.01 * self.forwards)
        return result

    def get_extra_state(self) -> dict[str, int]:
        return {"forwards": self.forwards}

    def set_extra_state(self, state: dict[str, int]) -> None:
        self.forwards = state["forwards"]


class Job:
    """A model, an average of it, an optimizer and a scheduler; ``before`` runs at the start of each batch."""

    def __init__(self, model: type[nn.Module] | None = None, before: Callable[[Any], None] | None = None) -> None:
        torch.manual_seed(5)
        self.model = nn.Linear(2, 1) if model is None else model()
        self.average = nn.Linear(2, 1)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)
        self.scheduler = torch.optim.lr_scheduler.ExponentialLR(self.optimizer, 0.9)
        self.history: dict[str, Any] = {"average": torch.zeros(2)}
        self.loader = DataLoader(TensorDataset(torch.randn(2 * BATCHES, 2)), batch_size=2)
        self.before = before

    @property
    def state(self) -> dict[str, Any]:
        return {
            "model": self.model, "average": self.average, "optimizer": self.optimizer, "scheduler": self.scheduler,
            "history": self.history,
        }  # fmt: skip

    @property
    def numbers(self) -> list[torch.Tensor]:
        state = [*self.model.state_dict().values(), *self.average.state_dict().values(), self.history["average"]]
        return [one.clone() for one in state if isinstance(one, torch.Tensor)] + [
            torch.tensor(self.optimizer.param_groups[0]["lr"])
        ]

    def fit(self, batches: Any, fail_at: int | None = None) -> None:
        for index, (x,) in batches:
            if self.before is not None:
                self.before(self)
            loss = self.model(x).square().mean()
            if index == fail_at:
                raise RuntimeError("bad batch")
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()


def decay(job: Job) -> None:
    for group in job.optimizer.param_groups:
        group["lr"] *= 0.5


def schedule(job: Job) -> None:
    job.optimizer._opt_called = True  # type: ignore[attr-defined]  # else the order of the calls is warned of
    job.scheduler.step()


def average(job: Job) -> None:
    for one in job.average.parameters():
        one.data.mul_(0.5).add_(1.0)


def remember(job: Job) -> None:
    job.history["average"].mul_(0.5).add_(1.0)


@pytest.mark.filterwarnings("ignore:no save on error")
@pytest.mark.parametrize(
    ("model", "before"),
    [(Mean, None), (Counting, None), (None, decay), (None, schedule), (None, average), (None, remember)],
    ids=["buffer replaced", "extra state", "learning rate", "scheduler", "writes through .data", "tensor in a dict"],
)
def test_what_a_failing_batch_changed_is_put_back_or_nothing_is_saved(tmp_path: Path, model: Any, before: Any) -> None:
    """Saved on an error and gone on with, or gone on with from the checkpoint before: the end is that of the twin."""
    twin = Job(model, before)
    twin.fit(enumerate(twin.loader))
    with pytest.raises(RuntimeError):
        attempt(tmp_path / "run", Job(model, before), fail_at=3)
    job = Job(model, before)
    attempt(tmp_path / "run", job)
    assert all(map(torch.equal, job.numbers, twin.numbers))


def attempt(folder: Path, job: Job, fail_at: int | None = None) -> None:
    with Run(folder, job.state, save=Every(batches=2) | OnError()) as run:
        for _ in run.epochs(1):
            job.fit(run.batches(job.loader, enumerate=True), fail_at)


def accumulate(job: Job, run: Run, toggle: Callable[[Job, int], None], stop: int | None = None) -> None:
    """Steps at every second of 12 batches, over three epochs."""
    for epoch in run.epochs(3):
        for index, (x,) in run.batches(job.loader, enumerate=True):
            for one in job.model.parameters():
                one.requires_grad_(True)
            toggle(job, epoch)
            job.model(x).square().mean().backward()
            if index % 2:
                job.optimizer.step()
                job.optimizer.zero_grad()
            if stop is not None and run.progress.batches == stop:
                raise KeyboardInterrupt
            for one in job.model.parameters():
                one.requires_grad_(False)


def thaw(job: Job, epoch: int) -> None:
    """The bias is frozen until the last epoch, the weight then."""
    frozen = "weight" if epoch == 2 else "bias"
    job.model.get_parameter(frozen).requires_grad_(False)


@pytest.mark.parametrize("toggle", [thaw, lambda job, epoch: None], ids=["thawed late", "frozen between batches"])
@pytest.mark.parametrize("batches", [3, 13, 15])
def test_pending_gradients_of_parameters_that_are_frozen_on_and_off_are_saved(
    tmp_path: Path, toggle: Any, batches: int
) -> None:
    """In the middle of an accumulation: a parameter may be frozen at the boundary, or may have been at all before."""
    twin = Job()
    with Run(tmp_path / "twin", twin.state) as run:
        accumulate(twin, run, toggle)
    first = Job()
    run = Run(tmp_path / "run", first.state, save=Every(batches=batches))
    with pytest.raises(KeyboardInterrupt):
        accumulate(first, run, toggle, stop=batches + 1)
    run._session.saves.wait()
    abandon(run)
    job = Job()
    with Run(tmp_path / "run", job.state) as run:
        assert run.resumed_from is not None
        accumulate(job, run, toggle)
    assert all(map(torch.equal, job.numbers, twin.numbers))


def abandon(run: Run) -> None:
    """Ends the run without its last save, as a kill would."""
    run._session.in_loop = run._session._left = False
    run.close()


@pytest.mark.filterwarnings("ignore:the run ends without a checkpoint")
def test_gradients_added_to_after_the_last_batch_by_hand_are_not_saved_twice(tmp_path: Path) -> None:
    """A `break` behind a second backward, without the boundary: the first one's gradients are no longer alone."""
    job = Job()
    run = Run(tmp_path / "run", job.state)
    run.resume()
    (x,) = next(iter(job.loader))
    job.model(x).sum().backward()
    run.batch_end(epoch=0, batch=1)
    job.model(x).sum().backward()
    with pytest.warns(HoldfastWarning, match="have been added to"):
        run.close()
    assert checkpoints(tmp_path / "run") == []


@pytest.mark.filterwarnings("ignore:the run ends without a checkpoint")
def test_a_tensor_in_a_dict_changed_after_the_last_batch_by_hand_is_seen(tmp_path: Path) -> None:
    """An average that was updated, and then `break`: saved, it would be updated twice."""
    job = Job()
    run = Run(tmp_path / "run", job.state)
    run.resume()
    run.batch_end(epoch=0, batch=1)
    remember(job)
    with pytest.warns(HoldfastWarning, match="history was changed since"):
        run.close()


def train(run: Run, job: Job) -> None:
    with run:
        job.fit(run.batches(job.loader, enumerate=True))


def test_a_counter_is_remembered_as_it_is(tmp_path: Path) -> None:
    """Its copy at each boundary has the same counts."""
    job = Job()
    with Run(tmp_path / "run", job.state) as run:
        run.values["seen"] = Counter()
        for _ in run.epochs(1):
            for _ in run.batches(job.loader):
                run.values["seen"]["batch"] += 1
    with Run(tmp_path / "run", Job().state) as run:
        assert run.values["seen"] == Counter(batch=BATCHES)


@pytest.mark.parametrize("count", [lambda batch: (batch[0] > 9).sum() + 3, lambda batch: np.int64(3)])
def test_counts_may_be_numbers_of_any_library(tmp_path: Path, count: Any) -> None:
    """A tensor or numpy's whole number is a count like any other."""
    job = Job()
    with Run(tmp_path / "run", job.state) as run:
        job.fit(run.batches(job.loader, enumerate=True, tokens=count, samples=count))
    assert (run.progress.tokens, run.progress.samples) == (3 * BATCHES, 3 * BATCHES)
    (checkpoint,) = checkpoints(tmp_path / "run")
    assert checkpoint.progress == run.progress


def test_a_state_that_cannot_be_saved_any_more_does_not_end_the_training(tmp_path: Path) -> None:
    """Each save that fails is warned of, and the end raises; what was saved before is there."""
    job = Job()
    run = Run(tmp_path / "run", job.state, save=Every(batches=2))
    job.before = lambda job: run.wait() if run.progress.batches < 3 else job.history.update(broken=print)
    with pytest.warns(HoldfastWarning, match="history/broken: .* cannot be stored safely"):
        job.fit(run.batches(job.loader, enumerate=True))
    with pytest.warns(HoldfastWarning, match="history/broken"), pytest.raises(SaveError):
        run.close()
    assert [one.progress.batches for one in checkpoints(tmp_path / "run")] == [2]


def test_a_listener_that_fails_does_not_end_the_training(tmp_path: Path) -> None:
    """It is warned of, and everything is saved."""
    job = Job()

    def listen(event: Any) -> None:
        raise ValueError("not today")

    run = Run(tmp_path / "run", job.state)
    run.on_event = listen
    with pytest.warns(UserWarning, match="on_event raised ValueError"):
        train(run, job)
    assert len(checkpoints(tmp_path / "run")) == 1


class TwoStep(torch.optim.SGD):
    """Steps by another method than `step`, as sharpness-aware optimizers do."""

    def second_step(self) -> None:
        with torch.no_grad():
            for group in self.param_groups:
                for one in group["params"]:
                    one.sub_(0.1 * one.grad)


def test_an_optimizer_that_steps_by_another_method_is_counted(tmp_path: Path) -> None:
    """`Every(steps=2)` would never come, and a kill would lose all."""
    job = Job()
    optimizer = TwoStep(job.model.parameters(), lr=0.1)
    run = Run(tmp_path / "run", {"model": job.model, "optimizer": optimizer}, save=Every(steps=2))
    for (x,) in run.batches(job.loader):
        job.model(x).sum().backward()
        optimizer.second_step()
        optimizer.zero_grad()
    assert run.progress.step == BATCHES
    run.close()
    assert "every 2 steps" in str(History(tmp_path / "run").events("snapshot"))


def test_a_lazy_module_may_wait_for_its_first_batch(tmp_path: Path) -> None:
    """Nothing has to be saved before it; then its parameters are like all others."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.LazyLinear(3), nn.LazyBatchNorm1d())
    with Run(tmp_path / "run", {"model": model}, save=Every(batches=1)) as run:
        for x in run.batches([torch.randn(4, 2)] * 3):
            model(x)
    again = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    checkpoints(tmp_path / "run")[-1].load_into(model=again)
    assert all(map(torch.equal, again.state_dict().values(), model.state_dict().values()))


def test_a_module_whose_memory_was_given_back_is_not_read(tmp_path: Path) -> None:
    """Sharding takes a parameter's storage away between its uses; its address then leads nowhere."""
    teacher = nn.Linear(2, 1)
    with Run(tmp_path / "run", {"teacher": teacher}, save=Every(batches=100)) as run:
        for index, _ in run.batches([torch.zeros(1, 2)] * 3, enumerate=True):
            kept = [one.detach().clone() for one in teacher.parameters()]
            sizes = [one.untyped_storage().nbytes() for one in teacher.parameters()]
            for one in teacher.parameters():
                one.untyped_storage().resize_(0)
            run._session.snapshots.observer.shadow.mark()
            for one, size, value in zip(teacher.parameters(), sizes, kept, strict=True):
                one.untyped_storage().resize_(size)
                one.data.copy_(value)
            assert index < 3
