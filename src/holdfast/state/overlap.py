"""Memory of the user's that more than one stored tensor goes to, or one tensor more than once."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Protocol, cast

from holdfast.engine.leaves import Target
from holdfast.errors import MisfitError
from holdfast.garbage import no_collection
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
    @no_collection()
    def of(cls, items: Mapping[str, ItemRecord], targets: Leaves) -> Shared:
        """What of ``targets`` overlaps, save for what is tied here as it is in the checkpoint."""
        stored = _Stored(items)
        found = [_leaves(stored, group) for group in _overlapping(targets)]
        return cls(tuple(one for one in found if not _is_tied(one)))

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
    stored = _Stored(items)
    for group in _overlapping(targets):
        places: dict[Hashable, list[_Leaf]] = {}
        for one in _leaves(stored, group):
            places.setdefault(one.target.identity(), []).append(one)
        for same in places.values():
            if any(one.stored is not same[0].stored for one in same):
                for one in same:
                    found.setdefault(one.item, set()).add(one.name)
    return found


_Place = tuple[int, int, str, str, Live]
"""Where a target is, from its first byte to behind its last; item, name and the target itself."""


def _overlapping(targets: Leaves) -> Iterator[list[_Place]]:
    """Those that overlap, together, and those that may overlap with themselves. Quick for many that do not."""
    placed: list[_Place] = [
        (*span, item, name, cast(Live, target))
        for item, leaves in targets.items()
        for name, target in leaves.items()
        if hasattr(target, "span") and (span := target.span()) is not None
    ]
    placed.sort(key=itemgetter(0))
    first, limit = 0, 0
    for index, (begin, end, *_) in enumerate(placed):
        if begin >= limit:
            yield from _several(placed[first:index])
            first = index
        limit = max(limit, end)
    yield from _several(placed[first:])


def _several(group: list[_Place]) -> Iterator[list[_Place]]:
    if len(group) > 1 or (group and group[0][-1].repeats()):
        yield group


class _Stored(dict[str, Mapping[str, TensorRecord]]):
    """The stored tensors of an item by name, aliases included, looked up once."""

    def __init__(self, items: Mapping[str, ItemRecord]) -> None:
        super().__init__()
        self._items = items

    def __missing__(self, item: str) -> Mapping[str, TensorRecord]:
        self[item] = resolved(self._items, item).tensors
        return self[item]


def _leaves(stored: _Stored, group: list[_Place]) -> list[_Leaf]:
    return [_Leaf(item, name, stored[item][name], target) for _, _, item, name, target in group]


def _is_tied(group: list[_Leaf]) -> bool:
    first = group[0]
    here = first.target.identity()
    same = all(one.stored is first.stored and one.target.identity() == here for one in group)
    return same and not first.target.repeats()


def _others(one: _Leaf, group: list[_Leaf]) -> str:
    others = [other.path for other in group if other is not one]
    return f" with {', '.join(others[:3])}" if others else " with itself, one place for several elements"
