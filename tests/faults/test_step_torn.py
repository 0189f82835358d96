"""A step that is interrupted, or made by an optimizer that the run does not know, is never taken for no step at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from holdfast import Every, HoldfastWarning, OnError, Run, checkpoints
from holdfast.state.torch import step_hook
from tests.exactness.pictures import differences, picture

BATCHES, FAILS = 6, 3
"""In the batch after so many, something fails in one attempt."""


def fused(parameters: Any) -> torch.optim.Optimizer:
    """Moves no version counter of a parameter."""
    return torch.optim.AdamW(parameters, 0.1, fused=True)


def foreach(parameters: Any) -> torch.optim.Optimizer:
    """Changes its moments of all parameters before the first parameter."""
    return torch.optim.Adam(parameters, 0.1, foreach=True)


def searching(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.LBFGS(parameters, 0.1, max_iter=3)


class Job:
    """A model and an optimizer, which may be given the loss as a closure."""

    def __init__(self, make: Callable[[Any], torch.optim.Optimizer], seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.model = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1))
        self.optimizer = make(self.model.parameters())
        self.inputs = torch.arange(8.0).view(4, 2) / 8
        self.seen: dict[int, Any] = {}

    @property
    def state(self) -> dict[str, Any]:
        return {"model": self.model, "optimizer": self.optimizer}

    def loss(self, number: int) -> torch.Tensor:
        self.optimizer.zero_grad()
        loss: torch.Tensor = self.model(self.inputs + number).square().mean()
        loss.backward()
        return loss

    def batch(self, number: int) -> None:
        if isinstance(self.optimizer, torch.optim.LBFGS):
            self.optimizer.step(lambda: self.loss(number))  # type: ignore[arg-type]
        else:
            self.loss(number)
            self.optimizer.step()
        self.optimizer.zero_grad()

    def fit(self, run: Run, batch: Callable[[int], object], stop: int | None = None) -> None:
        """With what the state was at each boundary."""
        for _ in run.epochs(1):
            for number in run.batches(range(BATCHES)):
                self.seen[run.progress.batches] = picture(self.state)
                if number == stop:
                    return
                batch(number)
        self.seen[run.progress.batches] = picture(self.state)


class Bug(Exception):
    """What goes wrong in a batch."""


def fail_behind_the_step(job: Job, patch: pytest.MonkeyPatch) -> None:
    """In a hook that is called before the one by which the run learns of steps."""

    def hook(*_: Any) -> None:
        raise Bug

    job.optimizer._optimizer_step_post_hooks[-1] = hook
    job.optimizer._optimizer_step_post_hooks.move_to_end(-1, last=False)


def interrupt(job: Job, patch: pytest.MonkeyPatch) -> None:
    """Ctrl-C, in the midst of the step or right behind it."""

    def hook(*_: Any) -> None:
        raise KeyboardInterrupt

    job.optimizer._optimizer_step_post_hooks[-1] = hook
    job.optimizer._optimizer_step_post_hooks.move_to_end(-1, last=False)


def run_out_of_memory(job: Job, patch: pytest.MonkeyPatch) -> None:
    """Where the optimizer has changed its moments, and not yet the parameters."""

    def refuse(*_: Any) -> None:
        raise torch.OutOfMemoryError("out of memory")

    patch.setattr(torch, "_foreach_sqrt", refuse)


def fail_in_the_second_closure(job: Job, patch: pytest.MonkeyPatch) -> None:
    calls, loss = [0], job.loss

    def failing(number: int) -> torch.Tensor:
        calls[0] += 1
        if calls[0] == 2:
            raise Bug
        return loss(number)

    patch.setattr(job, "loss", failing)


def fail_behind_the_step_of_a_stranger(job: Job, patch: pytest.MonkeyPatch) -> None:
    """Another optimizer of the same parameters, made in mid-run, which is not in the state."""

    def batch(number: int) -> None:
        job.loss(number)
        torch.optim.SGD(job.model.parameters(), 0.1, fused=True).step()
        raise Bug

    patch.setattr(job, "batch", batch)


TORN = {
    "behind_a_fused_step": (fused, fail_behind_the_step),
    "behind_a_foreach_step": (foreach, fail_behind_the_step),
    "interrupted": (fused, interrupt),
    "out_of_memory": (foreach, run_out_of_memory),
    "in_a_search": (searching, fail_in_the_second_closure),
    "behind_the_step_of_a_stranger": (fused, fail_behind_the_step_of_a_stranger),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run"


def assert_exact(folder: Path, job: Job, make: Callable[[Any], torch.optim.Optimizer]) -> list[int]:
    """Each checkpoint is what the job had at its boundary; their numbers."""
    found = checkpoints(folder)
    for checkpoint in found:
        fresh = Job(make, seed=1)
        checkpoint.load_into(**fresh.state)
        assert list(differences(job.seen[checkpoint.progress.batches], picture(fresh.state))) == [], checkpoint
    return [one.progress.batches for one in found]


@pytest.mark.parametrize("name", list(TORN))
def test_a_boundary_that_a_torn_step_has_left_is_not_saved(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """On an error, or Ctrl-C, it is said that it is lost; a restart from the one before ends with the twin's bits."""
    make, fault = TORN[name]
    job, twin = Job(make), Job(make)
    said = pytest.warns(HoldfastWarning, match="halfway|an optimizer has stepped since|changed in place since")
    with said, pytest.raises((Bug, KeyboardInterrupt, torch.OutOfMemoryError)), monkeypatch.context() as patch:  # noqa: SIM117
        with Run(folder, job.state, save=Every(batches=2) | OnError()) as run:
            job.fit(run, lambda number: (number == FAILS and fault(job, patch), job.batch(number)))
    assert assert_exact(folder, job, make) == [2]
    again = Job(make, seed=1)
    with Run(folder, again.state, save=Every(batches=2)) as run:
        again.fit(run, again.batch)
    for number in range(BATCHES):
        twin.batch(number)
    assert list(differences(picture(twin.state), picture(again.state))) == []


