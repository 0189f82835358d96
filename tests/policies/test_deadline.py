"""Saving before a known end: when, once, and in time."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from holdfast import BeforeDeadline
from holdfast.errors import UsageError
from holdfast.policies.deadline import instant
from holdfast.policies.moment import Costs, Moment
from holdfast.types import Progress

END = 1_795_680_000.0
POLICY = BeforeDeadline(slurm=True)


def at(now: float, policy: BeforeDeadline = POLICY, **more: Any) -> Moment:
    """A boundary, so many seconds after the epoch that begins with the deadline of ``policy``."""
    given = {"deadlines": {policy.key: END}, "now": END + now, "progress": Progress(), **more}
    return Moment(previous=Progress(), **given)


def fired(policy: BeforeDeadline, times: list[float], memory: dict[str, Any], **more: Any) -> list[float]:
    """At which of the moments a save was due, with what is remembered handed on as JSON from one to the next."""
    found = list[float]()
    for now in times:
        moment = at(now, policy, memory=json.loads(json.dumps(memory)), **more)
        if policy.due(moment) is not None:
            found.append(now)
            memory.update(policy.remember(moment))
        else:
            assert policy.remember(moment) == {}
    return found


@given(
    blocking=st.floats(0, 60), persist=st.floats(0, 600), batch=st.floats(0.01, 120), margin=st.floats(0, 300),
    parts=st.lists(st.floats(0.05, 2), min_size=1, max_size=20), slower=st.floats(0, 1.5),
)  # fmt: skip
def test_the_save_is_durable_in_time_though_batches_and_saves_take_longer_than_before(
    blocking, persist, batch, margin, parts, slower
):
    """Batches of up to twice and a save of up to one and a half times what was measured leave the margin over."""
    policy = BeforeDeadline(slurm=True, margin=margin)
    costs = Costs(blocking=blocking, persist=persist, batch=batch, measured=True)
    now, index = -policy.lead(at(0, costs=costs)) - 1.0, 0
    while policy.due(at(now, policy, costs=costs)) is None:
        now += batch * parts[index % len(parts)]
        index += 1
    assert now + slower * costs.durable <= -margin + 1e-3


@given(times=st.lists(st.floats(-2000, 200), max_size=40).map(sorted), margin=st.floats(0, 1000))
def test_a_deadline_is_acted_on_once_at_the_first_boundary_that_is_near_enough(times, margin):
    """Neither before its time nor twice, whatever the boundaries, a restart from the checkpoint included."""
    policy, memory = BeforeDeadline(slurm=True, margin=margin), dict[str, Any]()
    near = [one for one in times if END + one >= END - margin]
    assert fired(policy, times, memory) == near[:1]
    assert fired(policy, times, memory) == []


def test_how_early_is_told_by_what_a_save_and_a_batch_take():
    """One and a half saves, as long for one that may just have begun to be written, two batches and the margin."""
    costs = Costs(blocking=2, slowdown=50, persist=38, batch=7)
    assert BeforeDeadline(slurm=True, margin=10).lead(at(0, costs=costs)) == 1.5 * (40 + 38) + 2 * 7 + 10


@given(
    blocking=st.floats(0, 60), persist=st.floats(60, 600), batch=st.floats(0.01, 120), margin=st.floats(0, 300),
    late=st.floats(0, 1),
)  # fmt: skip
def test_the_save_is_durable_in_time_behind_one_that_has_just_begun(blocking, persist, batch, margin, late):
    """Nothing was due at the boundary before, so another save was taken there, and that one is waited for."""
    policy = BeforeDeadline(slurm=True, margin=margin)
    costs = Costs(blocking=blocking, persist=persist, batch=batch)
    began = -policy.lead(at(0, costs=costs)) - late * batch - 1e-3
    assert policy.due(at(began, policy, costs=costs)) is None
    boundary, written = began + blocking + batch, began + blocking + persist
    if policy.due(at(boundary, policy, costs=replace(costs, writing=True))) is not None:
        assert max(boundary, written) + blocking + persist <= -margin


def test_the_save_that_is_still_being_written_is_part_of_what_is_said():
    """It has to be waited for, so less time is left than there seems to be."""
    costs = Costs(blocking=5, persist=35, writing=True)
    assert POLICY.remark(at(-60, costs=costs)) == (
        "1 min are left until the deadline, and a save takes about 1 min 15 s: it may come too late"
    )
    assert POLICY.remark(at(-76, costs=costs)) is None


def test_a_save_that_failed_is_tried_again_but_not_at_every_batch():
    """As long as there is time: a storage that refuses now may take it ten seconds later."""
    due = [POLICY.due(at(now, failed=True, progress=Progress(elapsed=since))) is not None
           for now, since in ((-20, 0.0), (-20, 9.9), (-20, 10.0), (1, 20.0))]  # fmt: skip
    assert due == [False, False, True, False]


def test_a_notice_that_says_no_instant_is_acted_on_at_once():
    """Some clouds kill half a minute after it, and that is what is left of the margin."""
    policy = BeforeDeadline(notice="/run/preempt")
    assert policy.grace <= policy.margin


def test_the_reason_says_how_much_time_is_left():
    """Also when it is too late: a long batch went past the deadline, and late is better than never."""
    policy = BeforeDeadline(slurm=True, margin=100)
    assert policy.due(at(-95, policy)) == "before the deadline (in 1 min 35 s)"
    assert policy.due(at(12, policy)) == "after the deadline (12 s ago)"


@pytest.mark.parametrize("event", ["boundary", "epoch_end"])
def test_training_waits_for_the_save_before(event):
    """A few batches later may be too late."""
    assert POLICY.insists(at(-10, event=event))
    assert not POLICY.insists(at(-100, event=event))


@pytest.mark.parametrize("event", ["start", "end", "signal", "error"])
def test_only_boundaries_and_ends_of_epochs_are_moments_for_it(event):
    """At the others there is nothing new to save, or a save is made anyway."""
    assert POLICY.due(at(-10, event=event)) is None
    assert not POLICY.insists(at(-10, event=event))


def test_without_a_known_deadline_nothing_is_due():
    """Neither where none is known nor where only another one is."""
    assert POLICY.due(at(-10, deadlines={})) is None
    assert POLICY.due(at(-10, deadlines={"notice /run/preempt": END})) is None


@given(shift=st.floats(-4.9, 4.9))
def test_an_answer_that_differs_by_a_little_is_the_same_deadline(shift):
    """Clocks and rounding make the same end differ from one answer to the next."""
    memory: dict[str, Any] = {}
    assert fired(POLICY, [-20], memory) == [-20]
    assert fired(POLICY, [-10, 10], memory, deadlines={POLICY.key: END + shift}) == []


def test_a_deadline_that_is_moved_is_a_new_one():
    """Slurm's time limit was raised by an hour: nothing is due at the old end, and a save is due before the new one."""
    memory: dict[str, Any] = {}
    assert fired(POLICY, [-20], memory) == [-20]
    assert fired(POLICY, [-10, 10, 3500, 3580, 3590], memory, deadlines={POLICY.key: END + 3600}) == [3580]


