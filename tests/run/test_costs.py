"""What saves cost, measured by a clock of the test."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest

from holdfast import Every, Overhead, SavePolicy, Saver
from holdfast.policies.moment import Costs
from holdfast.run.costs import CostMeter, SaveCost, estimate
from holdfast.run.extent import make_extent
from holdfast.run.schedule import Schedule, Sight
from holdfast.types import Progress


@dataclass
class Time:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


def batches(meter: CostMeter, time: Time, seconds: float, count: int, *, writing: bool = False) -> None:
    for _ in range(count):
        time.now += seconds
        meter.boundary(batch=True, writing=writing)


def save(meter: CostMeter, time: Time, blocking: float = 0.0) -> SaveCost:
    """A snapshot that is handed over."""
    with meter.stopping() as cost:
        time.now += blocking
    meter.taken(cost)
    return cost


def scheduled(policy: SavePolicy) -> Schedule:
    schedule = Schedule(Saver(save=policy), ".", "/run", make_extent(["model"], None, (), ""))
    schedule.start(Progress(), None)
    return schedule


def test_what_training_waits_for_is_what_a_save_blocks(time: Time) -> None:
    """All of it, from the wait for the save before to the hand-over."""
    meter = CostMeter(time)
    save(meter, time, 0.25)
    assert meter.newest.seen(0.0).blocking == 0.25


def test_longer_batches_while_a_save_is_written_are_its_cost(time: Time) -> None:
    """Against the median of quiet ones; the time that the save blocked is not counted twice."""
    meter = CostMeter(time)
    meter.boundary(batch=False, writing=False)
    batches(meter, time, 0.1, 10)
    save(meter, time, 0.5)
    batches(meter, time, 0.15, 4, writing=True)
    meter.written(2.0)
    meter.done()
    batches(meter, time, 0.1, 5)
    seen = meter.newest.seen(meter.batch)
    assert seen.slowdown == pytest.approx(4 * 0.05)
    assert (seen.blocking, seen.persist, seen.batch) == pytest.approx((0.5, 2.0, 0.1))


def test_training_is_not_slowed_down_for_longer_than_the_writing_takes(time: Time) -> None:
    """A batch that waits for its data just then is no fault of the save."""
    meter = CostMeter(time)
    meter.boundary(batch=False, writing=False)
    batches(meter, time, 0.1, 10)
    save(meter, time)
    batches(meter, time, 30.0, 1, writing=True)
    meter.written(0.2)
    meter.done()
    assert meter.newest.seen(0.1).slowdown == pytest.approx(0.2)


def test_an_epochs_end_is_no_batch(time: Time) -> None:
    """An evaluation while a save is written does not count as a slow batch."""
    meter = CostMeter(time)
    meter.boundary(batch=False, writing=False)
    batches(meter, time, 0.1, 10)
    save(meter, time)
    time.now += 60
    meter.boundary(batch=False, writing=True)
    meter.written(100.0)
    meter.done()
    assert meter.newest.seen(0.1).slowdown == 0


def test_a_save_that_is_being_written_counts_as_the_one_before(time: Time) -> None:
    """One that seemed to cost nothing would call for the next at once."""
    meter = CostMeter(time)
    first = save(meter, time)
    meter.written(3.0)
    meter.done()
    second = save(meter, time)
    second.follow(first)
    assert meter.newest.seen(0.0) == Costs(persist=3.0, measured=True, writing=True)


def test_a_save_that_failed_counts_as_the_one_before(time: Time) -> None:
    """It may have failed at once: the next one takes no less time to be durable for that."""
    meter, schedule = CostMeter(time), scheduled(Overhead(0.01))
    schedule.cost = SaveCost(persist=300.0, measured=True)
    for written in (0.1, 0.2):
        schedule.fire(Progress(), None, save(meter, time, 2.0))
        meter.written(written)
        meter.done()
        schedule.fail()
        assert schedule.cost.seen(0.0) == Costs(blocking=2.0, persist=300.0, measured=True)
    schedule.fire(Progress(), None, save(meter, time, 2.0))
    meter.written(200.0)
    meter.done()
    assert schedule.cost.seen(0.0) == Costs(blocking=2.0, persist=200.0, measured=True)


def test_the_first_save_is_estimated_by_its_size() -> None:
    """Rather too much: what the second one costs is known."""
    first = estimate(2 * 2**30).seen(0.0)
    assert first.blocking > 1
    assert first.persist > 2
    assert not first.measured


def test_the_bound_holds_in_a_loop_whose_steps_and_saves_change_midway() -> None:
    """Steps and saves both change fourfold, in either direction: within a third of 1 % over each half and the whole.

    The same machinery as in a run, with a clock of the test: boundaries, the meter, the schedule, the policy.
    """
    for step, blocking, slower in ((0.02, 0.03, 4.0), (0.08, 0.12, 0.25), (0.02, 0.12, 4.0), (0.08, 0.03, 0.25)):
        spent = loop(step, blocking, slower)
        for half in spent:
            assert 0.0067 < half < 0.0134, (step, blocking, slower, spent)


def loop(step: float, blocking: float, slower: float, batches: int = 40_000) -> tuple[float, float]:
    """What part of the time goes into saving in the first and in the second half of the batches.

    A save blocks for ``blocking`` seconds and is written for three times as long, during which batches take a tenth
    longer; from the middle on all of it, and each step, takes ``slower`` times as long.
    """
    time, noise = Time(), random.Random(5)
    meter = CostMeter(time)
    schedule = scheduled(Overhead(0.01))
    schedule.cost = estimate(10**7)
    before, busy_until, spent, passed = Progress(), 0.0, [0.0, 0.0], [0.0, 0.0]
    for batch in range(batches):
        half = int(batch >= batches // 2)
        factor = slower if half else 1.0
        writing = time.now < busy_until
        seconds = step * factor * noise.uniform(0.9, 1.1)
        extra = 0.1 * seconds if writing else 0.0
        time.now += seconds + extra
        passed[half] += seconds + extra
        spent[half] += extra
        meter.boundary(batch=True, writing=writing)
        if writing and time.now >= busy_until:
            meter.written(3 * blocking * factor)
            meter.done()
        now = Progress(step=batch + 1, elapsed=time.now)
        sight = Sight(before=before, now=now, event="boundary", time=time.now, batch=meter.batch)
        schedule.ask(schedule.moment(sight))
        before = now
        if schedule.due and time.now >= busy_until:
            schedule.fire(now, batch, save(meter, time, blocking * factor))
            passed[half] += blocking * factor
            spent[half] += blocking * factor
            busy_until = time.now + 3 * blocking * factor
    return spent[0] / passed[0], spent[1] / passed[1]


def test_a_limited_interval_waits_for_what_the_last_save_cost() -> None:
    """`Every` and `Overhead` joined: due when both have come round."""
    schedule = scheduled(Every(steps=10) & Overhead(0.01))
    schedule.cost = estimate(10**9)
    cost = schedule.cost.seen(0.0).training
    for elapsed, due in ((99 * cost, False), (101 * cost, True)):
        now = Progress(step=25, elapsed=elapsed)
        schedule.ask(schedule.moment(Sight(before=Progress(step=24), now=now, event="boundary")))
        assert bool(schedule.due) == due