@pytest.mark.parametrize("name", ["behind_a_fused_step", "out_of_memory", "behind_the_step_of_a_stranger"])
def test_what_is_gone_on_with_after_a_torn_step_is_saved(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The script caught it: the boundary behind it is what the state is there, also where it leaves the loop."""
    make, fault = TORN[name]
    job = Job(make)

    def batch(number: int) -> None:
        with monkeypatch.context() as patch:
            if number != FAILS:
                return job.batch(number)
            fault(job, patch)
            with pytest.raises((Bug, torch.OutOfMemoryError)):
                job.batch(number)
            job.optimizer._optimizer_step_post_hooks.pop(-1, None)
            return job.optimizer.zero_grad()

    with Run(folder, job.state, save=Every(batches=100)) as run:
        job.fit(run, batch, stop=FAILS + 1)
    assert assert_exact(folder, job, make) == [FAILS + 1]


@pytest.mark.parametrize("make", [fused, foreach, searching])
@pytest.mark.parametrize("by_name", [True, False])
def test_what_fails_in_the_closure_of_a_step_has_torn_nothing(folder: Path, make: Any, by_name: bool) -> None:
    """Trainers compute the whole batch in there: the boundary before it is saved on the error."""
    job = Job(make)

    def batch(number: int) -> None:
        def closure() -> torch.Tensor:
            if number == FAILS:
                raise Bug
            return job.loss(number)

        job.optimizer.step(closure=closure) if by_name else job.optimizer.step(closure)  # type: ignore[arg-type]
        job.optimizer.zero_grad()

    with pytest.raises(Bug), Run(folder, job.state, save=Every(batches=2) | OnError()) as run:
        job.fit(run, batch)
    assert assert_exact(folder, job, make) == [2, FAILS]
    assert checkpoints(folder)[-1].manifest.reason == ("on error",)


def test_the_optimizer_of_another_training_is_no_stranger(folder: Path) -> None:
    """It steps on parameters of its own, beside the run: nothing of the boundary is lost."""
    job, other = Job(fused), Job(fused)

    def batch(number: int) -> None:
        other.batch(number)
        if number == FAILS:
            raise Bug
        job.batch(number)

    with pytest.raises(Bug), Run(folder, job.state, save=OnError()) as run:
        job.fit(run, batch)
    assert assert_exact(folder, job, fused) == [FAILS]


def test_a_run_that_is_over_watches_no_step(folder: Path) -> None:
    """A listener that stays would be called at each step of whatever the process trains next."""
    before = set(step_hook._hooks)
    job = Job(fused)
    with Run(folder, job.state) as run:
        job.fit(run, job.batch)
        own = set(step_hook._hooks) - before
        assert own
    assert not own & set(step_hook._hooks)
