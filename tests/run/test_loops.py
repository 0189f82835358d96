"""Loops as people combine and leave them: what is saved where they end, and where a restart goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from holdfast import (
    AtEnd,
    AtMostEvery,
    Every,
    KeepAll,
    OnBest,
    OnError,
    Run,
    Saver,
    UsageError,
    checkpoints,
)
from tests.harness.small import BATCHES, Small, small

RARELY = Every(batches=1000)


class Crash(Exception):
    """The process dies, as far as this run can tell: nothing is saved on it."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run"


def stopping(at: int | None) -> Callable[[Run], None]:
    """Crashes in the batch after the first ``at`` of this attempt."""
    count = 0

    def step(run: Run) -> None:
        nonlocal count
        run.wait()
        if count == at:
            raise Crash
        count += 1

    return step


def train(run: Run, job: Small, batches: Any, each: Callable[[Run], None] = lambda run: None) -> None:
    for (inputs,) in batches:
        each(run)
        run.log(loss=job.step(inputs))


def attempt(folder: Path, script: Callable[[Run, Small, Any], None], at: int | None = None, **options: Any) -> Small:
    """An attempt at a training that ``script`` writes down, to its end or to a crash."""
    job = small()
    options = {"save": Every(batches=3), "keep": KeepAll(), **options}
    if at is None:
        with Run(folder, job.state, **options) as run:
            script(run, job, stopping(None))
        return job
    with pytest.raises(Crash), Run(folder, job.state, **options) as run:
        script(run, job, stopping(at))
    return job


# How a run ends.


def ended_by_break(run: Run, job: Small, each: Any) -> None:
    for epoch in run.epochs(10):
        train(run, job, run.batches(job.loader))
        run.log(val=3 - epoch)
        if epoch == 2:
            break


def ended_by_hand(run: Run, job: Small, each: Any) -> None:
    run.resume()
    for epoch in range(3):
        for number, (inputs,) in enumerate(job.loader):
            job.step(inputs)
            if number + 1 == BATCHES:
                run.log(val=3 - epoch)
            run.batch_end(epoch=epoch, batch=number + 1)


def loops_alone(run: Run, job: Small, each: Any) -> None:
    for epoch in range(3):
        train(run, job, run.batches(job.loader))
        run.log(val=3 - epoch)


def savers(folder: Path) -> list[Saver]:
    return [
        Saver(save=RARELY),
        Saver(f"{folder}-best", save=OnBest("val"), keep=KeepAll(), items=["model"]),
        Saver(f"{folder}-end", save=AtEnd(), keep=KeepAll(), items=["model"]),
    ]


def told(folder: Path | str) -> list[tuple[int, float]]:
    """By checkpoint, how many batches and which metric."""
    return [(one.progress.batches, one.metrics["val"]) for one in checkpoints(folder)]


@pytest.mark.parametrize("script", [ended_by_break, ended_by_hand, loops_alone])
def test_the_last_value_logged_and_the_end_count_however_a_loop_ends(folder: Path, script: Any) -> None:
    """The model that reached the target is the best one, and its export is made."""
    attempt(folder, script, savers=savers(folder), save=None, keep=None)
    assert told(f"{folder}-best") == [(BATCHES, 3.0), (2 * BATCHES, 2.0), (3 * BATCHES, 1.0)]
    assert told(f"{folder}-end") == [(3 * BATCHES, 1.0)]
    assert told(folder) == [(3 * BATCHES, 1.0)]


def test_a_loop_that_is_left_is_no_end_if_another_one_follows(folder: Path) -> None:
    """Nothing is saved or remembered of the policies' answers to an end that was none."""
    asked: list[str] = []

    def own(moment: Any) -> bool:
        asked.append(moment.event)
        return moment.event == "end"

    def script(run: Run, job: Small, each: Any) -> None:
        for _ in run.epochs(4):
            train(run, job, run.batches(job.loader))
            break
        for _ in run.epochs(2):
            train(run, job, run.batches(job.loader))

    attempt(folder, script, savers=[Saver(save=RARELY), Saver(f"{folder}-end", save=own, items=["model"])],
            save=None, keep=None)  # fmt: skip
    assert asked.count("end") == 2
    assert [one.progress.batches for one in checkpoints(f"{folder}-end")] == [2 * BATCHES]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, Crash])
