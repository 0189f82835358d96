"""A checkpoint is of one boundary, whatever changes the parameters while it is being written."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from holdfast import Event, Every, KeepAll, Run, Saver, checkpoints
from tests.exactness.pictures import differences, picture
from tests.harness.history import History
from tests.harness.stopped_writer import train_ahead_of_the_writer
from tests.harness.trainers import await_condition

BATCHES = 5


@dataclass(frozen=True, kw_only=True)
class Way:
    """Of changing what is in the state: ``each`` at the start of a batch, ``outside`` by who hears of a snapshot."""

    optimizer: Callable[[Any], torch.optim.Optimizer] = lambda parameters: torch.optim.AdamW(parameters, 0.1)
    each: Callable[[Job], object] = lambda job: None
    outside: Callable[[Job], object] = lambda job: None


class Job:
    """30 MB of state: a model with buffers, its average and an optimizer with moments."""

    def __init__(self, way: Way, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.model = nn.Sequential(nn.Embedding(60_000, 32), nn.BatchNorm1d(32), nn.Linear(32, 1))
        self.average = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
        self.optimizer = way.optimizer(self.model.parameters())
        self.way = way

    @property
    def state(self) -> dict[str, Any]:
        return {"model": self.model, "average": self.average, "optimizer": self.optimizer}

    def batch(self, number: int) -> None:
        """Changes nearly every byte of the state: an embedding's gradient is dense."""
        self.way.each(self)
        indices = torch.arange(number, 60_000, 50)
        self.model(indices).square().mean().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.average.update_parameters(self.model)


def _load(job: Job) -> None:
    halved = {name: one / 2 if one.is_floating_point() else one for name, one in job.model.state_dict().items()}
    job.model.load_state_dict(halved)


@torch.no_grad()
def _write(job: Job) -> None:
    for one in (*job.model.parameters(), *job.model.buffers()):
        one.add_(1)


@torch.no_grad()
def _write_moments(job: Job) -> None:
    for kept in job.optimizer.state.values():
        kept["exp_avg"].mul_(0.5)


def _write_data(job: Job) -> None:
    for one in job.model.parameters():
        one.data.mul_(0.5)


def _exchange_data(job: Job) -> None:
    for one in job.model.parameters():
        one.data = one.data * 2


def _write_array(job: Job) -> None:
    weights = job.model[0].weight.detach().numpy()
    weights *= 2


def _write_in_a_thread(job: Job) -> None:
    thread = threading.Thread(target=_write, args=(job,))
    thread.start()
    thread.join()


WAYS = {
    "fused_optimizer": Way(optimizer=lambda parameters: torch.optim.AdamW(parameters, 0.1, fused=True)),
    "foreach_optimizer": Way(optimizer=lambda parameters: torch.optim.SGD(parameters, 0.1, 0.9, foreach=True)),
    "load_state_dict": Way(each=_load),
    "load_state_dict_in_a_callback": Way(outside=_load),
    "write_in_place": Way(each=_write),
    "write_moments_in_place": Way(each=_write_moments),
    "write_by_a_callback": Way(outside=_write),
    "write_through_data": Way(each=_write_data),
    "exchange_data": Way(each=_exchange_data),
    "write_through_an_array": Way(each=_write_array),
    "write_in_a_thread": Way(each=_write_in_a_thread),
}


def twin(way: Way) -> Iterator[tuple[int, dict[str, Any]]]:
    """The state at each boundary of the same training without holdfast."""
    job = Job(way)
    for number in itertools.count():
        job.batch(number)
        yield number + 1, picture(job.state)
        way.outside(job)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run"


def assert_exact(folder: Path, way: Way) -> list[int]:
    """Each checkpoint is the boundary that it says it is; their numbers."""
    found = checkpoints(folder)
    boundaries = twin(way)
    for checkpoint in found:
        checkpoint.verify(tampering=True)
        wanted = next(state for number, state in boundaries if number == checkpoint.progress.batches)
        fresh = Job(way, seed=1)
        checkpoint.load_into(**fresh.state)
        assert list(differences(wanted, picture(fresh.state))) == [], checkpoint
    return [one.progress.batches for one in found]


@pytest.mark.parametrize("name", list(WAYS))
def test_what_changes_behind_a_boundary_is_not_in_its_checkpoint(folder: Path, name: str) -> None:
    """Every checkpoint has the bits that a twin without holdfast has at its boundary, though all was changed since."""
    way = WAYS[name]
    job = Job(way)

    def listen(event: Event) -> None:
        if event.kind == "snapshot":
            way.outside(job)

    train_ahead_of_the_writer(folder, job.state, BATCHES, job.batch, listen)
    assert assert_exact(folder, way) == list(range(1, BATCHES + 1))


@pytest.mark.parametrize("arena", [None, "17 MiB"])
def test_what_changes_while_the_writer_goes_along_is_not_in_a_checkpoint(folder: Path, arena: str | None) -> None:
    """Nobody stops the writer or waits for it, and a state that streams goes to two folders one after the other."""
    way, other = WAYS["fused_optimizer"], folder.with_name("other")
    savers = [Saver(one, save=Every(batches=1), keep=KeepAll()) for one in (folder, other)]
    job = Job(way)
    with Run(folder, job.state, savers=savers, arena=arena) as run:
        for _ in run.epochs(1):
            for number in run.batches(range(2 * BATCHES)):
                job.batch(number)
    assert bool(History(folder).events("streams")) == (arena is not None)
    assert assert_exact(folder, way)[-1] == 2 * BATCHES
    assert assert_exact(other, way)[-1] == 2 * BATCHES


@contextmanager
def adding(tensor: torch.Tensor) -> Iterator[list[int]]:
    """A thread of the user's changes it all the time. The list has an entry for each time."""
    over, added = threading.Event(), []

    def work() -> None:
        while not over.is_set():
            tensor.add_(1)
            added.append(1)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield added
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize("arena", [None, "17 MiB"])
def test_a_thread_that_changes_a_tensor_during_its_copy(folder: Path, arena: str | None) -> None:
    """What the copy saw is the user's own race, but it saw it once: all digests are those of what was written."""
    counts, other = torch.zeros(6_000_000), folder.with_name("other")
    state = {"counts": {"all": counts, "again": counts.view(-1), "part": counts[1_000_000:5_000_000:3]}}
    savers = [Saver(one, save=Every(batches=1), keep=KeepAll()) for one in (folder, other)]
    with Run(folder, state, savers=savers, arena=arena) as run, adding(counts) as added:
        for _ in run.epochs(1):
            for number in run.batches(range(8)):
                await_condition(lambda count=3 * number: len(added) >= count, lambda: "the thread")
                run.wait()
    found = [_counts(one) for one in (folder, other)]
    assert [len(one) for one in found] == [8, 8]
    for one, its_twin in zip(*found, strict=True):
        assert torch.equal(one["all"], one["again"])
        assert arena or all(torch.equal(one[name], its_twin[name]) for name in one)
    assert all(one["all"].max() > 0 for one in found[0][1:])


def _counts(folder: Path) -> list[dict[str, torch.Tensor]]:
    """What each checkpoint holds, each byte of it verified."""
    found = []
    for checkpoint in checkpoints(folder):
        checkpoint.verify(tampering=True)
        fresh: dict[str, torch.Tensor] = {}
        checkpoint.load_into(verify_first=True, counts=fresh)
        found.append(fresh)
    return found
