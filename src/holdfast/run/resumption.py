"""A resume in its stages: chosen, restored before the loops, restored again right before the first batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from holdfast.engine.catalog import Entry
from holdfast.errors import CorruptError, DataOrderError
from holdfast.format.values import decode
from holdfast.run.items import Items
from holdfast.run.position import Mode, Position, Stored
from holdfast.run.voice import Voice
from holdfast.state.item import Restore
from holdfast.state.loading import load, read_value
from holdfast.state.torch import rng
from holdfast.state.torch.cursor import CursorState
from holdfast.state.torch.gradients import Gradients
from holdfast.storage.base import Storage
from holdfast.types import Json, Progress, Progressing


@dataclass(slots=True)
class Resumption:
    """What `entry`, a checkpoint of this run, holds, and the restores of it."""

    storage: Storage
    entry: Entry
    stored: Stored
    values: dict[str, Any]
    notes: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, storage: Storage, entry: Entry, items: Items) -> Resumption:
        """Reads the small parts and checks that the rest fits. Raises `MisfitError`; changes nothing."""
        items.fit(entry)
        return cls(storage, entry, stored_of(storage, entry), read_values(storage, entry))

    @property
    def position(self) -> Position:
        return self.stored.position

    @property
    def progress(self) -> Progress:
        return self.entry.manifest.progress

    def check_mode(self, mode: Mode) -> None:
        """A position in one kind of loop means nothing in another; before the first batch, all are the same."""
        if self.stored.mode != mode and self.progress.batches:
            calls = {"epochs": "run.epochs() / run.batches()", "steps": "run.steps()", "hand": "run.batch_end()"}
            raise DataOrderError(
                f"{self.entry.name} was taken in a loop of {calls[self.stored.mode]}, and this one is {calls[mode]}. "
                "Use the same kind of loop, or start a new run folder with start_from=."
            )

    def cursors(self, count: int) -> list[CursorState]:
        """The loaders' positions, one for each. Raises `DataOrderError` if their number has changed."""
        stored = self.stored.cursors
        if len(stored) != count:
            raise DataOrderError(
                f"run.batches got {count} loaders; the checkpoint was taken in a loop over {len(stored)}. "
                "Use the same loaders."
            )
        return stored

    def restore(self, items: Items, gradients: Gradients, values: dict[str, Any], progressing: Progressing) -> None:
        """Brings every item to the checkpoint's state. Called twice where user code runs before the first batch."""
        restores: dict[str, Restore] = items.fit(self.entry)
        if "gradients" in self.entry.manifest.items:
            restores["gradients"] = gradients.prepare(self.entry.manifest.items["gradients"])
        else:
            gradients.clear()
        load(self.storage, self.entry, restores, progressing)
        self.notes = [note for one in restores.values() for note in one.notes]
        values.clear()
        values.update(read_values(self.storage, self.entry))

    def restore_random(self, moment: rng.RngState | None, voice: Voice) -> None:
        """Puts the global generators to one of the stored moments."""
        for note in rng.restore(moment) if moment is not None else ():
            voice.warn("random", note, once=note)


def stored_of(storage: Storage, entry: Entry) -> Stored:
    """What the run itself had added to a whole checkpoint."""
    return Stored.of(read_value(storage, entry, "data"), read_value(storage, entry, "rng"))


def read_values(storage: Storage, entry: Entry) -> dict[str, Any]:
    """The loop's own variables. Raises `CorruptError` for anything but a dict."""
    if "values" not in entry.manifest.items:
        return {}
    found = read_value(storage, entry, "values")
    if not isinstance(found, dict):
        raise CorruptError(
            f"{entry.name}: the item 'values' holds a {type(found).__name__} where run.values was a dict, so nothing "
            "was restored. Go back to another checkpoint: Run(..., start_from='its name')."
        )
    return found


def config_changes(old: Json, new: Mapping[str, Any] | None) -> list[str]:
    """Names of top-level configuration values that are not what they were, with both values."""
    before = decode(old) if old is not None else None
    if not isinstance(before, dict) or new is None:
        return []
    return [
        f"{key}: {before.get(key, '(absent)')!r} -> {new.get(key, '(absent)')!r}"
        for key in sorted({*before, *new}, key=str)
        if before.get(key, _ABSENT) != new.get(key, _ABSENT)
    ]


_ABSENT = object()
