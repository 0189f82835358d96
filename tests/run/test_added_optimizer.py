"""An optimizer that is added in mid-run, or gets more parameters there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from holdfast import Every, MisfitError, Run, checkpoints
from tests.exactness.pictures import differences, picture
from tests.harness.history import History
from tests.harness.stopped_writer import train_ahead_of_the_writer

BATCHES, ADDED = 6, 2
"""It comes in the batch after so many."""

Add = Callable[["Job"], object]


@dataclass
class Job:
    """A model of two layers, and an optimizer of the first one; 12 MB of state."""

    add: Add
    seed: int = 0
    others: list[torch.optim.Optimizer] = field(default_factory=list)

    def __post_init__(self) -> None:
        torch.manual_seed(7)
        self.stranger = nn.Linear(1, 1)
        torch.manual_seed(self.seed)
        self.model = nn.Sequential(nn.Embedding(30_000, 32), nn.Linear(32, 1))
        self.optimizer = torch.optim.AdamW(self.model[0].parameters(), 0.1, fused=True)

    @property
    def state(self) -> dict[str, Any]:
        return {"model": self.model, "optimizer": self.optimizer}

    def batch(self, number: int) -> None:
        if number == ADDED:
            self.add(self)
        self.stranger(self.model(torch.arange(number, 30_000, 50))).square().mean().backward()
        for one in (self.optimizer, *self.others):
            one.step()
        self.model.zero_grad()
        self.stranger.zero_grad()


def of_the_same_parameters(job: Job) -> None:
    job.others.append(torch.optim.SGD(job.model[0].parameters(), 0.1, fused=True))


def of_parameters_that_no_other_has(job: Job) -> None:
    job.others.append(torch.optim.SGD(job.model[1].parameters(), 0.1, foreach=True))


def of_a_module_that_is_not_in_the_state(job: Job) -> None:
    job.others.append(torch.optim.AdamW(job.stranger.parameters(), 0.1))


def in_place_of_the_known_one(job: Job) -> None:
    """Which is still in the state, and does no step any more."""
    job.others.append(torch.optim.SGD(job.model.parameters(), 0.1, fused=True))
    job.optimizer.step = lambda: None  # type: ignore[method-assign]


def more_parameters(job: Job) -> None:
    job.optimizer.add_param_group({"params": job.model[1].parameters(), "lr": 0.05})


ADDITIONS: list[Add] = [
    of_the_same_parameters,
    of_parameters_that_no_other_has,
    of_a_module_that_is_not_in_the_state,
    in_place_of_the_known_one,
    more_parameters,
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run"


def twin(add: Add) -> Iterator[Any]:
    job = Job(add)
    for number in range(BATCHES):
        job.batch(number)
        yield picture(job.state)


@pytest.mark.parametrize("add", ADDITIONS)
def test_what_is_in_the_state_is_saved_exactly(folder: Path, add: Add) -> None:
    """Each boundary has its checkpoint, of what the twin has there, though it is written while training goes on."""
    job = Job(add)
    run = train_ahead_of_the_writer(folder, job.state, BATCHES, job.batch)
    assert run.progress.step == BATCHES
    found = checkpoints(folder)
    assert [one.progress.batches for one in found] == list(range(1, BATCHES + 1))
    for checkpoint, wanted in zip(found, twin(add), strict=True):
        checkpoint.verify(tampering=True)
        fresh = Job(add, seed=1)
        if add is more_parameters and checkpoint.progress.batches > ADDED:
            add(fresh)
        checkpoint.load_into(**fresh.state)
        assert list(differences(wanted, picture(fresh.state))) == [], checkpoint


def test_steps_of_an_optimizer_that_is_not_in_the_state_count(folder: Path) -> None:
    """Saves every few steps go on when it takes the place of the one that is."""
    job = Job(in_place_of_the_known_one)
    with Run(folder, job.state, save=Every(steps=2)) as run:
        for _ in run.epochs(1):
            for number in run.batches(range(BATCHES)):
                job.batch(number)
                run.wait()
    assert run.progress.step == BATCHES
    assert [line["step"] for line in History(folder).events("saved")] == [2, 4, 6]


def test_a_group_that_was_added_is_gone_on_with(folder: Path) -> None:
    """A restart whose optimizer has the group too ends with the twin's bits; one without it is told, and unchanged."""
    job = Job(more_parameters)
    with pytest.raises(RuntimeError, match="enough"), Run(folder, job.state, save=Every(batches=1)) as run:
        _fit(run, job, ends=ADDED + 2)
    again = Job(more_parameters, seed=1)
    before = picture(again.state)
    with pytest.raises(MisfitError, match="2 parameter groups in the checkpoint, 1 here"):
        Run(folder, again.state)
    assert list(differences(before, picture(again.state))) == []
    more_parameters(again)
    with Run(folder, again.state) as run:
        assert run.resumed_from == checkpoints(folder)[-1].name
        _fit(run, again)
    *_, wanted = twin(more_parameters)
    assert list(differences(wanted, picture(again.state))) == []


def _fit(run: Run, job: Job, ends: int | None = None) -> None:
    for _ in run.epochs(1):
        for number in run.batches(range(BATCHES)):
            if number == ends:
                raise RuntimeError("enough")
            job.batch(number)
            run.wait()
