"""Save policies: frozen, pure, combined by ``|`` and ``&``."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from holdfast.errors import UsageError
from holdfast.policies.moment import Moment
from holdfast.policies.written import Written, name_of, place_of
from holdfast.types import Json

Rule = Callable[[Moment], Any]
"""A callable in place of a policy: what it returns is true where a save is due; a text is the reason."""


@dataclass(frozen=True, slots=True)
class Choice:
    """An interval that a policy has chosen by what it measured, in seconds of training, and why."""

    seconds: float
    because: str


class SavePolicy(Written, abc.ABC):
    """Says whether a checkpoint is due at a moment, and why. Subclass it for anything that is missing."""

    __slots__ = ()

    @abc.abstractmethod
    def due(self, moment: Moment) -> str | None:
        """The reason to save now, or None."""

    def remember(self, moment: Moment) -> Mapping[str, Json]:
        """What to find in ``moment.memory`` from now on; asked at each moment at which a save is due."""
        return {}

    def insists(self, moment: Moment) -> bool:
        """Whether a save that is due has to hold this very moment, so that training waits for the one before it.

        Otherwise it is taken a few boundaries later if the one before is still being written. One that is due at the
        last batch of a loop over batches is taken at the end of the epoch all the same, unless it is `urgent`.
        """
        return False

    def urgent(self, moment: Moment) -> bool:
        """Whether a save that is due cannot even wait for the end of the epoch."""
        return False

    def ends(self, moment: Moment) -> bool:
        """Whether the run ends itself once a save that is due is durable, as on SIGTERM."""
        return False

    def remark(self, moment: Moment) -> str | None:
        """A sentence that the user should hear about a save that is due."""
        return None

    def choice(self, moment: Moment) -> Choice | None:
        """The interval that the policy has chosen for now, if it is one that measures."""
        return None

    def __or__(self, other: SavePolicy | Rule) -> SavePolicy:
        return _combined(AnyOf, self, other)

    def __ror__(self, other: Rule) -> SavePolicy:
        return _combined(AnyOf, other, self)

    def __and__(self, other: SavePolicy | Rule) -> SavePolicy:
        return _combined(AllOf, self, other)

    def __rand__(self, other: Rule) -> SavePolicy:
        return _combined(AllOf, other, self)


def _together(policies: tuple[SavePolicy, ...], moment: Moment) -> dict[str, Json]:
    return {key: value for policy in policies for key, value in policy.remember(moment).items()}


def _remarks(policies: tuple[SavePolicy, ...], moment: Moment) -> str | None:
    return " ".join(text for policy in policies if (text := policy.remark(moment)) is not None) or None


@dataclass(frozen=True, slots=True, repr=False)
class AnyOf(SavePolicy):
    """Due when any of ``policies`` is; the reason names all that are."""

    policies: tuple[SavePolicy, ...]

    def in_code(self) -> str:
        return " | ".join(one.in_code() for one in self.policies)

    def due(self, moment: Moment) -> str | None:
        reasons = [reason for policy in self.policies if (reason := policy.due(moment)) is not None]
        return ", ".join(dict.fromkeys(reasons)) or None

    def remember(self, moment: Moment) -> Mapping[str, Json]:
        return _together(self.policies, moment)

    def insists(self, moment: Moment) -> bool:
        return any(policy.insists(moment) for policy in self.policies)

    def urgent(self, moment: Moment) -> bool:
        return any(policy.urgent(moment) for policy in self.policies)

    def ends(self, moment: Moment) -> bool:
        return any(policy.ends(moment) for policy in self.policies)

    def remark(self, moment: Moment) -> str | None:
        return _remarks(self.policies, moment)


@dataclass(frozen=True, slots=True, repr=False)
class AllOf(SavePolicy):
    """Due when all of ``policies`` are.

    Intervals need not end at the same boundary, which they hardly ever would: each has to have come round since the
    newest save. ``Every(steps=100) & Every(minutes=5)`` saves when both have passed.
    """

    policies: tuple[SavePolicy, ...]

    def in_code(self) -> str:
        inner = (f"({one.in_code()})" if isinstance(one, AnyOf) else one.in_code() for one in self.policies)
        return " & ".join(inner)

    def due(self, moment: Moment) -> str | None:
        whole = moment.since_saved()
        reasons = [policy.due(whole) for policy in self.policies]
        return None if None in reasons else " and ".join(dict.fromkeys(map(str, reasons)))

    def remember(self, moment: Moment) -> Mapping[str, Json]:
        return _together(self.policies, moment.since_saved()) if self.due(moment) is not None else {}

    def insists(self, moment: Moment) -> bool:
        return self.due(moment) is not None and any(one.insists(moment.since_saved()) for one in self.policies)

    def urgent(self, moment: Moment) -> bool:
        return self.due(moment) is not None and any(one.urgent(moment.since_saved()) for one in self.policies)

    def ends(self, moment: Moment) -> bool:
        return self.due(moment) is not None and any(one.ends(moment.since_saved()) for one in self.policies)

    def remark(self, moment: Moment) -> str | None:
        return None if self.due(moment) is None else _remarks(self.policies, moment.since_saved())


@dataclass(frozen=True, slots=True, repr=False)
class When(SavePolicy):
    """Due when ``rule`` says so: any callable that takes a `Moment`.

    >>> When(lambda moment: moment.progress.step in (10, 100, 1000))
    <lambda>
    """

    rule: Rule

    def in_code(self) -> str:
        return name_of(self.rule)

    def due(self, moment: Moment) -> str | None:
        try:
            answer = self.rule(moment)
        except Exception as error:
            error.add_note(f"raised by the save policy {place_of(self.rule)}")
            raise
        if isinstance(answer, str):
            return answer or None
        return name_of(self.rule) if answer else None


def as_policy(value: object) -> SavePolicy | None:
    """A policy as it is, a callable as `When`, None for anything else."""
    if isinstance(value, SavePolicy):
        return value
    return When(value) if callable(value) and not isinstance(value, type) else None


def _combined(kind: type[AnyOf] | type[AllOf], *given: object) -> SavePolicy:
    policies = [as_policy(one) for one in given]
    found = [one for one in policies if one is not None]
    if len(found) < len(given):
        other = next(one for one, policy in zip(given, policies, strict=True) if policy is None)
        raise UsageError(f"{other!r} is no save policy: combine policies such as Every(steps=200), or callables.")
    return kind(tuple(part for one in found for part in (one.policies if isinstance(one, kind) else (one,))))


def any_of(policies: Sequence[SavePolicy]) -> SavePolicy:
    """Their union, flat; a single one as it is.

    >>> from holdfast import AtEnd, AtStart, Every
    >>> any_of([Every(steps=5) | AtEnd(), AtStart()])
    Every(steps=5) | AtEnd() | AtStart()
    """
    return policies[0] if len(policies) == 1 else _combined(AnyOf, *policies)


def parts(policy: SavePolicy) -> tuple[SavePolicy, ...]:
    """Every single policy in a combination."""
    if isinstance(policy, AnyOf | AllOf):
        return tuple(part for one in policy.policies for part in parts(one))
    return (policy,)
