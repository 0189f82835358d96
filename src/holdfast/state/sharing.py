"""Memory of the user's that more than one stored tensor goes to, or one tensor more than once."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Protocol, cast

from holdfast.engine.leaves import Target
from holdfast.errors import MisfitError
from holdfast.state.item import resolved
from holdfast.types import ItemRecord, TensorRecord

Leaves = Mapping[str, Mapping[str, Target]]
"""Targets by item and tensor name."""


class Live(Protocol):
    """A target in memory that the user holds."""

    def span(self) -> tuple[int, int] | None:
        """The addresses of its first byte and behind its last; None for new memory, which nobody else has."""
        ...

    def identity(self) -> Hashable:
        """Equal for targets that are the same elements of the same memory."""
        ...

    def repeats(self) -> bool:
        """Whether one place in memory may be several of its elements."""
        ...

    def stage(self) -> None:
        """Has the stored bytes go elsewhere first, and keeps them, and what is there now, behind `finish`."""
        ...

    def agrees(self) -> bool:
        """Whether it holds, after `finish`, what was read for it."""
        ...

    def put_back(self) -> None:
        """Makes it what it was before."""
        ...

    def settle(self) -> None:
        """Gives up what `stage` had it keep."""
        ...


@dataclass(frozen=True, slots=True)
class _Leaf:
    item: str
    name: str
    stored: TensorRecord
    target: Live

    @property
    def path(self) -> str:
        return f"{self.item}/{self.name}"


@dataclass(frozen=True, slots=True)
class Shared:
    """Targets that are read to memory of their own first: the order in which they arrive must decide nothing.

    Two threads that fill the same memory would also each find the other's bytes in it, which looks like damage.
    """

    groups: tuple[list[_Leaf], ...]

    @classmethod
    def of(cls, items: Mapping[str, ItemRecord], targets: Leaves) -> Shared:
        """What of ``targets`` overlaps, save for what is tied here as it is in the checkpoint."""
        return cls(tuple(one for one in _overlapping(_leaves(items, targets)) if not _is_tied(one)))

    def split(self, targets: Leaves) -> tuple[Leaves, Leaves]:
        """Those targets, staged, and all others."""
        names = {(one.item, one.name) for group in self.groups for one in group}
        if not names:
            return {}, targets
        for group in self.groups:
            for one in group:
                one.target.stage()
        apart = [
            {item: {name: one for name, one in leaves.items() if ((item, name) in names) is ours}
             for item, leaves in targets.items()}
            for ours in (True, False)
        ]  # fmt: skip
        return apart[0], apart[1]

    def settle(self) -> None:
        """Raises `MisfitError` where not all have what was read for them; then all are what they were before."""
        problems = [
            f"{one.path}: shares its memory here{_others(one, group)}, and what the checkpoint holds differs. "
            "Give it memory of its own, as by clone()"
            for group in self.groups
            for one in group
            if not one.target.agrees()
        ]
        for group in reversed(self.groups):
            for one in reversed(group):
                if problems:
                    one.target.put_back()
                one.target.settle()
        if problems:
            raise MisfitError(
                "what shares its memory cannot hold what was saved; nothing was changed:", tuple(problems)
            )


def replaceable(items: Mapping[str, ItemRecord], targets: Leaves) -> dict[str, set[str]]:
    """By item, the leaves that are the very memory of another leaf here, but another tensor in the checkpoint."""
    found: dict[str, set[str]] = {}
    places: dict[Hashable, list[_Leaf]] = {}
    for one in _leaves(items, targets):
        if one.target.span() is not None:
            places.setdefault(one.target.identity(), []).append(one)
    for group in places.values():
        if any(one.stored is not group[0].stored for one in group):
            for one in group:
                found.setdefault(one.item, set()).add(one.name)
    return found


def _leaves(items: Mapping[str, ItemRecord], targets: Leaves) -> Iterator[_Leaf]:
    for item, leaves in targets.items():
        tensors = resolved(items, item).tensors if leaves else {}
        for name, target in leaves.items():
            if hasattr(target, "span"):
                yield _Leaf(item, name, tensors[name], cast(Live, target))


def _overlapping(leaves: Iterable[_Leaf]) -> Iterator[list[_Leaf]]:
    placed = [(*span, one) for one in leaves if (span := one.target.span()) is not None]
    group: list[_Leaf] = []
    limit = 0
    for begin, end, one in sorted(placed, key=itemgetter(0)):
        if begin >= limit and group:
            yield group
            group = []
        group.append(one)
        limit = max(limit, end)
    if group:
        yield group


def _is_tied(group: list[_Leaf]) -> bool:
    first = group[0]
    if len(group) > 1:
        here = first.target.identity()
        if any(one.stored is not first.stored or one.target.identity() != here for one in group[1:]):
            return False
    return not first.target.repeats()


def _others(one: _Leaf, group: list[_Leaf]) -> str:
    others = [other.path for other in group if other is not one]
    return f" with {', '.join(others[:3])}" if others else " with itself, one place for several elements"
