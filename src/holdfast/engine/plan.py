"""Where every tensor goes: items to shards, shards to places in the arena. A pure function of specs."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass

from holdfast.engine.leaves import Source
from holdfast.format.dtypes import nbytes
from holdfast.format.safetensors import ALIGNMENT, Layout, layout
from holdfast.types import Alias, Chunk, TensorRecord, TensorSpec

Sources = Mapping[str, Mapping[str, Source]]
"""Tensors by item and name."""


@dataclass(frozen=True, slots=True)
class Shard:
    """One safetensors file and the place of its image in the arena."""

    file: str
    layout: Layout
    offset: int

    @property
    def padded_size(self) -> int:
        """Size in the arena: O_DIRECT writes whole blocks, the file is truncated afterwards."""
        return align(self.layout.size)


@dataclass(frozen=True, slots=True)
class Placement:
    """Arena bytes of one stored tensor."""

    item: str
    tensor: str
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Plan:
    """The shards, the records that the manifest will hold, and where each tensor is copied to."""

    shards: tuple[Shard, ...]
    tensors: dict[str, dict[str, TensorRecord]]
    aliases: dict[str, dict[str, Alias]]
    placements: tuple[Placement, ...]
    size: int


def align(size: int) -> int:
    """``size`` rounded up to a whole number of blocks.

    >>> align(4097)
    8192
    """
    return -(-size // ALIGNMENT) * ALIGNMENT


def make_plan(sources: Sources) -> Plan:
    """Lays out ``sources``: one shard per item that owns bytes, tied tensors stored once.

    The first name of a memory, in the order of ``sources``, stores it; later ones are aliases.
    """
    stored, aliases = _split_aliases(sources)
    shards: list[Shard] = []
    tensors: dict[str, dict[str, TensorRecord]] = {item: {} for item in sources}
    placements: list[Placement] = []
    offset = 0
    for item, specs in stored.items():
        if not specs:
            continue
        shard = Shard(f"{item}.safetensors", layout(list(specs.items()), {"format": "pt"}), offset)
        for name, spec in specs.items():
            begin, end = shard.layout.ranges[name]
            tensors[item][name] = _whole(spec, shard.file, begin, end)
            placements.append(Placement(item, name, offset + begin, offset + end))
        shards.append(shard)
        offset += shard.padded_size
    return Plan(tuple(shards), tensors, aliases, tuple(placements), offset)


def _split_aliases(sources: Sources) -> tuple[dict[str, dict[str, TensorSpec]], dict[str, dict[str, Alias]]]:
    seen: dict[Hashable, Alias] = {}
    stored: dict[str, dict[str, TensorSpec]] = {item: {} for item in sources}
    aliases: dict[str, dict[str, Alias]] = {item: {} for item in sources}
    for item, leaves in sources.items():
        for name, source in leaves.items():
            owner = seen.get(source.identity) if source.identity is not None else None
            if owner is not None:
                aliases[item][name] = owner
                continue
            stored[item][name] = source.spec
            if source.identity is not None:
                seen[source.identity] = Alias(item, name)
    return stored, aliases


def _whole(spec: TensorSpec, file: str, begin: int, end: int) -> TensorRecord:
    assert end - begin == nbytes(spec)
    chunk = Chunk(file=file, offsets=(0,) * len(spec.shape), sizes=spec.shape, begin=begin, end=end)
    return TensorRecord(dtype=spec.dtype, shape=spec.shape, chunks=(chunk,))


def signature(sources: Sources) -> tuple[object, ...]:
    """What a plan depends on: while it stays equal, the plan may be used again."""
    return tuple(
        (item, name, source.spec, source.identity)
        for item, leaves in sources.items()
        for name, source in leaves.items()
    )
