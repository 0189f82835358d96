"""What one saver is due for, and what its policy remembers of it."""

from __future__ import annotations

from typing import Any

import pytest

from holdfast import AtMostEvery, Every, OnBest, Saver
from holdfast.run.costs import SaveCost
from holdfast.run.extent import make_extent
from holdfast.run.schedule import Schedule, Sight
from holdfast.types import Progress


def scheduled(save: Any = None) -> Schedule:
    schedule = Schedule(Saver(save=save), ".", "/run", make_extent(["model"], None, (), ""))
    schedule.start(Progress(), None)
    return schedule


def at(batches: int) -> Progress:
    """Batches take a second each."""
    return Progress(batches=batches, elapsed=float(batches))


def ask(schedule: Schedule, batches: int, of: int = 100, **logged: float) -> bool:
    """Whether a save is due behind that batch."""
    sight = Sight(
        before=at(batches - 1), now=at(batches), event="boundary", share=lambda progress: progress.batches / of,
        logged=logged,
    )  # fmt: skip
    schedule.ask(schedule.moment(sight))
    return bool(schedule.due)


def take(schedule: Schedule, batches: int, *, blocking: float = 0.0) -> None:
    """A snapshot, written as soon as it is taken."""
    cost = SaveCost(blocking=blocking, measured=True)
    schedule.fire(at(batches), batches, cost)
    cost.writing = False


@pytest.mark.parametrize(
    ("blocking", "expected"), [(0.01, list(range(50, 1001, 50))), (1.99, [50, 249, 448, 647, 846])]
)
def test_the_default_saves_twenty_times_over_the_run_within_its_bound(blocking: float, expected: list[int]) -> None:
    """By the fraction of the run that is done, and more rarely where that would take more than a hundredth."""
    schedule, found = scheduled(), list[int]()
    for batches in range(1, 1001):
        if ask(schedule, batches, 1000):
            take(schedule, batches, blocking=blocking)
            found.append(batches)
    assert found == expected


def test_a_save_that_failed_is_not_remembered() -> None:
    """What is better than the best on disk is due, though it is not better than what was not saved."""
    schedule = scheduled(OnBest("loss"))
    assert ask(schedule, 1, loss=3.0)
    take(schedule, 1)
    schedule.fail()
    assert ask(schedule, 2, loss=3.5)


def test_a_save_that_failed_takes_nothing_from_the_one_behind_it() -> None:
    """A better value was due while the failing save was being written: once saved, it is the best."""
    schedule = scheduled(OnBest("loss"))
    assert ask(schedule, 1, loss=3.0)
    take(schedule, 1)
    assert ask(schedule, 2, loss=1.0)
    schedule.fail()
    assert schedule.due
    take(schedule, 2)
    schedule.confirm()
    assert not ask(schedule, 3, loss=2.0)


def test_a_save_that_is_given_up_is_not_remembered() -> None:
    """It was due and was not taken: neither its best value nor its interval counts."""
    schedule = scheduled(OnBest("loss") | Every(batches=10) & AtMostEvery(batches=5))
    assert ask(schedule, 9, loss=3.0)
    schedule.drop()
    assert ask(schedule, 9, loss=3.5)
    schedule.drop()
    assert ask(schedule, 10)
    schedule.drop()
    assert ask(schedule, 11)


def test_a_checkpoint_remembers_only_what_it_holds() -> None:
    """What is due for a saver that does not take part in it is not saved by it."""
    schedule = scheduled(OnBest("loss"))
    assert ask(schedule, 1, loss=3.0)
    assert schedule.remembered(None, at(1)).memory == {}
    assert schedule.remembered(("best loss (3)",), at(1)).memory == {"best loss min": 3.0}


def test_a_reason_that_comes_again_with_other_numbers_is_told_once() -> None:
    """A save that waits for the one before is due at each boundary meanwhile."""
    schedule = scheduled()
    for reason in ("overhead 5 % (every 2.74 s)", "overhead 5 % (every 2.75 s)", "at end", "at end"):
        schedule.request(reason)
    assert schedule.due == ["overhead 5 % (every 2.74 s)", "at end"]
