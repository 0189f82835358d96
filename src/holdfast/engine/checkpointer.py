"""The trainer's side of a save: plan, copy into the arena, hand over to the writer, hear the outcome."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import msgspec

from holdfast.engine.arena import Arena, ring_size
from holdfast.engine.behind import Behind, Copies, Device
from holdfast.engine.filling import Filling, fill
from holdfast.engine.leaves import Source
from holdfast.engine.messages import CommitRequest, Failed, Outcome, Persist, SaveRequest, ShardRequest
from holdfast.engine.plan import Contents, Everything, Plan, Sources, align, make_plan, signature
from holdfast.engine.steady import Steadiness
from holdfast.engine.writer_handle import WriterHandle
from holdfast.format.digests import BLOCK_SIZE
from holdfast.format.manifest import Manifest
from holdfast.format.names import unhashed
from holdfast.format.pruning import pruned
from holdfast.format.safetensors import ALIGNMENT
from holdfast.garbage import no_collection
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
    """A checkpoint to be made of a snapshot: all but its items and its files is in ``manifest``.

    See `CommitRequest`; an ``urgent`` one has no time for anything that the next could do as well.
    """

    folder: str
    manifest: Manifest
    contents: Contents = field(default_factory=Everything)
    delete: tuple[str, ...] = ()
    avoid: tuple[str, ...] = ()
    read_back: bool = False
    urgent: bool = False


class Checkpointer:
    """Takes snapshots into the arena and has the writer commit them, one at a time.

    The arena has at most ``limit`` bytes; a state that is larger, or for which memory is too short, streams through it.
    With a `device` that can, tensors are copied into it behind training; frozen ones may lie in it already, see
    `Steadiness`.
    """

    def __init__(self, writer: WriterHandle, limit: int | None = None) -> None:
        self.writer = writer
        self.device: Device | None = None
        self._limit = limit
        self._arena: Arena | None = None
        self._plans: dict[tuple[object, ...], Plan] = {}
        self._steadiness = Steadiness()
        self._copies: Copies | None = None
        self._behind: Behind | None = None
        self._lost: deque[Failed] = deque()

    @property
    def busy(self) -> bool:
        return self.writer.busy or self._behind is not None or bool(self._lost)

    def reserve(self, items: Mapping[str, ItemDraft], checkpoints: int = 1) -> None:
        """Makes the arena for a state like ``items`` and warms it up in the background, before the first save.

        There will be so many ``checkpoints`` of a snapshot. Raises `MemoryLimitError` if such a state can never be
        saved here.
        """
        plan = self._planned({name: item.sources for name, item in items.items()}, [Everything()])
        room = checkpoints * _request_room(plan, items)
        self._make_room(self._ring(plan.size, room) or plan.size, room)

    def expect(self, restored: Manifest) -> None:
        """The state was read from a checkpoint: what is the same in the first save needs no other proof."""
        digests = {record.digest for part in restored.parts for record in part.files.values()}
        self._steadiness.expect(digests, _moment(restored))

    def hold(
        self, items: Mapping[str, ItemDraft], checkpoints: Sequence[CheckpointDraft], *, begin: bool = False,
        behind: bool = False,
    ) -> Persist:  # fmt: skip
        """Copies ``items`` into the arena, to become ``checkpoints`` if `commit` is called before another `hold`.

        With ``begin`` the writer goes along while they are copied; what is larger than the arena is written on return.
        With ``behind``, what the device can copy by itself is copied after `commit`, which has to follow at once.
        Must not be called while `busy`. Raises `MemoryLimitError` if there is no room for the snapshot, `SaveError` if
        there is no writer, or what a source raises; nothing is left of it then.
        """
        assert not self.busy, "one snapshot at a time: the arena still holds the last one"
        self.writer.abandon()
        sources = {name: item.sources for name, item in items.items()}
        plan, request, ring = self._laid_out(items, sources, checkpoints)
        offset = ring or plan.size
        arena = self._make_room(offset, len(request))
        arena.view[offset : offset + len(request)] = request
        names = {one.folder: unhashed(str(one.manifest.name)) for one in checkpoints}
        held = Persist(names, checkpoints[0].manifest.ordinal, offset, len(request), size=plan.size, ring=offset)
        if begin or held.streams:
            self.writer.begin(held)
        # Memory that is not pinned (yet) would be copied into at a fraction of the speed, and not by the device alone.
        aside = self.device if behind and arena.pinned and not held.streams else None
        try:
            self._copies = None if aside is None else aside.copies()
            self._fill(held, plan, sources)
        except BaseException:
            self._copies = None
            self.writer.abandon()
            raise
        return held

    @no_collection()
    def _laid_out(
        self, items: Mapping[str, ItemDraft], sources: Sources, checkpoints: Sequence[CheckpointDraft]
    ) -> tuple[Plan, bytes, int | None]:
        """Where in the arena what goes, the request behind it, and how large the ring is if the state streams."""
        contents = [one.contents for one in checkpoints]
        plan = self._planned(sources, contents)
        known = self._steadiness.look(
            plan, sources, _moment(checkpoints[0].manifest), urgent=any(one.urgent for one in checkpoints)
        )
        request = msgspec.json.encode(_request(plan, items, checkpoints, known))
        ring = self._ring(plan.size, len(request))
        if ring is not None:
            plan = self._planned(sources, contents, BLOCK_SIZE)
            self._steadiness.look_at_none()
            request = msgspec.json.encode(_request(plan, items, checkpoints))
        return plan, request, ring

    def _fill(self, held: Persist, plan: Plan, sources: Sources) -> None:
        assert self._arena is not None
        reader, lying = self.writer if self.writer.begun else None, self._steadiness.lying()
        if self._copies is not None:
            copy_of = self._copies.copy_of
            fill(Filling(self._arena.view, None, held.piece), plan, sources, lying=lying, copy_of=copy_of)
            return
        if not held.streams:
            fill(Filling(self._arena.view, reader, held.piece), plan, sources, lying=lying)
            self._steadiness.filled()
            return
        filling = Filling(self._arena.view, reader, held.piece, held.ring)
        for number, _ in enumerate(held.names):
            fill(filling, plan, sources, number * plan.size, 1 << number)
            self.writer.filled((number + 1) * plan.size)

    def commit(self, held: Persist) -> None:
        """Hands over what is held. Raises `SaveError` if there is no writer.

        On return it survives this process, or as soon as what the device copies behind training has come.
        """
        if not self.writer.begun:
            self.writer.begin(held)
        if self._copies is None:
            self._complete(held)
        else:
            self._behind, self._copies = Behind(held, self._copies, self._complete), None
            self._behind.start()

    def _complete(self, held: Persist) -> None:
        if not held.streams:
            self.writer.filled(held.size)
        self.writer.complete()

    def poll(self) -> Outcome | None:
        """The next outcome of the last save, once, when it is there: one for each of its checkpoints."""
        return self.wait(0.0) if self._behind is not None or self._lost else self._heard(self.writer.poll())

    def wait(self, timeout: float | None = None) -> Outcome | None:
        """Waits for the next outcome of the save under way; None if there is none."""
        if self._behind is not None and not self._is_over(self._behind, timeout):
            return None
        return self._lost.popleft() if self._lost else self._heard(self.writer.wait(timeout))

    def _heard(self, outcome: Outcome | None) -> Outcome | None:
        return None if outcome is None else self._steadiness.hear(outcome)

    def _is_over(self, behind: Behind, timeout: float | None) -> bool:
        """Whether the device has copied all of it. Until then its thread alone speaks with the writer."""
        if not behind.is_over(timeout):
            return False
        self._behind = None
        if behind.obstacle is None:
            self._steadiness.filled()
        else:
            self.writer.abandon()
            self._lost += [
                Failed(ordinal=behind.held.ordinal, name=name, folder=folder, message=behind.obstacle, again=True)
                for folder, name in behind.held.names.items()
            ]
        return True

    def close(self) -> None:
        if self._behind is not None:
            self._is_over(self._behind, None)
        if self.device is not None:
            self.device.close()
        self.writer.close()
        if self._arena is not None:
            self._arena.close()
            self._arena = None

    def _planned(self, sources: Sources, contents: Sequence[Contents], spacing: int = ALIGNMENT) -> Plan:
        wanted = (spacing, *signature(sources, contents))
        plan = self._plans.get(wanted)
        if plan is None:
            while len(self._plans) >= _PLANS:
                del self._plans[next(iter(self._plans))]
            plan = self._plans[wanted] = make_plan(sources, contents, spacing)
        return plan

    def _ring(self, size: int, beside: int) -> int | None:
        """Bytes of the ring that a snapshot has to stream through; None if all of it fits."""
        present = self._arena.size if self._arena is not None else 0
        if size + beside <= present:
            return None
        beside += _REQUEST_ROOM + ALIGNMENT
        return ring_size(size + beside, beside, self._limit, present)

    def _make_room(self, offset: int, beside: int) -> Arena:
        """The arena, renewed if it is too small for ``offset`` bytes and what lies ``beside`` them.

        The old one goes first: both at once might be more than the memory allowed.
        """
        needed = align(offset + beside)
        if self._arena is None or self._arena.size < needed:
            if self._arena is not None:
                self.writer.use(None)
                self._arena.close()
                self._arena = None
            self._steadiness.lose()
            self._arena = Arena(needed + _REQUEST_ROOM)
            self._arena.prefault(self.device.pinning() if self.device is not None else None)
            self.writer.use(self._arena)
        return self._arena


def _request_room(plan: Plan, items: Mapping[str, ItemDraft]) -> int:
    """Bytes of the arena for the request of one checkpoint: each has the records of all tensors."""
    return (
        len(msgspec.json.encode({name: _record(plan, name, item, 1) for name, item in items.items()})) + _REQUEST_ROOM
    )


def _moment(manifest: Manifest) -> Hashable:
    """When in training that is: the same only if nothing was trained since."""
    return manifest.progress.batches, manifest.progress.step


def _request(
    plan: Plan, items: Mapping[str, ItemDraft], checkpoints: Sequence[CheckpointDraft],
    known: Mapping[str, str] = MappingProxyType({}),
) -> SaveRequest:  # fmt: skip
    shards = tuple(
        ShardRequest(one.file, one.offset, one.layout.size, one.padded_size, one.frozen, known.get(one.file, ""))
        for one in plan.shards
    )
    commits = tuple(_commit_request(plan, items, one, 1 << bit) for bit, one in enumerate(checkpoints))
    return SaveRequest(shards=shards, commits=commits)


def _commit_request(plan: Plan, items: Mapping[str, ItemDraft], draft: CheckpointDraft, bit: int) -> CommitRequest:
    records = {name: _record(plan, name, item, bit) for name, item in items.items() if draft.contents.takes(name)}
    return CommitRequest(
        folder=draft.folder,
        files=tuple(one.file for one in plan.shards if one.members & bit),
        manifest=msgspec.structs.replace(draft.manifest, items=records),
        delete=draft.delete,
        avoid=draft.avoid,
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
