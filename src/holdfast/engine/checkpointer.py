"""The trainer's side of a save: plan, copy into the arena, hand over to the writer, hear the outcome."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from holdfast.engine.arena import Arena
from holdfast.engine.leaves import Source
from holdfast.engine.messages import Committed, Failed, Persist, SaveRequest, ShardRequest
from holdfast.engine.plan import Plan, align, make_plan, signature
from holdfast.engine.writer_handle import WriterHandle
from holdfast.format.manifest import Manifest
from holdfast.types import ItemRecord, Json

_REQUEST_ROOM = 64 << 10
"""Room behind the shards for a request that grows a little from save to save."""


@dataclass(frozen=True, slots=True)
class ItemDraft:
    """An item to be saved: everything of its record but where its tensors will lie."""

    kind: str
    tree: Json
    sources: Mapping[str, Source]
    metadata: dict[str, Json] = field(default_factory=dict)


class Checkpointer:
    """Takes snapshots into the arena and has the writer commit them, one at a time."""

    def __init__(self, writer: WriterHandle) -> None:
        self.writer = writer
        self._arena: Arena | None = None
        self._plan: Plan | None = None
        self._signature: tuple[object, ...] = ()

    @property
    def busy(self) -> bool:
        return self.writer.busy

    def reserve(self, items: Mapping[str, ItemDraft]) -> None:
        """Makes the arena for a state like ``items`` and warms it up in the background, before the first save.

        Raises `MemoryLimitError` if such a state can never be saved here.
        """
        size = self._planned(items).size + _REQUEST_ROOM
        if self._arena is None or self._arena.size < size:
            self._renew_arena(size)

    def hold(self, name: str, manifest: Manifest, items: Mapping[str, ItemDraft], delete: tuple[str, ...]) -> Persist:
        """Copies ``items`` into the arena, to become ``name`` if `commit` is called before anything else is held.

        Must not be called while `busy`. Raises `MemoryLimitError` if there is no room for the snapshot, or what a
        source raises.
        """
        assert not self.busy, "one snapshot at a time: the arena still holds the last one"
        plan = self._planned(items)
        shards = tuple(ShardRequest(one.file, one.offset, one.layout.size, one.padded_size) for one in plan.shards)
        whole = msgspec.structs.replace(manifest, items=_records(plan, items))
        request = msgspec.json.encode(SaveRequest(name=name, shards=shards, manifest=whole, delete=delete))
        arena = self._arena_for(plan.size + len(request))
        _copy(plan, items, arena.view)
        arena.view[plan.size : plan.size + len(request)] = request
        return Persist(name, manifest.ordinal, plan.size, len(request))

    def commit(self, held: Persist) -> None:
        """Hands over what is held. On return it survives this process. Raises `SaveError` if there is no writer."""
        self.writer.persist(held)

    def poll(self) -> Committed | Failed | None:
        """The outcome of the last save, once, when it is there."""
        return self.writer.poll()

    def wait(self, timeout: float | None = None) -> Committed | Failed | None:
        """Waits for the outcome of the save under way; None if there is none."""
        return self.writer.wait(timeout)

    def close(self) -> None:
        self.writer.close()
        if self._arena is not None:
            self._arena.close()
            self._arena = None

    def _planned(self, items: Mapping[str, ItemDraft]) -> Plan:
        sources = {name: item.sources for name, item in items.items()}
        wanted = signature(sources)
        if self._plan is None or wanted != self._signature:
            self._plan, self._signature = make_plan(sources), wanted
        return self._plan

    def _arena_for(self, size: int) -> Arena:
        if self._arena is None or self._arena.size < size:
            self._renew_arena(size + _REQUEST_ROOM)
        assert self._arena is not None
        return self._arena

    def _renew_arena(self, size: int) -> None:
        """The old arena goes first: both at once might be more than the memory allowed."""
        if self._arena is not None:
            self.writer.use(None)
            self._arena.close()
            self._arena = None
        self._arena = Arena(align(size))
        self._arena.prefault()
        self.writer.use(self._arena)


def _records(plan: Plan, items: Mapping[str, ItemDraft]) -> dict[str, ItemRecord]:
    return {
        name: ItemRecord(
            kind=item.kind,
            tree=item.tree,
            tensors=plan.tensors[name],
            aliases=plan.aliases[name],
            metadata=item.metadata,
        )
        for name, item in items.items()
    }


def _copy(plan: Plan, items: Mapping[str, ItemDraft], arena: memoryview) -> None:
    for shard in plan.shards:
        header = shard.layout.header
        arena[shard.offset : shard.offset + len(header)] = header
    for place in plan.placements:
        if place.begin != place.end:
            items[place.item].sources[place.tensor].copy_into(arena[place.begin : place.end])
