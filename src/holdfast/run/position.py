"""Where the run is in its loops."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from holdfast.errors import CorruptError, HoldfastError
from holdfast.run.remembered import Remembered
from holdfast.run.settings import Settings, settings_from_tree
from holdfast.state.torch import rng
from holdfast.state.torch.cursor import Count, CursorState, cursor_from_tree, cursor_to_tree
from holdfast.state.torch.loader_memory import carried_from_tree
from holdfast.types import Json

Mode = Literal["epochs", "steps", "hand"]


class Position(msgspec.Struct, frozen=True, kw_only=True):
    """A boundary. ``loop`` numbers the train loops of an epoch by call order, and is None between epochs.

    ``batch`` counts the completed batches of that loop.
    """

    epoch: Count = 0
    loop: Count | None = None
    batch: Count = 0

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
    savers: list[Remembered] = field(default_factory=list)
    epoch_length: int | None = None

    def data(self) -> dict[str, Any]:
        """The item ``data``."""
        return {
            "position": msgspec.structs.asdict(self.position),
            "mode": self.mode,
            "cursors": [cursor_to_tree(one) for one in self.cursors],
            "memory": self.memory,
            "settings": self.settings,
            "savers": [
                msgspec.structs.asdict(one) | {"saved": msgspec.structs.asdict(one.saved)} for one in self.savers
            ],
            "epoch_length": self.epoch_length,
        }

    def rng(self) -> dict[str, Any]:
        """The item ``rng``: at the boundary, the epoch's start, before the loop's ``iter()``, behind earlier loops."""
        states = {"boundary": self.boundary, "epoch": self.epoch, "loop": self.loop}
        moments = {name: rng.to_tree(one) for name, one in states.items() if one is not None}
        return {**moments, "ends": [rng.to_tree(one) for one in self.ends]}

    @classmethod
    def of(cls, data: Any, states: Any) -> Stored:
        """The inverse of `data` and `rng`. Raises `CorruptError` for anything else."""
        try:
            return cls._of(data, states)
        except HoldfastError:
            raise
        except (AttributeError, LookupError, TypeError, ValueError, ArithmeticError) as error:
            raise CorruptError(
                "the items 'data' and 'rng' of the checkpoint do not say where the run was in its loops, so nothing "
                f"was restored: {error!r}. Go back to another checkpoint: Run(..., start_from='its name')."
            ) from error

    @classmethod
    def _of(cls, data: Any, states: Any) -> Stored:
        moments = {name: rng.from_tree(tree) for name, tree in states.items() if name != "ends"}
        carried_from_tree(data["memory"])
        stored = cls(
            position=msgspec.convert(data["position"], Position),
            mode=msgspec.convert(data["mode"], Mode),
            boundary=moments["boundary"],
            epoch=moments.get("epoch"),
            loop=moments.get("loop"),
            ends=[rng.from_tree(tree) for tree in states.get("ends", ())],
            cursors=[cursor_from_tree(tree) for tree in data["cursors"]],
            memory=data["memory"],
            settings=settings_from_tree(data["settings"]),
            savers=msgspec.convert(data["savers"], list[Remembered]),
            epoch_length=msgspec.convert(data["epoch_length"], Count | None),
        )
        if stored.position.loop is not None and stored.loop is None and stored.mode != "hand":
            raise ValueError("a position in a loop without the random state before it")
        return stored
