"""A boundary: what is remembered of the point between two batches."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from holdfast.run.items import Items
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


class Observer:
    """Sees what training changes between boundaries."""

    def __init__(self, items: Items, values: dict[str, Any]) -> None:
        self._items, self._values = items, values
        self._kinds: dict[str, type] = {}
        self.gradients = Gradients(items.modules, items.optimizers)
        self.shadow = Shadow(items.modules)

    def boundary(self, progress: Progress, position: Position, random: rng.RngState) -> Boundary:
        """Closes the interval since the last boundary. Tensors are not copied, except small buffers."""
        self.gradients.begin_interval()
        self.shadow.mark()
        clean, values = self.gradients.clean(), self._copied_values()
        return Boundary(progress, position, random, clean, values, self._items.freeze_small())

    def _copied_values(self) -> dict[str, Any]:
        """Raises `UnsafeValueError` for what cannot be stored: at the first boundary, not at a save hours later."""
        kinds = {name: type(value) for name, value in self._values.items()}
        if kinds != self._kinds:
            value_draft("values", self._values)
            self._kinds = kinds
        values: dict[str, Any] = copied(self._values)
        return values

    def obstacle(self, boundary: Boundary, *, begun: bool = True, seen: bool = True) -> str | None:
        """Why the state of ``boundary``, the last one, is lost by now; None if it can still be saved.

        ``begun`` is False if no batch has begun since; ``seen`` if no code has run since that may change an item.
        """
        if self.gradients.stepped:
            return "an optimizer has stepped since"
        if begun and not boundary.clean:
            return "gradients were pending there, and the batch that failed may have added to them"
        if not self.shadow.unchanged():
            return "a parameter was changed in place since"
        if seen and not self._items.covered(boundary.small):
            return "the state has items whose changes cannot be seen"
        return None