def test_an_exception_is_no_end(folder: Path, kind: type[BaseException]) -> None:
    """A loop that is left by one looks as by `break`, at first."""

    def script(run: Run, job: Small, each: Any) -> None:
        for _ in run.epochs(3):
            train(run, job, run.batches(job.loader))
            raise kind

    own = [Saver(save=RARELY | OnError()), *savers(folder)[1:]]
    with pytest.raises(kind):
        attempt(folder, script, savers=own, save=None, keep=None)
    assert checkpoints(f"{folder}-end") == []


def test_what_is_due_when_an_exception_comes_is_saved_for_its_own_reason(folder: Path) -> None:
    """It waited for the epoch's end; the save on an error makes a restart count it as passed."""

    def script(fails: bool) -> Callable[[Run, Small, Any], None]:
        def run_it(run: Run, job: Small, each: Any) -> None:
            for _ in run.epochs(3):
                train(run, job, run.batches(job.loader), lambda run: run.wait())
                if fails:
                    raise Crash

        return run_it

    own = [Saver(save=RARELY | OnError()), Saver(f"{folder}-w", save=Every(steps=4), keep=KeepAll(), items=["model"])]
    with pytest.raises(Crash):
        attempt(folder, script(True), savers=own, save=None, keep=None)
    assert [one.reason for one in checkpoints(folder)] == [("on error",)]
    attempt(folder, script(False), savers=own, save=None, keep=None)
    assert [(one.progress.step, one.reason) for one in checkpoints(f"{folder}-w")] == [
        (steps, ("every 4 steps",)) for steps in (4, 8, 12)
    ]


class Failing:
    """A stream of no length that fails behind its third batch."""

    def __iter__(self) -> Iterator[tuple[torch.Tensor]]:
        for _ in range(3):
            yield (torch.ones(4, 2),)
        raise Crash


def test_a_loader_that_fails_does_not_take_a_due_save_with_it(folder: Path) -> None:
    """It is asked for its next batch before the save, because a loop's last batch is saved elsewhere."""

    def script(run: Run, job: Small, each: Any) -> None:
        for _ in run.epochs(1):
            train(run, job, run.batches(Failing()), lambda run: run.wait())

    with pytest.raises(Crash):
        attempt(folder, script)
    assert [one.progress.batches for one in checkpoints(folder)] == [3]


# One loop behind another.


def left_and_gone_on(run: Run, job: Small, each: Any) -> None:
    for epoch in run.epochs(4):
        train(run, job, run.batches(job.loader), each)
        if epoch >= 1:
            break
    for _ in run.epochs(4):
        train(run, job, run.batches(job.loader), each)


def steps_twice(run: Run, job: Small, each: Any) -> None:
    train(run, job, run.steps(job.loader, 5), each)
    train(run, job, run.steps([(torch.full((4, 2), one / 9),) for one in range(4)], 12), each)


def alone_behind_epochs(run: Run, job: Small, each: Any) -> None:
    for _ in run.epochs(2):
        train(run, job, run.batches(job.loader), each)
    train(run, job, run.batches(job.loader), each)
    train(run, job, run.batches(job.loader), each)


def saved_between(run: Run, job: Small, each: Any) -> None:
    for _ in range(3):
        train(run, job, run.batches(job.loader), each)
        run.save()


def logged_before(run: Run, job: Small, each: Any) -> None:
    run.log(loss=9.0)
    for _ in run.epochs(3):
        train(run, job, run.batches(job.loader), each)


SCRIPTS = [left_and_gone_on, steps_twice, alone_behind_epochs, saved_between, logged_before]


