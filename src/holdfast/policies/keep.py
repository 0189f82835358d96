"""What stays after a commit, and why: the base of keep policies, their union, and the plan."""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from holdfast.engine.catalog import Entry
from holdfast.errors import HoldfastError, UsageError
from holdfast.format.values import decode
from holdfast.policies.written import Written, name_of, place_of
from holdfast.types import Progress


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """What a keep policy knows of a committed checkpoint.

    ``created`` is when, in seconds since 1970 (UTC); ``size`` in bytes; ``on_error``: saved because of an error.
    ``items`` are the names of what is in it, and ``whole`` says whether a run can be resumed from it. ``savers`` are
    the identities of the savers that it was saved for.
    """

    name: str
    progress: Progress
    metrics: dict[str, float] = {}
    created: float = 0.0
    size: int = 0
    on_error: bool = False
    items: frozenset[str] = frozenset()
    whole: bool = True
    savers: frozenset[str] = frozenset()


def described(entry: Entry) -> Kept:
    """What a keep policy may know of a checkpoint, out of its manifest; what makes no sense there is left out."""
    manifest = entry.manifest
    metrics, created = dict[str, float](), 0.0
    with contextlib.suppress(ValueError):
        created = datetime.fromisoformat(manifest.created).timestamp()
    for metric, stored in manifest.metrics.items():
        with contextlib.suppress(HoldfastError):
            value = decode(stored)
            if isinstance(value, float):
                metrics[metric] = value
    return Kept(
        name=entry.name, progress=manifest.progress, metrics=metrics, created=created, size=entry.size,
        on_error=manifest.on_error, items=frozenset(manifest.items), whole=manifest.whole,
        savers=frozenset(manifest.savers),
    )  # fmt: skip


Rule = Callable[[Sequence[Kept]], Mapping[str, str] | Iterable[str | Kept]]
"""A callable in place of a policy: those that stay, or their names, perhaps each with why."""


class KeepPolicy(Written, abc.ABC):
    """Says which checkpoints stay. Subclass it for anything that is missing."""

    __slots__ = ()

    @abc.abstractmethod
    def reasons(self, checkpoints: Sequence[Kept]) -> Mapping[str, str]:
        """From ``checkpoints``, oldest first, the names of those that stay, each with why."""

    def __or__(self, other: KeepPolicy | Rule) -> KeepPolicy:
        return _union(self, other)

    def __ror__(self, other: Rule) -> KeepPolicy:
        return _union(other, self)


@dataclass(frozen=True, slots=True, repr=False)
class KeepAny(KeepPolicy):
    """Keeps what any of ``policies`` keeps; the reason names all that do."""

    policies: tuple[KeepPolicy, ...]

    def in_code(self) -> str:
        return " | ".join(one.in_code() for one in self.policies)

    def reasons(self, checkpoints: Sequence[Kept]) -> Mapping[str, str]:
        found: dict[str, list[str]] = {}
        for policy in self.policies:
            for name, reason in policy.reasons(checkpoints).items():
                found.setdefault(name, []).append(reason)
        return {name: ", ".join(dict.fromkeys(reasons)) for name, reasons in found.items()}


@dataclass(frozen=True, slots=True, repr=False)
class KeepWhen(KeepPolicy):
    """Keeps what ``rule`` names: any callable that takes the checkpoints, oldest first.

    >>> KeepWhen(lambda checkpoints: checkpoints[::2])
    <lambda>
    """

    rule: Rule

    def in_code(self) -> str:
        return name_of(self.rule)

    def reasons(self, checkpoints: Sequence[Kept]) -> Mapping[str, str]:
        try:
            answer = self._answer(checkpoints)
        except Exception as error:
            error.add_note(f"raised by the keep policy {place_of(self.rule)}")
            raise
        require_known(answer, checkpoints, f"the keep policy {place_of(self.rule)}")
        return answer

    def _answer(self, checkpoints: Sequence[Kept]) -> Mapping[str, str]:
        answer = self.rule(checkpoints)
        listed = [answer] if isinstance(answer, str | Kept) else answer
        if not isinstance(listed, Iterable):
            raise UsageError(
                f"the keep policy {place_of(self.rule)} returned {answer!r}. Return the names of those that stay, or "
                "the records themselves; [] where none has to."
            )
        pairs = listed.items() if isinstance(listed, Mapping) else ((one, None) for one in listed)
        own = name_of(self.rule)
        return {one.name if isinstance(one, Kept) else one: str(why or own) for one, why in pairs}


@dataclass(frozen=True, slots=True, repr=False)
class KeepAll(KeepPolicy):
    """Nothing goes."""

    def reasons(self, checkpoints: Sequence[Kept]) -> Mapping[str, str]:
        return {one.name: "all" for one in checkpoints}


def as_keep_policy(value: object) -> KeepPolicy | None:
    """A policy as it is, a callable as `KeepWhen`, None for anything else."""
    if isinstance(value, KeepPolicy):
        return value
    return KeepWhen(value) if callable(value) and not isinstance(value, type) else None


def _union(*given: object) -> KeepPolicy:
    found: list[KeepPolicy] = []
    for one in given:
        policy = as_keep_policy(one)
        if policy is None:
            raise UsageError(f"{one!r} is no keep policy: combine policies such as KeepLast(3), or callables.")
        found += policy.policies if isinstance(policy, KeepAny) else (policy,)
    return KeepAny(tuple(found))


def keep_any(policies: Sequence[KeepPolicy]) -> KeepPolicy:
    """Their union, flat; a single one as it is."""
    return policies[0] if len(policies) == 1 else _union(*policies)


def plan(policy: KeepPolicy, checkpoints: Sequence[Kept], protected: Mapping[str, str]) -> dict[str, str | None]:
    """For each checkpoint, oldest first, why it stays, or None if it goes.

    ``protected`` names those that no policy may remove, with why. Raises `UsageError` for a policy that names what is
    no checkpoint: what it means to keep would be deleted.
    """
    wanted = policy.reasons(checkpoints)
    require_known(wanted, checkpoints, f"the keep policy {type(policy).__name__}")
    reasons = {**protected, **wanted}
    return {one.name: reasons.get(one.name) for one in checkpoints}


def require_known(names: Iterable[Any], checkpoints: Iterable[Kept], who: str) -> None:
    """Raises `UsageError` if ``names`` has one that is none of ``checkpoints``."""
    unknown = set(names) - {one.name for one in checkpoints}
    if unknown:
        raise UsageError(
            f"{who} names {sorted(map(repr, unknown))[0]}, which is no checkpoint it was shown. Return the names of "
            "those that stay, or the records themselves."
        )


NEWEST = "newest"
RESUMABLE = "the newest to resume from"


def protected(checkpoints: Sequence[Kept], held: Mapping[str, str], pinned: Iterable[str]) -> dict[str, str]:
    """Those of ``checkpoints``, oldest first, that no policy may remove, each with why.

    They are the newest, the newest that a run can be resumed from, also of those that were not saved on an error, those
    that a reader has ``held``, and those that somebody has ``pinned``.
    """
    whole = [one for one in checkpoints if one.whole]
    regular = [one for one in whole if not one.on_error]
    return {
        **held,
        **dict.fromkeys(pinned, "pinned"),
        **{one.name: RESUMABLE for one in (*regular[-1:], *whole[-1:])},
        **{one.name: NEWEST for one in checkpoints[-1:]},
    }
