"""Policies that can never be due, or that work against each other."""

from __future__ import annotations

from holdfast.errors import UsageError
from holdfast.policies.best import OnBest
from holdfast.policies.event import AtEnd, AtStart, OnError, OnSignal
from holdfast.policies.interval import At, AtMostEvery, Every
from holdfast.policies.keep import KeepAny, KeepPolicy
from holdfast.policies.keep_marks import KeepBest
from holdfast.policies.save import AllOf, AnyOf, SavePolicy, parts
from holdfast.policies.units import given, how_many
from holdfast.types import Progress

_EVENTS = (AtStart, AtEnd, OnSignal, OnError)


def check_sense(save: SavePolicy, keep: KeepPolicy) -> None:
    """Raises `UsageError` for a policy that contradicts itself, or ``keep`` that keeps what ``save`` calls worst."""
    for reason in _alternatives(save):
        joined = reason.policies if isinstance(reason, AllOf) else (reason,)
        events = {type(one) for one in joined if isinstance(one, _EVENTS)}
        if len(events) > 1:
            names = " & ".join(sorted(f"{one.__name__}()" for one in events))
            raise UsageError(f"save={names}: one moment is never both; join them by `|` to save at each.")
        if all(isinstance(one, AtMostEvery) for one in joined):
            raise UsageError(
                f"save={joined[0]}: AtMostEvery is no reason to save. Join it to one by `&`, as in "
                'OnBest("loss") & AtMostEvery(minutes=5), or say Every.'
            )
    saved = {(one.metric, one.mode) for one in parts(save) if isinstance(one, OnBest)}
    for kept in _kept(keep):
        if not isinstance(kept, KeepBest) or (kept.metric, kept.mode) in saved:
            continue
        if kept.metric in {metric for metric, _ in saved}:
            other = "max" if kept.mode == "min" else "min"
            raise UsageError(
                f"save=OnBest({kept.metric!r}, mode={other!r}) and keep=KeepBest({kept.metric!r}, mode={kept.mode!r}): "
                "the best saved would be the first to go. Give both the same mode."
            )


def unreachable(policy: SavePolicy, length: dict[str, int]) -> list[str]:
    """A sentence for each part of ``policy`` that lies beyond the run, whose ``length`` is known in these units.

    >>> unreachable(Every(epochs=100) | Every(steps=5), {"epochs": 10})
    ['Every(epochs=100) never comes round: the run has 10 epochs']
    """
    found = []
    for one in parts(policy):
        if not isinstance(one, Every | At | AtMostEvery):
            continue
        unit, value = given(one)
        points = value if isinstance(one, At) else (value,)
        beyond = [point for point in points if unit in length and point > length[unit]]
        if beyond:
            which = f" at {', '.join(map(str, beyond))}" if len(beyond) < len(points) else ""
            found.append(f"{one!r} never comes round{which}: the run has {how_many(length[unit], unit)}")
    return found


def uncounted(policy: SavePolicy, progress: Progress) -> list[str]:
    """A sentence for each part of ``policy`` whose samples or tokens the run has not counted, however far it is.

    >>> uncounted(Every(tokens=1000) | Every(steps=5), Progress(step=20, samples=640))
    ['Every(tokens=1000) never comes round: no tokens are counted; tell the loop with tokens= how many a batch has']
    """
    found = []
    for one in parts(policy):
        unit = given(one)[0] if isinstance(one, Every | At | AtMostEvery) else ""
        if unit in ("samples", "tokens") and not getattr(progress, unit):
            found.append(
                f"{one!r} never comes round: no {unit} are counted; tell the loop with {unit}= how many a batch has"
            )
    return found


def unforeseeable(policy: SavePolicy, *, epochs: bool = True) -> list[str]:
    """A sentence for each part of ``policy`` that cannot come round where nobody says how long the run is.

    Without ``epochs``, none are counted either.

    >>> unforeseeable(Every(fraction=0.1))
    ['Every(fraction=0.1) never comes round: the length of this loop is not known; use Every(steps=...)']
    """
    found = []
    for one in parts(policy):
        unit = given(one)[0] if isinstance(one, Every | At | AtMostEvery) else ""
        if unit == "fraction":
            found.append(f"{one!r} never comes round: the length of this loop is not known; use Every(steps=...)")
        elif unit == "epochs" and not epochs:
            found.append(f"{one!r} never comes round: epochs are counted in run.epochs() alone; use Every(steps=...)")
    return found


def metrics_of(save: SavePolicy, keep: KeepPolicy) -> dict[str, str]:
    """The metrics that policies ask for, each with the policy that does."""
    saves = {one.metric: f"OnBest({one.metric!r})" for one in parts(save) if isinstance(one, OnBest)}
    keeps = {one.metric: f"KeepBest({one.metric!r})" for one in _kept(keep) if isinstance(one, KeepBest)}
    return keeps | saves


def _alternatives(policy: SavePolicy) -> tuple[SavePolicy, ...]:
    if isinstance(policy, AnyOf):
        return tuple(part for one in policy.policies for part in _alternatives(one))
    return (policy,)


def _kept(policy: KeepPolicy) -> tuple[KeepPolicy, ...]:
    return policy.policies if isinstance(policy, KeepAny) else (policy,)