@pytest.mark.parametrize("at", [4, 5, 6, 9, 11])
@pytest.mark.parametrize("script", SCRIPTS)
def test_loops_one_behind_another_are_gone_on_with_exactly(folder: Path, script: Any, at: int) -> None:
    """As many batches and the same weights as without the crash, and no false alarm."""
    twin = attempt(folder.parent / "twin", script)
    attempt(folder, script, at)
    job = attempt(folder, script)
    assert all(map(torch.equal, job.weights, twin.weights))
    newest, last = checkpoints(folder)[-1], checkpoints(folder.parent / "twin")[-1]
    assert newest.progress.batches == last.progress.batches
    assert newest.metrics == last.metrics


def test_a_save_between_loops_that_are_passed_over_is_none(folder: Path) -> None:
    """The state is not yet that of the place: a second restart would train the same batches once more."""
    attempt(folder, saved_between, 10)
    attempt(folder, saved_between, 0)
    attempt(folder, saved_between)
    assert checkpoints(folder)[-1].progress.batches == 3 * BATCHES


@pytest.mark.parametrize("second", [lambda run, job: run.steps(job.loader, 9), lambda run, job: run.epochs(3)])
def test_another_kind_of_loop_is_refused(folder: Path, second: Any) -> None:
    """After a restart, nothing would tell in which of them a checkpoint was taken."""

    def script(run: Run, job: Small, each: Any) -> None:
        train(run, job, run.batches(job.loader))
        next(iter(second(run, job)))

    with pytest.raises(UsageError, match="another kind of loop"):
        attempt(folder, script, save=OnError())
    assert [one.progress.batches for one in checkpoints(folder)] == [BATCHES]


def test_a_validation_in_front_restores_nothing_and_decides_nothing(folder: Path) -> None:
    """The loop behind it may be one over steps, whose length is known."""

    def script(run: Run, job: Small, each: Any) -> None:
        for (inputs,) in run.batches(job.loader, train=False):
            job.model(inputs)
        train(run, job, run.steps(job.loader, 10), lambda run: run.wait())

    attempt(folder, script, save=Every(fraction=0.2))
    assert [one.progress.batches for one in checkpoints(folder)] == [2, 4, 6, 8, 10]


# The share of the run.


@pytest.mark.parametrize("save", [Every(fraction=0.25), Every(fraction=0.25) & AtMostEvery(batches=2)])
def test_a_run_that_is_made_longer_counts_its_fractions_anew(folder: Path, save: Any) -> None:
    """What had been done was all of it; now it is a third."""

    def script(total: int) -> Callable[[Run, Small, Any], None]:
        def run_it(run: Run, job: Small, each: Any) -> None:
            for _ in run.epochs(total):
                train(run, job, run.batches(job.loader), lambda run: run.wait())

        return run_it

    attempt(folder, script(2), save=save)
    attempt(folder, script(6), save=save)
    assert [one.progress.batches for one in checkpoints(folder)] == [2, 4, 6, 8, 12, 18, 24]


def test_a_limit_is_the_length_of_a_loop(folder: Path) -> None:
    """Of the first epoch too, when nothing has been counted yet."""

    def script(run: Run, job: Small, each: Any) -> None:
        for _ in run.epochs(1):
            train(run, job, run.batches(list(job.loader) * 100, limit=10), lambda run: run.wait())

    attempt(folder, script, save=Every(fraction=0.2))
    assert [one.progress.batches for one in checkpoints(folder)] == [2, 4, 6, 8, 10]


def test_what_cannot_come_round_in_loops_alone_is_said(folder: Path, capfd: Any) -> None:
    """They have no length, and nobody counts epochs."""
    attempt(folder, loops_alone, save=Every(fraction=0.1) | Every(epochs=1))
    said = capfd.readouterr().err
    assert "Every(fraction=0.1) never comes round: the length of this loop is not known" in said
    assert "Every(epochs=1) never comes round: epochs are counted in run.epochs() alone" in said
