"""Frozen shards whose bytes the trainer knows without copying or digesting them again."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator, Mapping
from dataclasses import dataclass, replace

import msgspec

from holdfast.engine.leaves import Source
from holdfast.engine.messages import Committed, Failed, Outcome
from holdfast.engine.plan import Plan, Shard, Sources
from holdfast.types import Alias

WHOLE_EVERY = 10
"""Saves of a frozen shard of which one copies, digests and writes it, whatever was seen of it."""

Key = tuple[str, bytes]
"""Item and header of a file: shards of any plan that have both equal hold the same tensors at the same places."""


@dataclass(slots=True)
class _Known:
    """The newest digest of all bytes of a shard.

    ``seen`` is what was seen of its tensors then, ``name`` the checkpoint, ``moment`` that of the first in a row that
    were equal. It is ``proven`` once there are two, with training between them; ``saves`` counts those that went by it.
    """

    digest: str
    seen: Hashable
    name: str
    moment: Hashable
    proven: bool
    saves: int = 0


@dataclass(frozen=True, slots=True)
class _Taken:
    """A frozen shard of the snapshot under way; ``known`` is what makes it one that is not digested again."""

    key: Key
    offset: int
    seen: Hashable
    known: _Known | None


class _Seeing:
    """What is seen of the tensors of shards, by all of their names: each may be a parameter of its own."""

    def __init__(self, plan: Plan, sources: Sources) -> None:
        self._sources = sources
        self._others: dict[Alias, list[Source]] = {}
        for item, aliases in plan.aliases.items():
            for name, owner in aliases.items():
                self._others.setdefault(owner, []).append(sources[item][name])

    def of(self, shard: Shard) -> Hashable:
        return tuple(one.seen() for name in shard.layout.ranges for one in self._named(Alias(shard.item, name)))

    def _named(self, owner: Alias) -> list[Source]:
        return [self._sources[owner.item][owner.tensor], *self._others.get(owner, ())]


class Steadiness:
    """Decides which frozen shards of a snapshot are known, and which of those lie in the arena already.

    A shard is known if nothing was seen to change its tensors since two digests in a row were equal. What no one can
    see, a write through ``.data``, is found by the digest of every `WHOLE_EVERY`-th save and reported; frozen tensors
    of that item are not trusted again.
    """

    def __init__(self) -> None:
        self._known: dict[Key, _Known] = {}
        self._lying: dict[Key, tuple[int, Hashable]] = {}
        self._doubted: set[str] = set()
        self._taken: dict[str, _Taken] = {}
        self._moment: Hashable = None
        self._whole = self._whole_failed = False
        self._resumed: tuple[frozenset[str], Hashable] = (frozenset(), None)

    def expect(self, digests: Collection[str], moment: Hashable) -> None:
        """The state was restored from files with these ``digests``, of that ``moment``: they count as one in a row."""
        self._resumed = frozenset(digests), moment

    def look(self, plan: Plan, sources: Sources, moment: Hashable, *, urgent: bool = False) -> Mapping[str, str]:
        """A snapshot by ``plan`` begins: the digests of the files that are known, in all checkpoints made of it.

        Where the turn of one has come to be written again, it is that of all, so that the checkpoint is whole by
        itself. What is ``urgent`` leaves that to the next, and so does the save behind a whole one that has failed:
        there may be no room for it.
        """
        self._moment = moment
        seen = _Seeing(plan, sources)
        self._taken = {shard.file: self._look_at(shard, seen.of(shard)) for shard in plan.shards if shard.frozen}
        known = [one.known for one in self._taken.values() if one.known is not None]
        late = urgent or self._whole_failed
        self._whole_failed, self._whole = False, not late and any(one.saves >= WHOLE_EVERY - 1 for one in known)
        if self._whole:
            self._taken = {file: _anew(one) for file, one in self._taken.items()}
        return {file: one.known.digest for file, one in self._taken.items() if one.known is not None}

    def look_at_none(self) -> None:
        """A snapshot begins of which all bytes are copied and digested, through an arena that keeps none of them."""
        self._taken, self._lying = {}, {}

    def _look_at(self, shard: Shard, seen: Hashable) -> _Taken:
        key = shard.item, shard.layout.header
        known = self._known.get(key)
        trusted = known is not None and known.proven and known.seen == seen and shard.item not in self._doubted
        return _Taken(key, shard.offset, seen, known if trusted else None)

    def lying(self) -> Collection[str]:
        """The files whose bytes lie at their places in the arena, where the others are about to be copied to."""
        there = {
            file: one
            for file, one in self._taken.items()
            if one.known is not None and self._lying.get(one.key) == (one.offset, one.seen)
        }
        self._lying = {one.key: (one.offset, one.seen) for one in there.values()}
        return there.keys()

    def filled(self) -> None:
        """All of the snapshot is in the arena, and stays there until the next."""
        self._lying = {one.key: (one.offset, one.seen) for one in self._taken.values()}

    def lose(self) -> None:
        """Nothing can be relied on to lie in the arena any more."""
        self._lying = {}

    def hear(self, outcome: Outcome) -> Outcome:
        """Learns from what became of a checkpoint of the snapshot; with a note, if a trusted shard had changed."""
        if isinstance(outcome, Failed):
            self._whole_failed = self._whole
            if outcome.again:
                self._distrust()
            return outcome
        notes = [note for file in tuple(self._taken) for note in self._learn(file, outcome)]
        return msgspec.structs.replace(outcome, notes=(*outcome.notes, *notes)) if notes else outcome

    def _distrust(self) -> None:
        """The arena did not hold what was known of it: all is copied and digested by the next save."""
        self.lose()
        for known in self._known.values():
            known.proven = False

    def _learn(self, file: str, outcome: Committed) -> Iterator[str]:
        taken = self._taken[file]
        if taken.known is not None:
            taken.known.saves += 1
            del self._taken[file]
        elif file in outcome.digests:
            yield from self._compare(file, taken, outcome)
            del self._taken[file]

    def _compare(self, file: str, taken: _Taken, outcome: Committed) -> Iterator[str]:
        """The digest of all bytes of a shard with the one before."""
        digest, before = outcome.digests[file], self._known.get(taken.key)
        if before is not None and before.digest != digest:
            if before.seen == taken.seen:
                self._doubted.add(taken.key[0])
                # Where each save has digested it, each holds what there was.
                if before.saves:
                    yield _CHANGED.format(taken.key[0], file, before.name, before.saves)
            before = None
        restored, moment = self._resumed
        first = before.moment if before is not None else moment if digest in restored else self._moment
        proven = first != self._moment or (before is not None and before.proven)
        self._known[taken.key] = _Known(digest, taken.seen, outcome.name, first, proven)


def _anew(one: _Taken) -> _Taken:
    return replace(one, known=None)


_CHANGED = (
    "frozen tensors of {0} were changed in a way that torch does not notice, as by writing through .data: {1} is not "
    "what it was in {2}, when all of it was looked at last. The {3} saves between them may hold the older bytes. From "
    "now on, frozen tensors of {0} are copied and written by every save."
)
