"""Keep policies: what stays after a commit, and why."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from holdfast.errors import UsageError
from holdfast.types import Progress


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """What a keep policy knows of a committed checkpoint. ``on_error``: saved only because of an error."""

    name: str
    progress: Progress
    metrics: dict[str, float] = {}
    on_error: bool = False


class KeepPolicy(abc.ABC):
    """Says which checkpoints stay. Subclass it for anything that is missing."""

    __slots__ = ()

    @abc.abstractmethod
    def reasons(self, checkpoints: Sequence[Kept]) -> Mapping[str, str]:
        """From ``checkpoints``, oldest first, the names of those that stay, each with why."""


@dataclass(frozen=True, slots=True)
class KeepLast(KeepPolicy):
    """The newest ``count`` stay. Checkpoints saved on an error come on top: they never push out good ones."""

    count: int

    def __post_init__(self) -> None:
        if type(self.count) is not int or self.count < 1:
            raise UsageError(f"KeepLast({self.count!r}): keep at least 1 checkpoint, as a whole number.")

    def reasons(self, checkpoints: Sequence[Kept]) -> Mapping[str, str]:
        regular = [one.name for one in checkpoints if not one.on_error][-self.count :]
        kept = dict.fromkeys(regular, f"last {self.count}")
        newest = next((index for index, one in enumerate(checkpoints) if one.name in kept), 0)
        recent = (one.name for one in checkpoints[newest:] if one.on_error)
        return kept | dict.fromkeys(recent, "saved on an error")


def plan(policy: KeepPolicy, checkpoints: Sequence[Kept], protected: Mapping[str, str]) -> dict[str, str | None]:
    """For each checkpoint, oldest first, why it stays, or None if it goes.

    ``protected`` names those that no policy may remove, with why.
    """
    reasons = {**policy.reasons(checkpoints), **protected}
    return {one.name: reasons.get(one.name) for one in checkpoints}
