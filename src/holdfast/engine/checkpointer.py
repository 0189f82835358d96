"""The trainer's side of a save: plan, copy into the arena, hand over to the writer, hear the outcome."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from holdfast.engine.arena import Arena
from holdfast.engine.leaves import Source
from holdfast.engine.messages import CommitRequest, Committed, Failed, Persist, SaveRequest, ShardRequest
from holdfast.engine.plan import Contents, Everything, Plan, align, make_plan, signature
from holdfast.engine.writer_handle import WriterHandle
from holdfast.format.manifest import Manifest
from holdfast.format.names import unhashed
from holdfast.format.pruning import pruned
from holdfast.types import ItemRecord, Json

_REQUEST_ROOM = 64 << 10
"""Room behind the shards for a request that grows a little from save to save."""
_PLANS = 4
"""Plans that are kept: savers that come at different times take different items."""


@dataclass(frozen=True, slots=True)
class ItemDraft:
    """An item to be saved: everything of its record but where its tensors will lie."""

    kind: str
    tree: Json
    sources: Mapping[str, Source]
    metadata: dict[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointDraft:
    """A checkpoint to be made of a snapshot: all but its items and its files is in ``manifest``."""

    folder: str
    manifest: Manifest
    contents: Contents = field(default_factory=Everything)
    delete: tuple[str, ...] = ()
    read_back: bool = False


class Checkpointer:
    """Takes snapshots into the arena and has the writer commit them, one at a time."""

    def __init__(self, writer: WriterHandle) -> None:
        self.writer = writer
        self._arena: Arena | None = None
        self._plans: dict[tuple[object, ...], Plan] = {}

    @property
    def busy(self) -> bool:
        return self.writer.busy

    def reserve(self, items: Mapping[str, ItemDraft], checkpoints: int = 1) -> None:
        """Makes the arena for a state like ``items`` and warms it up in the background, before the first save.

        There will be so many ``checkpoints`` of a snapshot. Raises `MemoryLimitError` if such a state can never be
        saved here.
        """
        plan = self._planned(items, [Everything()])
        size = plan.size + checkpoints * _request_room(plan, items)
        if self._arena is None or self._arena.size < size:
            self._renew_arena(size)

    def hold(self, items: Mapping[str, ItemDraft], checkpoints: Sequence[CheckpointDraft]) -> Persist:
        """Copies ``items`` into the arena, to become ``checkpoints`` if `commit` is called before another `hold`.

        Must not be called while `busy`. Raises `MemoryLimitError` if there is no room for the snapshot, or what a
        source raises.
        """
        assert not self.busy, "one snapshot at a time: the arena still holds the last one"
        plan = self._planned(items, [one.contents for one in checkpoints])
        request = msgspec.json.encode(_request(plan, items, checkpoints))
        arena = self._arena_for(plan.size + len(request))
        _copy(plan, items, arena.view)
        arena.view[plan.size : plan.size + len(request)] = request
        names = {one.folder: unhashed(str(one.manifest.name)) for one in checkpoints}
        return Persist(names, checkpoints[0].manifest.ordinal, plan.size, len(request))

    def commit(self, held: Persist) -> None:
        """Hands over what is held. On return it survives this process. Raises `SaveError` if there is no writer."""
        self.writer.persist(held)

    def poll(self) -> Committed | Failed | None:
        """The next outcome of the last save, once, when it is there: one for each of its checkpoints."""
        return self.writer.poll()

    def wait(self, timeout: float | None = None) -> Committed | Failed | None:
        """Waits for the next outcome of the save under way; None if there is none."""
        return self.writer.wait(timeout)

    def close(self) -> None:
        self.writer.close()
        if self._arena is not None:
            self._arena.close()
            self._arena = None

    def _planned(self, items: Mapping[str, ItemDraft], contents: Sequence[Contents]) -> Plan:
        sources = {name: item.sources for name, item in items.items()}
        wanted = signature(sources, contents)
        plan = self._plans.get(wanted)
        if plan is None:
            while len(self._plans) >= _PLANS:
                del self._plans[next(iter(self._plans))]
            plan = self._plans[wanted] = make_plan(sources, contents)
        return plan

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


def _request_room(plan: Plan, items: Mapping[str, ItemDraft]) -> int:
    """Bytes of the arena for the request of one checkpoint: each has the records of all tensors."""
    return (
        len(msgspec.json.encode({name: _record(plan, name, item, 1) for name, item in items.items()})) + _REQUEST_ROOM
    )


def _request(plan: Plan, items: Mapping[str, ItemDraft], checkpoints: Sequence[CheckpointDraft]) -> SaveRequest:
    shards = tuple(ShardRequest(one.file, one.offset, one.layout.size, one.padded_size) for one in plan.shards)
    commits = tuple(_commit_request(plan, items, one, 1 << bit) for bit, one in enumerate(checkpoints))
    return SaveRequest(shards=shards, commits=commits)


def _commit_request(plan: Plan, items: Mapping[str, ItemDraft], draft: CheckpointDraft, bit: int) -> CommitRequest:
    records = {name: _record(plan, name, item, bit) for name, item in items.items() if draft.contents.takes(name)}
    return CommitRequest(
        folder=draft.folder,
        files=tuple(one.file for one in plan.shards if one.members & bit),
        manifest=msgspec.structs.replace(draft.manifest, items=records),
        delete=draft.delete,
        read_back=draft.read_back,
    )


def _record(plan: Plan, name: str, item: ItemDraft, bit: int) -> ItemRecord:
    """The record of an item in one checkpoint, without the tensors that this one leaves out."""
    members = plan.members[name]
    left_out = {tensor for tensor, its in members.items() if not its & bit}
    return ItemRecord(
        kind=item.kind,
        tree=pruned(item.tree, left_out, name) if left_out else item.tree,
        tensors={key: one for key, one in plan.tensors[name].items() if members[key] & bit},
        aliases={key: one for key, one in plan.aliases[name].items() if members[key] & bit},
        metadata=item.metadata,
    )


def _copy(plan: Plan, items: Mapping[str, ItemDraft], arena: memoryview) -> None:
    for shard in plan.shards:
        header = shard.layout.header
        arena[shard.offset : shard.offset + len(header)] = header
    for place in plan.placements:
        if place.begin != place.end:
            items[place.item].sources[place.tensor].copy_into(arena[place.begin : place.end])
