"""Where every tensor goes: items to shards, shards to places in the arena. A pure function of specs."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Protocol

from holdfast.engine.leaves import Source
from holdfast.format.dtypes import nbytes
from holdfast.format.safetensors import ALIGNMENT, Layout, layout
from holdfast.types import Alias, Chunk, TensorRecord, TensorSpec

_LEAST = 64 << 10
"""Bytes of frozen tensors of an item for which a file of their own pays."""

Sources = Mapping[str, Mapping[str, Source]]
"""Tensors by item and name."""


class Contents(Protocol):
    """What of the state belongs into one of the checkpoints that are made of a snapshot."""

    def takes(self, item: str) -> bool:
        """Whether the item is in it."""
        ...

    def left_out(self, item: str, tensors: Iterable[str]) -> Collection[str]:
        """Those of the ``tensors`` of an item that it takes which are not in it."""
        ...


class Everything:
    """All items, whole."""

    def takes(self, item: str) -> bool:
        return True

    def left_out(self, item: str, tensors: Iterable[str]) -> Collection[str]:
        return ()


@dataclass(frozen=True, slots=True)
class Shard:
    """One safetensors file of the tensors of an item, and the place of its image in the snapshot.

    ``members`` has a bit for each checkpoint of the snapshot that the file belongs to. A ``frozen`` one holds nothing
    that training changes, by what the tensors say of themselves.
    """

    item: str
    file: str
    layout: Layout
    offset: int
    members: int
    frozen: bool = False

    @property
    def padded_size(self) -> int:
        """Size in the snapshot: O_DIRECT writes whole blocks, the file is truncated afterwards."""
        return align(self.layout.size)


@dataclass(frozen=True, slots=True)
class Plan:
    """The shards, and the records that manifests will hold.

    ``members`` has for each tensor, aliases included, a bit for each checkpoint of the snapshot that it belongs to.
    """

    shards: tuple[Shard, ...]
    tensors: dict[str, dict[str, TensorRecord]]
    aliases: dict[str, dict[str, Alias]]
    members: dict[str, dict[str, int]]
    size: int


def align(size: int, spacing: int = ALIGNMENT) -> int:
    """``size`` rounded up to a multiple of ``spacing``.

    >>> align(4097)
    8192
    """
    return -(-size // spacing) * spacing


def make_plan(
    sources: Sources, checkpoints: Sequence[Contents] = (Everything(),), spacing: int = ALIGNMENT
) -> Plan:  # fmt: skip
    """Lays out ``sources`` for the ``checkpoints`` to be made of them, each shard at a multiple of ``spacing``.

    Tensors of an item that belong to the same checkpoints share a shard, so each checkpoint is made of whole shards and
    bytes are in the arena once; those that are frozen, unless they are few, have one of their own. Tied tensors are
    stored once, by the first name in the order of ``sources`` that is in every checkpoint that the other names are in;
    the others are aliases of it.
    """
    members = {item: _members(item, leaves, checkpoints) for item, leaves in sources.items()}
    stored, aliases = _split_aliases(sources, members, _standing(sources))
    shards: list[Shard] = []
    tensors: dict[str, dict[str, TensorRecord]] = {item: {} for item in sources}
    offset = 0
    for item, file, (group, frozen), specs in _shards(stored):
        shard = Shard(item, file, layout(list(specs.items()), {"format": "pt"}), offset, group, frozen)
        for name, spec in specs.items():
            tensors[item][name] = _whole(spec, file, *shard.layout.ranges[name])
        shards.append(shard)
        offset += align(shard.padded_size, spacing)
    return Plan(tuple(shards), tensors, aliases, members, offset)


def _members(item: str, leaves: Mapping[str, Source], checkpoints: Sequence[Contents]) -> dict[str, int]:
    taking = [(1 << bit, one) for bit, one in enumerate(checkpoints) if one.takes(item)]
    found = dict.fromkeys(leaves, sum(bit for bit, _ in taking))
    for bit, one in taking:
        for name in one.left_out(item, leaves):
            found[name] &= ~bit
    return found


Standing = Mapping[str, frozenset[str]]
"""By item, the names of the tensors that go into frozen shards."""


def _standing(sources: Sources) -> Standing:
    """Those of memory that has no name by which it is not frozen, in items where they are enough for a file."""
    frozen = {item: [name for name, one in leaves.items() if one.frozen] for item, leaves in sources.items()}
    if not any(frozen.values()):
        return {}
    moving = {one.identity for leaves in sources.values() for one in leaves.values() if not one.frozen} - {None}
    found = {
        item: frozenset(name for name in names if sources[item][name].identity not in moving)
        for item, names in frozen.items()
    }
    return {item: names for item, names in found.items() if _total(sources[item], names) >= _LEAST}


def _total(leaves: Mapping[str, Source], names: Iterable[str]) -> int:
    return sum(nbytes(leaves[name].spec) for name in names)


Group = tuple[int, bool]
"""A bit for each checkpoint that tensors belong to, and whether they are frozen."""
Stored = dict[str, dict[Group, dict[str, TensorSpec]]]
"""Tensors that are written, by item, by group and by name."""


def _split_aliases(
    sources: Sources, members: Mapping[str, Mapping[str, int]], standing: Standing
) -> tuple[Stored, dict[str, dict[str, Alias]]]:
    owners: dict[Hashable, list[tuple[Alias, int]]] = {}
    stored: Stored = {item: {} for item in sources}
    aliases: dict[str, dict[str, Alias]] = {item: {} for item in sources}
    for item, name in _widest_first(members):
        source, its = sources[item][name], members[item][name]
        names = owners.setdefault(source.identity, []) if source.identity is not None else []
        # A name of the same memory that is in all of the checkpoints that this one is in.
        owner = next((one for one, others in names if others & its == its), None) if names else None
        if owner is not None:
            aliases[item][name] = owner
        elif its:
            group = its, name in standing.get(item, ())
            stored[item].setdefault(group, {})[name] = source.spec
            names.append((Alias(item, name), its))
    return stored, aliases


def _widest_first(members: Mapping[str, Mapping[str, int]]) -> list[tuple[str, str]]:
    """All names, those first that are in most checkpoints: they can own what the others share with them."""
    names = [(item, name) for item, leaves in members.items() for name in leaves]
    return sorted(names, key=lambda name: -members[name[0]][name[1]].bit_count())


def _shards(stored: Stored) -> Iterator[tuple[str, str, Group, dict[str, TensorSpec]]]:
    """Item, file, group and tensors of each shard. One shard for each item, unless some checkpoints leave out parts of
    it, or parts are frozen: those come last.
    """
    taken = {f"{item}.safetensors" for item in stored}
    for item, groups in stored.items():
        for index, group in enumerate(sorted(groups, key=itemgetter(1))):
            file = f"{item}.safetensors" if index == 0 else _free_name(item, taken)
            yield item, file, group, groups[group]


def _free_name(item: str, taken: set[str]) -> str:
    number = 2
    while f"{item}-{number}.safetensors" in taken:
        number += 1
    name = f"{item}-{number}.safetensors"
    taken.add(name)
    return name


def _whole(spec: TensorSpec, file: str, begin: int, end: int) -> TensorRecord:
    chunk = Chunk(file=file, offsets=(0,) * len(spec.shape), sizes=spec.shape, begin=begin, end=end)
    return TensorRecord(dtype=spec.dtype, shape=spec.shape, chunks=(chunk,))


def signature(sources: Sources, checkpoints: Sequence[Contents] = (Everything(),)) -> tuple[object, ...]:
    """What a plan depends on: while it stays equal, the plan may be used again.

    Which tensors share their memory is part of it, which memory that is, is not.
    """
    members = (_members(item, leaves, checkpoints).values() for item, leaves in sources.items())
    everything = [source for leaves in sources.values() for source in leaves.values()]
    return (
        tuple((item, *names) for item, names in sources.items()),
        tuple(source.spec for source in everything),
        tuple(its for one in members for its in one),
        tuple(_standing(sources).items()),
        _ties([source.identity for source in everything]),
    )


def _ties(identities: list[Hashable | None]) -> tuple[int, ...]:
    """For each the number of the first that is the same memory."""
    first: dict[Hashable, int] = {}
    return tuple(
        number if identity is None else first.setdefault(identity, number) for number, identity in enumerate(identities)
    )