def test_two_policies_before_the_same_end_do_not_silence_each_other():
    """One saves early to be on the safe side, the other as late as it can."""
    early, late = BeforeDeadline(slurm=True, margin=600), BeforeDeadline(slurm=True, margin=30, stop=True)
    memory: dict[str, Any] = {}
    assert fired(early, [-700, -500, -20], memory) == [-500]
    assert fired(late, [-700, -500, -20], memory) == [-20]


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (-100, None),
        (-41, None),
        (-12, "12 s are left until the deadline, and a save takes about 40 s: it may come too late"),
        (5, "the deadline passed 5 s ago, and a save takes about 40 s: it may come too late"),
    ],
)
def test_too_little_time_is_said(now, said):
    """Where a save is due and takes longer than there is time; not for one that has been taken."""
    costs = Costs(blocking=5, persist=35)
    moment = at(now, costs=costs)
    assert POLICY.remark(moment) == said
    assert POLICY.remark(at(now, costs=costs, memory=POLICY.remember(moment))) is None


@pytest.mark.parametrize(
    "same",
    ["2026-11-26T08:00:00Z", "2026-11-26T08:00Z", "2026-11-26 09:00+01:00", END, int(END),
     datetime(2026, 11, 26, 8, tzinfo=UTC), datetime(2026, 11, 26, 3, tzinfo=timezone(timedelta(hours=-5)))],
)  # fmt: skip
def test_an_instant_may_be_written_in_many_ways(same):
    """Text, number and datetime of one instant make the same policy, with the same name in every checkpoint."""
    assert instant(same) == END
    assert BeforeDeadline(at=same) == BeforeDeadline(at=END)
    assert BeforeDeadline(at=same).key == "at 2026-11-26T08:00:00+00:00"


class Preemption:
    def __call__(self) -> None: ...


def spot_notice() -> None: ...


@pytest.mark.parametrize(
    ("policy", "key"),
    [
        (BeforeDeadline(slurm=True), "slurm"),
        (BeforeDeadline(notice="/run/preempt"), "notice /run/preempt"),
        (BeforeDeadline(notice=Path("/run/preempt"), grace=30), "notice /run/preempt"),
        (BeforeDeadline(notice=spot_notice), "notice spot_notice"),
        (BeforeDeadline(notice=Preemption()), "notice Preemption"),
    ],
)
def test_the_key_names_the_source(policy, key):
    """The same in every attempt, so that what was acted on stays known."""
    assert policy.key == key


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "exactly one of at, slurm, notice; got none"),
        ({"slurm": False}, "got none"),
        ({"slurm": True, "at": END}, "got at, slurm"),
        ({"slurm": True, "notice": "/run/preempt"}, "got slurm, notice"),
        ({"slurm": 1}, r"slurm=1\): expected True or False"),
        ({"at": datetime(2026, 11, 26, 8)}, r"at=datetime.*names no zone, and nobody knows whose clock"),
        ({"at": "2026-11-26T08:00"}, "names no zone, and nobody knows whose clock"),
        ({"at": "tomorrow"}, "'tomorrow' is no instant"),
        ({"at": True}, "is no instant"),
        ({"at": -1.0}, "is no instant"),
        ({"at": math.nan}, "is no instant"),
        ({"at": math.inf}, "is no instant"),
        ({"at": END * 1000}, "is no instant"),
        ({"at": datetime(2026, 11, 26).date()}, "is no instant"),
        ({"notice": ""}, "expected the path of a file, or a callable"),
        ({"notice": 3}, "expected the path of a file, or a callable"),
        ({"notice": Preemption}, "expected the path of a file, or a callable"),
        ({"slurm": True, "margin": -1}, r"margin=-1\): expected seconds"),
        ({"slurm": True, "margin": math.inf}, "margin=inf"),
        ({"slurm": True, "margin": True}, "margin=True"),
        ({"notice": "/run/preempt", "grace": math.nan}, "grace=nan"),
        ({"notice": "/run/preempt", "grace": "30"}, "grace='30'"),
        ({"slurm": True, "stop": "yes"}, r"stop='yes'\): expected True or False"),
    ],
)
def test_a_deadline_that_means_nothing_is_refused_when_constructed(arguments, said):
    """With the option's name, and before any training."""
    with pytest.raises(UsageError, match=said) as error:
        BeforeDeadline(**arguments)
    assert str(error.value).startswith("BeforeDeadline(")
