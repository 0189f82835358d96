"""A folder that savers save into: what is there, and what may go for what comes."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import dataclass, field

from holdfast.engine.catalog import Catalog, Entry, shard_files
from holdfast.engine.holds import held
from holdfast.engine.pins import pinned
from holdfast.engine.sharing import bodies, shared
from holdfast.engine.steady import WHOLE_EVERY
from holdfast.errors import NotFoundError
from holdfast.policies.forecast import Shortage, is_foreseeable, shortage
from holdfast.policies.keep import KeepPolicy, Kept, described, plan, protected, require_known
from holdfast.policies.written import written
from holdfast.run.saver import Saver
from holdfast.run.schedule import Schedule
from holdfast.storage.base import FileStatus
from holdfast.storage.local import LocalStorage
from holdfast.storage.paths import is_deleting


@dataclass(slots=True, eq=False)
class Target:
    """One folder of the run, and the schedules of the savers that have it.

    ``uncounted`` are checkpoints that retention neither counts nor deletes: abandoned by a rollback, of another run,
    or found to be corrupt.
    """

    storage: LocalStorage
    catalog: Catalog
    schedules: list[Schedule] = field(default_factory=list)
    uncounted: frozenset[str] = frozenset()

    @property
    def folder(self) -> str:
        return self.storage.root

    @property
    def has_whole(self) -> bool:
        """Whether a saver saves here what a run can be resumed from."""
        return any(one.extent.whole for one in self.schedules)

    def plan(self, coming: Kept) -> dict[str, str | None]:
        """For each checkpoint here and the one ``coming``, oldest first, why it stays, or None if it goes then.

        Asked of the storage, never of memory. Each saver's policy looks at those that were saved for it, so that many
        of one do not push out the other's; what none of them looks at stays.
        """
        entries = [one for one in self.catalog.list().entries if one.name not in self.uncounted]
        checkpoints = [*(described(one) for one in entries), coming]
        # The newest is the one to come: it is committed before anything goes.
        stay = protected(checkpoints, held(self.storage), pinned(self.storage))
        return plan(_Savers(tuple(self.schedules)), checkpoints, stay)

    def shortage(self, frozen: Collection[str] = ()) -> Shortage | None:
        """Whether the disk is too small for what the keep policies here ask for, if saves go on as they do.

        The ``frozen`` files of the newest checkpoint will be linked, also if none of them has been yet.
        """
        entries = [one for one in self.catalog.list().entries if one.name not in self.uncounted]
        free = self.storage.free()
        if not entries or free is None or not all(_is_foreseeable(one.saver) for one in self.schedules):
            return None
        newest, linked = entries[-1], self._linked(entries, frozen)
        part = 1.0 - linked / newest.size * (1.0 - 1.0 / WHOLE_EVERY)
        # One that is whole again is there for a moment beside all others.
        room = max(free + self._going() - linked, 0)
        return shortage(_Savers(tuple(self.schedules)), [described(one) for one in entries], room, part=part)

    def _linked(self, entries: Sequence[Entry], frozen: Collection[str]) -> int:
        """Bytes of the newest checkpoint in files that others have too, or that others will have."""
        newest = entries[-1]
        files = {*frozen, *shared(bodies(self.storage, entries)).get(newest.name, ())}
        return sum(record.size for file, record in shard_files(newest.manifest).items() if file in files)

    def _going(self) -> int:
        """Bytes of what was deleted and is still being removed: they are free soon, but for what others have too."""
        going = [name for name in self.storage.list() if is_deleting(name)]
        paths = [f"{name}/{file}" for name in going for file in self.storage.list_files(name)]
        return sum(one.size for one in map(self._status, paths) if one is not None and one.names == 1)

    def _status(self, path: str) -> FileStatus | None:
        """None if it is gone by now."""
        with contextlib.suppress(NotFoundError):
            return self.storage.status(path)
        return None

    def holds(self, order: tuple[int, int]) -> bool:
        """Whether the checkpoint of that attempt and ordinal is here."""
        return any(one.order == order for one in self.catalog.list().entries)


def _is_foreseeable(saver: Saver) -> bool:
    """Whether it can be asked of checkpoints that are not there: somebody's own rule may open them."""
    return type(saver).should_keep is Saver.should_keep and is_foreseeable(saver.keep)


@dataclass(frozen=True, slots=True)
class _Savers(KeepPolicy):
    """The union of what the savers of one folder keep, by their own rules, which a user may have overridden."""

    schedules: tuple[Schedule, ...]

    def reasons(self, checkpoints: Sequence[Kept]) -> Mapping[str, str]:
        found: dict[str, list[str]] = {}
        seen: set[str] = set()
        identities = {one.identity for one in self.schedules}
        for schedule in self.schedules:
            own = [one for one in checkpoints if _is_for(one, schedule, identities)]
            seen.update(one.name for one in own)
            kept = schedule.saver.should_keep(own)
            require_known(kept, own, _keeper(schedule.saver))
            for name, reason in kept.items():
                found.setdefault(name, []).append(reason)
        for one in checkpoints:
            if one.name not in seen:
                found[one.name] = ["of no saver of this run"]
        return {name: ", ".join(dict.fromkeys(map(str, reasons))) for name, reasons in found.items()}


def _keeper(saver: Saver) -> str:
    """Whose answer it is, as somebody would look for it."""
    if type(saver).should_keep is not Saver.should_keep:
        return f"{type(saver).__name__}.should_keep()"
    return f"keep={written(saver.keep)}"


def _is_for(checkpoint: Kept, schedule: Schedule, identities: Set[str]) -> bool:
    """Whether it was saved for this saver; where none of the folder's is named in it, whether it holds enough."""
    named = checkpoint.savers & identities
    if len(identities) > 1 and named:
        return schedule.identity in named
    extent = schedule.extent
    return checkpoint.whole if extent.whole else extent.items.issubset(checkpoint.items)
