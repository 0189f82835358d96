"""Where the run is in its loops."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from holdfast.run.settings import Settings
from holdfast.state.torch import rng
from holdfast.state.torch.cursor import CursorState, cursor_from_tree, cursor_to_tree
from holdfast.types import Json

Mode = Literal["epochs", "steps", "hand"]


class Position(msgspec.Struct, frozen=True, kw_only=True):
    """A boundary. ``loop`` numbers the train loops of an epoch by call order, and is None between epochs.

    ``batch`` counts the completed batches of that loop.
    """

    epoch: int = 0
    loop: int | None = None
    batch: int = 0

    @property
    def at(self) -> tuple[int, int, int]:
        """The key under which logged values are compared after a resume."""
        return self.epoch, -1 if self.loop is None else self.loop, self.batch


@dataclass(slots=True)
class Stored:
    """What a checkpoint keeps of the loops: the items ``data`` and ``rng``."""

    position: Position
    mode: Mode
    boundary: rng.RngState
    epoch: rng.RngState | None = None
    loop: rng.RngState | None = None
    ends: list[rng.RngState] = field(default_factory=list)
    cursors: list[CursorState] = field(default_factory=list)
    memory: dict[int, dict[str, Json]] = field(default_factory=dict)
    settings: Settings = field(default_factory=dict)

    def data(self) -> dict[str, Any]:
        """The item ``data``."""
        return {
            "position": msgspec.structs.asdict(self.position),
            "mode": self.mode,
            "cursors": [cursor_to_tree(one) for one in self.cursors],
            "memory": self.memory,
            "settings": self.settings,
        }

    def rng(self) -> dict[str, Any]:
        """The item ``rng``: at the boundary, the epoch's start, before the loop's ``iter()``, behind earlier loops."""
        states = {"boundary": self.boundary, "epoch": self.epoch, "loop": self.loop}
        moments = {name: rng.to_tree(one) for name, one in states.items() if one is not None}
        return {**moments, "ends": [rng.to_tree(one) for one in self.ends]}

    @classmethod
    def of(cls, data: dict[str, Any], states: dict[str, Any]) -> Stored:
        """The inverse of `data` and `rng`."""
        moments = {name: rng.from_tree(tree) for name, tree in states.items() if name != "ends"}
        return cls(
            position=Position(**data["position"]),
            mode=data["mode"],
            boundary=moments["boundary"],
            epoch=moments.get("epoch"),
            loop=moments.get("loop"),
            ends=[rng.from_tree(tree) for tree in states.get("ends", ())],
            cursors=[cursor_from_tree(tree) for tree in data["cursors"]],
            memory=data["memory"],
            settings=data["settings"],
        )
