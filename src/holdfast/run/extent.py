"""What of the run's state a saver saves."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from holdfast.errors import UsageError
from holdfast.hints import did_you_mean
from holdfast.state.loading import INTERNAL


@dataclass(frozen=True, slots=True)
class Extent:
    """Names of the items that are saved, and of each the patterns of tensors that are not.

    A ``whole`` one leaves out nothing; only then does it have what the run itself adds, and can be resumed from.
    """

    items: frozenset[str]
    left: dict[str, tuple[str, ...]] = field(default_factory=dict)
    whole: bool = True

    def takes(self, item: str) -> bool:
        return item in self.items or (self.whole and item in INTERNAL)

    def left_out(self, item: str, tensors: Iterable[str]) -> Collection[str]:
        patterns = self.left.get(item)
        if not patterns:
            return ()
        leaves_out = re.compile("|".join(map(fnmatch.translate, patterns))).fullmatch
        return [one for one in tensors if leaves_out(one)]

    def unmatched(self, item: str, tensors: Collection[str]) -> list[str]:
        """Patterns for tensors of an item that match none of them."""
        return [one for one in self.left.get(item, ()) if not fnmatch.filter(tensors, one)]

    def __str__(self) -> str:
        """Which items, and what of them is left out: the same for the same choice."""
        left = sorted(f"{item}/{pattern}" for item, patterns in self.left.items() for pattern in patterns)
        taken = "everything" if self.whole else ", ".join(sorted(self.items))
        return f"{taken} without {', '.join(left)}" if left else taken


@dataclass(frozen=True, slots=True)
class AnyExtent:
    """All that any of ``extents`` takes: the contents of one checkpoint for several savers."""

    extents: tuple[Extent, ...]

    @property
    def whole(self) -> bool:
        """Whether a run can be resumed from it."""
        return any(one.whole for one in self.extents)

    def takes(self, item: str) -> bool:
        return any(one.takes(item) for one in self.extents)

    def left_out(self, item: str, tensors: Iterable[str]) -> Collection[str]:
        names = list(tensors)
        return set.intersection(*(set(one.left_out(item, names)) for one in self.extents if one.takes(item)))


def make_extent(names: Collection[str], items: Sequence[str] | None, exclude: Sequence[str], where: str) -> Extent:
    """What ``items`` and ``exclude`` choose among the items of the state, ``names``.

    Patterns are those of the shell; one in ``exclude`` is of an item, or of tensors as ``item/tensor``. Raises
    `UsageError`, naming ``where``, for a pattern that no item matches, and where nothing is left.

    >>> extent = make_extent(["model", "optimizer"], None, ["optimizer", "model/head.*"], "saver")
    >>> extent.takes("optimizer"), extent.takes("model"), extent.left_out("model", ["head.weight", "weight"])
    (False, True, ['head.weight'])
    """
    taken = set(names) if items is None else {name for one in items for name in _matching(names, one, f"{where}items")}
    parts: dict[str, list[str]] = {}
    for pattern in exclude:
        item, _, tensors = pattern.partition("/")
        for name in _matching(names, item, f"{where}exclude"):
            parts.setdefault(name, []).append(tensors or "*")
    taken -= {name for name, patterns in parts.items() if not {"*", "**"}.isdisjoint(patterns)}
    if not taken:
        raise UsageError(f"{where}items, {where}exclude: nothing of {', '.join(names)} is left to be saved.")
    left = {name: tuple(patterns) for name, patterns in parts.items() if name in taken}
    return Extent(frozenset(taken), left, whole=len(taken) == len(names) and not left)


def _matching(names: Collection[str], pattern: str, where: str) -> list[str]:
    found = fnmatch.filter(names, pattern)
    if not found:
        hint = did_you_mean(pattern, names)
        raise UsageError(f"{where}: {pattern!r} is no item of state=.{hint} There are: {', '.join(names)}.")
    return found
