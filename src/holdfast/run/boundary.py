"""A boundary: what is remembered of the point between two batches."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from holdfast.run.items import Groups, Items
from holdfast.run.position import Position
from holdfast.state.loading import value_draft
from holdfast.state.stateful import Frozen, copied
from holdfast.state.torch import rng
from holdfast.state.torch.gradients import Gradients
from holdfast.state.torch.shadow import Shadow
from holdfast.types import Progress


@dataclass(frozen=True, slots=True)
class Boundary:
    """Enough to save this point now, and, if nothing else has changed, also when a later batch has failed halfway.

    ``clean`` says whether no gradient was pending.
    """

    progress: Progress
    position: Position
    random: rng.RngState
    clean: bool
    values: dict[str, Any] = field(default_factory=dict)
    small: dict[str, Frozen] = field(default_factory=dict)
    seen: dict[str, Any] = field(default_factory=dict)
    groups: Groups = field(default_factory=dict)
    pending: list[tuple[str, int, int]] = field(default_factory=list)


class Observer:
    """Sees what training changes between boundaries."""

    def __init__(self, items: Items, values: dict[str, Any]) -> None:
        self._items, self._values = items, values
        self._kinds: dict[str, type] = {}
        self.gradients = Gradients(items.modules, items.optimizers)
        self.shadow = Shadow(items.modules, self.gradients.owned)

    def boundary(self, progress: Progress, position: Position, random: rng.RngState) -> Boundary:
        """Closes the interval since the last boundary. Tensors are not copied, except small buffers."""
        self.gradients.begin_interval()
        self.shadow.mark()
        clean, values = self.gradients.clean(), self._copied_values()
        pending = [] if clean else self.gradients.fingerprint()
        small, seen, groups = self._items.freeze_small(), self._items.look(), self._items.freeze_groups()
        return Boundary(progress, position, random, clean, values, small, seen, groups, pending)

    def _copied_values(self) -> dict[str, Any]:
        """Raises `UnsafeValueError` for what cannot be stored: when it turns up, not at a save hours later."""
        kinds = {name: type(value) for name, value in self._values.items()}
        if kinds != self._kinds:
            self._kinds = kinds
            value_draft("values", self._values)
        values: dict[str, Any] = copied(self._values)
        return values

    def obstacle(self, boundary: Boundary, *, unseen: bool = True) -> str | None:
        """Why the state of ``boundary``, the last one, is lost by now; None if it can still be saved.

        With ``unseen``, items whose changes cannot be seen count as changed.
        """
        if self.gradients.torn:
            return "the step of an optimizer was interrupted halfway"
        if self.gradients.stepped:
            return "an optimizer has stepped since"
        if not boundary.clean and self.gradients.fingerprint() != boundary.pending:
            return "gradients were pending there, and have been added to or dropped since"
        if not self.shadow.unchanged():
            return "a parameter was changed in place since"
        return self._items.obstacle(boundary.small, boundary.seen, unseen=unseen)

    @contextlib.contextmanager
    def put_back(self, boundary: Boundary) -> Iterator[None]:
        """Buffers and the optimizers' settings as they were at ``boundary``, for as long as they are being saved."""
        with self.shadow.put_back(), self._items.put_back_groups(boundary.groups):
            yield
