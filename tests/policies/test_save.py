"""Save policies."""

from __future__ import annotations

import re

import pytest

from holdfast import AtEnd, AtMostEvery, AtStart, BeforeDeadline, Every, OnError, OnSignal
from holdfast.errors import UsageError
from holdfast.policies.moment import Costs, Moment
from holdfast.policies.save import AnyOf, parts
from holdfast.types import Progress


def between(before: Progress, now: Progress, event: str = "boundary") -> Moment:
    return Moment(previous=before, progress=now, event=event)


@pytest.mark.parametrize(
    ("policy", "event"), [(AtStart(), "start"), (AtEnd(), "end"), (OnSignal(), "signal"), (OnError(), "error")]
)
def test_event_policies_answer_to_their_event_only(policy, event):
    """They are due at their event and at no boundary."""
    assert policy.due(between(Progress(), Progress(), event)) is not None
    assert policy.due(between(Progress(), Progress(step=99))) is None


def test_any_callable_is_a_policy():
    """What it returns is the reason if it is a text, else its name is; nothing is due where it is false."""

    def at_seven(moment: Moment) -> bool:
        return moment.progress.step == 7

    policy = Every(steps=100) | at_seven | (lambda moment: "odd" if moment.progress.step % 2 else "")
    assert policy.due(between(Progress(step=6), Progress(step=7))) == "at_seven, odd"
    assert policy.due(between(Progress(step=7), Progress(step=8))) is None


class Asked:
    def __call__(self, moment: Moment) -> bool:
        raise KeyError("val_loss")


def test_a_callable_that_fails_is_named_with_its_place():
    """Its own error goes on, with a note that tells which of several rules it was."""
    with pytest.raises(KeyError) as error:
        (Every(steps=100) | Asked()).due(between(Progress(), Progress()))
    assert re.fullmatch(r"raised by the save policy Asked \(.*test_save\.py:\d+\)", error.value.__notes__[0])


def test_or_is_flat_and_names_every_reason():
    """`a | b | c` is one union, and its reason tells which of them were due."""
    policy = Every(steps=2) | (Every(batches=3) | AtEnd())
    assert isinstance(policy, AnyOf)
    assert len(policy.policies) == 3
    assert (
        policy.due(between(Progress(step=1, batches=2), Progress(step=2, batches=3)))
        == "every 2 steps, every 3 batches"
    )
    assert parts(policy) == (Every(steps=2), Every(batches=3), AtEnd())


END_AT = 1_795_680_000.0
END = BeforeDeadline(at=END_AT, stop=True)


@pytest.mark.parametrize("policy", [END, END | Every(steps=2), Every(steps=2) | END, END & AtMostEvery(steps=1)])
def test_a_combination_is_as_urgent_as_what_of_it_is_due(policy):
    """That it cannot wait, that it ends the run and what it has to say is not lost in `|` and `&`."""
    costs = Costs(blocking=5, persist=35)
    for now, pressing in ((END_AT - 20, True), (END_AT - 1000, False)):
        moment = Moment(
            previous=Progress(step=1), progress=Progress(step=2), now=now, deadlines={END.key: END_AT}, costs=costs
        )
        found = (policy.insists(moment), policy.urgent(moment), policy.ends(moment), policy.remark(moment) is not None)
        assert found == (pressing,) * 4


@pytest.mark.parametrize("other", ["every 2 steps", 3, None, Every])
def test_a_policy_combines_with_policies_and_callables_only(other):
    """Anything else is named, and a class that was not called too."""
    with pytest.raises(UsageError, match="no save policy"):
        Every(steps=2) | other
    with pytest.raises(UsageError, match="no save policy"):
        other & Every(steps=2)
