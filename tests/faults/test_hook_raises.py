"""Code of the user's that runs in a save, or in a batch, raises: it costs that save or that batch, and nothing else."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from holdfast import Every, HoldfastWarning, KeepAll, Run, SaveError, checkpoints
from tests.exactness.pictures import differences, picture
from tests.harness.history import History

BATCHES = 8


class Counter:
    """Few values of a user's own, which are asked for at each boundary."""

    def __init__(self) -> None:
        self.count = 0
        self.hook: Callable[..., None] = lambda: None

    def state_dict(self) -> dict[str, int]:
        self.hook()
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.count = state["count"]


class Linear(nn.Linear):
    """A layer with a state beside its parameters."""

    def get_extra_state(self) -> dict[str, int]:
        getattr(self, "hook", lambda: None)()
        return {"version": 3}

    def set_extra_state(self, state: dict[str, int]) -> None:
        assert state == {"version": 3}


class Job:
    """A model, an optimizer of one kernel, and an object of the user's."""

    def __init__(self, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.model = nn.Sequential(Linear(2, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), 0.1, fused=True)
        self.counter = Counter()
        self.inputs = torch.randn(4, 2)

    @property
    def state(self) -> dict[str, Any]:
        return {"model": self.model, "optimizer": self.optimizer, "counter": self.counter}

    def batch(self, number: int) -> None:
        self.counter.count += 1
        self.optimizer.zero_grad()
        self.model(self.inputs + number).square().mean().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


class Theirs(Exception):
    """What the user's code raises."""


class Hook:
    """Raises while it is `armed`, whatever it is called with."""

    def __init__(self) -> None:
        self.armed = False

    def __call__(self, *_: Any) -> None:
        if self.armed:
            raise Theirs("their hook")


Place = Callable[[Job, Hook], object]

IN_A_SAVE: dict[str, Place] = {
    "before_state_dict_of_a_module": lambda job, hook: job.model.register_state_dict_pre_hook(hook),
    "after_state_dict_of_a_module": lambda job, hook: job.model[2].register_state_dict_post_hook(hook),
    "extra_state": lambda job, hook: setattr(job.model[0], "hook", hook),
    "before_state_dict_of_an_optimizer": lambda job, hook: job.optimizer.register_state_dict_pre_hook(hook),
    "after_state_dict_of_an_optimizer": lambda job, hook: job.optimizer.register_state_dict_post_hook(hook),
    "state_dict_of_an_object": lambda job, hook: setattr(job.counter, "hook", hook),
}

IN_A_BATCH: dict[str, Place] = {
    "before_a_step": lambda job, hook: job.optimizer.register_step_pre_hook(hook),
    "after_a_step": lambda job, hook: job.optimizer.register_step_post_hook(hook),
    "before_a_forward": lambda job, hook: job.model[2].register_forward_pre_hook(hook),
    "after_a_forward": lambda job, hook: job.model[0].register_forward_hook(hook),
    "in_a_backward": lambda job, hook: job.model[2].weight.register_post_accumulate_grad_hook(hook),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run"


def twin(place: Place | None = None, armed: tuple[int, ...] = ()) -> Iterator[dict[str, Any]]:
    """The state at each boundary of the same training without holdfast; a batch in which a hook raises is given up."""
    job, hook = Job(), Hook()
    if place is not None:
        place(job, hook)
    for number in range(BATCHES):
        hook.armed = number in armed
        with contextlib.suppress(Theirs):
            job.batch(number)
        hook.armed = False
        yield picture(job.state)


def assert_exact(folder: Path, boundaries: list[dict[str, Any]]) -> list[int]:
    """Each checkpoint is what the twin has at its boundary; their numbers."""
    found = checkpoints(folder)
    for checkpoint in found:
        checkpoint.verify(tampering=True)
        fresh = Job(seed=1)
        checkpoint.load_into(**fresh.state)
        wanted = boundaries[checkpoint.progress.batches - 1]
        assert list(differences(wanted, picture(fresh.state))) == [], checkpoint
    return [one.progress.batches for one in found]


def bytes_of(folder: Path) -> dict[str, bytes]:
    """Of all files of all checkpoints, and of whatever is left of one that failed."""
    outside = ("attempts", "journal")
    files = (one for one in folder.rglob("*") if one.is_file() and not one.name.startswith("."))
    return {str(one): one.read_bytes() for one in files if one.relative_to(folder).parts[0] not in outside}


def train(run: Run, job: Job, each: Callable[[int], object] = lambda number: None) -> None:
    """Waits for each save, however it ends; then comes ``each``, with the number of the batch."""
    with run:
        for _ in run.epochs(1):
            for number in run.batches(range(BATCHES)):
                job.batch(number)
                with contextlib.suppress(SaveError):
                    run.wait()
                each(number)


@pytest.mark.parametrize("name", list(IN_A_SAVE))
def test_a_hook_that_raises_in_a_save(folder: Path, name: str) -> None:
    """That save alone fails, with their words; earlier checkpoints are untouched, and the next one is committed."""
    job, hook = Job(), Hook()
    IN_A_SAVE[name](job, hook)
    pictures: dict[int, dict[str, bytes]] = {}

    def each(number: int) -> None:
        pictures[number] = bytes_of(folder)
        hook.armed = number == 3

    run = Run(folder, job.state, save=Every(batches=1), keep=KeepAll())
    with pytest.warns(HoldfastWarning, match="n0004 failed: Theirs: their hook.*Training goes on") as said:
        train(run, job, each)
    assert len(said) == 1
    assert pictures[3] == pictures[4] != {}
    assert assert_exact(folder, list(twin())) == [1, 2, 3, 5, 6, 7, 8]


@pytest.mark.parametrize("name", list(IN_A_SAVE))
def test_a_hook_that_raises_from_the_first_batch_on(folder: Path, name: str) -> None:
    """Nothing but saves fails: not what is only measured to tell how much they cost, and not a boundary."""
    job, hook = Job(), Hook()
    IN_A_SAVE[name](job, hook)

    def each(number: int) -> None:
        hook.armed = number < 4

    run = Run(folder, job.state, save=Every(batches=1), keep=KeepAll())
    hook.armed = True
    with pytest.warns(HoldfastWarning, match="n000[1-4] failed: Theirs: their hook") as said:
        train(run, job, each)
    assert len(said) == 4
    assert assert_exact(folder, list(twin())) == [5, 6, 7, 8]


@pytest.mark.parametrize("name", list(IN_A_SAVE))
def test_a_hook_that_raises_in_a_save_outside_of_a_loop(folder: Path, name: str) -> None:
    """`save` raises, and works when the hook does."""
    job, hook = Job(), Hook()
    IN_A_SAVE[name](job, hook)
    with Run(folder, job.state) as run:
        hook.armed = True
        with pytest.warns(HoldfastWarning, match="their hook"), pytest.raises(SaveError, match="Theirs: their hook"):
            run.save()
        assert History(folder).checkpoints == History(folder).debris == []
        hook.armed = False
        run.save()
        run.wait()
    assert len(checkpoints(folder)) == 1


@pytest.mark.parametrize("early", [True, False], ids=["before_the_run", "after_the_run"])
@pytest.mark.parametrize("name", list(IN_A_BATCH))
def test_a_hook_that_raises_in_a_batch(folder: Path, name: str, early: bool) -> None:
    """The error is the user's to catch; each boundary that is saved since is that of a twin without holdfast."""
    job, hook, armed, caught = Job(), Hook(), (3, 4), []
    if early:
        IN_A_BATCH[name](job, hook)
    run = Run(folder, job.state, save=Every(batches=1), keep=KeepAll())
    if not early:
        IN_A_BATCH[name](job, hook)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with run:
            for _ in run.epochs(1):
                for number in run.batches(range(BATCHES)):
                    hook.armed = number in armed
                    try:
                        job.batch(number)
                    except Theirs as error:
                        caught.append(str(error))
                    hook.armed = False
                    run.wait()
    assert caught == ["their hook", "their hook"]
    saved = assert_exact(folder, list(twin(IN_A_BATCH[name], armed)))
    assert saved[-1] == BATCHES
    assert set(saved) >= {1, 2, 3, 6, 7}


@pytest.mark.parametrize("kind", ["snapshot", "saved"])
def test_a_listener_that_raises_in_a_save(folder: Path, kind: str) -> None:
    """`run.on_event` is told of what is done already: its failure is warned of, and the checkpoint stands."""
    job = Job()

    def listen(event: Any) -> None:
        if event.kind == kind and event.data["ordinal"] == 3:
            raise Theirs("their listener")

    run = Run(folder, job.state, save=Every(batches=1), keep=KeepAll())
    run.on_event = listen
    with pytest.warns(HoldfastWarning, match="on_event raised Theirs") as said:
        train(run, job)
    assert len(said) == 1
    assert assert_exact(folder, list(twin())) == list(range(1, BATCHES + 1))
