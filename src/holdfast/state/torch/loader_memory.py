"""What one epoch's pass over a loader leaves for the next: its private generators, its pool of workers."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import msgspec
from torch.utils.data import DataLoader

from holdfast.state.torch import rng
from holdfast.state.torch.cursor import Cursor
from holdfast.state.torch.map_cursor import hidden_state
from holdfast.types import Json


class Carried(msgspec.Struct, kw_only=True):
    """For one loop number: per loader, the states of its generators and whether its pool was running.

    ``reused`` says whether the loop was seen to use the same generators in a later epoch; None while only one was seen.
    """

    generators: list[dict[str, Any]] = []
    warm: list[bool] = []
    reused: bool | None = None


class LoaderMemory:
    """Follows the loaders of each loop number from epoch to epoch, and brings fresh ones to the same place.

    After a restart all loaders are new objects. A loader made once, before the epochs, has to get its generators'
    states back; one that is made anew in each epoch must not. Which it is was seen in the run, or, where only one epoch
    was, is told from whether the loader was there before the epochs began.
    """

    def __init__(self) -> None:
        self._cursors: dict[int, list[Cursor]] = {}
        self._reused: dict[int, bool | None] = {}
        self._marked: dict[int, Carried] = {}
        self._carried: dict[int, Carried] = {}
        self._hidden: dict[int, dict[str, object]] = {}
        self._early: weakref.WeakSet[Any] = weakref.WeakSet()
        self._placed: list[Any] = []
        self._settled: dict[int, Carried] = {}

    def note(self, loop: int, cursors: list[Cursor]) -> list[str]:
        """A pass begins. Returns the names of sampler attributes that changed since the last one, which nothing restores."""
        before = self._cursors.get(loop)
        if before is not None:
            self._reused[loop] = _generators(before) == _generators(cursors)
        self._cursors[loop] = cursors
        hidden = {key: value for one in cursors for key, value in hidden_state(one.loader).items()}
        last, self._hidden[loop] = self._hidden.get(loop), hidden
        return [key for key, value in hidden.items() if last is not None and key in last and last[key] != value]

    def mark(self) -> None:
        """Remembers this boundary."""
        for loop, cursors in self._cursors.items():
            self._marked[loop] = Carried(
                generators=[one.generator_states() for one in cursors],
                warm=[one.warm for one in cursors],
                reused=self._reused.get(loop),
            )

    def to_tree(self) -> dict[int, dict[str, Json]]:
        """The state at the last mark, and what an earlier attempt left for loops that have not come up yet."""
        return {loop: msgspec.structs.asdict(one) for loop, one in (self._carried | self._marked).items()}

    def load(self, tree: dict[int, dict[str, Json]]) -> None:
        """What the checkpoint carries. Called before the epochs begin, so the loaders that exist now are early ones."""
        self._carried = {loop: Carried(**fields) for loop, fields in tree.items()}
        unknown = any(one.reused is None and (any(one.generators) or any(one.warm)) for one in self._carried.values())
        if unknown:
            self._early = weakref.WeakSet(one for one in gc.get_objects() if isinstance(one, DataLoader))

    def carry(self, loop: int, cursors: list[Cursor]) -> None:
        """Brings the fresh loaders of ``loop`` to where the checkpoint left them between two passes."""
        carried = self._carried.pop(loop, None)
        if carried is None or len(carried.warm) != len(cursors):
            return
        self._settled[loop] = carried
        self._reused.setdefault(loop, carried.reused)
        for cursor, states, warm in zip(cursors, carried.generators, carried.warm, strict=True):
            if carried.reused or (carried.reused is None and cursor.loader in self._early):
                self._place(cursor, states)
            if warm:
                cursor.prime()

    def settle(self, loop: int) -> None:
        """The resumed epoch has reached its boundary in ``loop``: the loaders met so far stand as they stood there."""
        for number, cursors in self._cursors.items():
            carried = self._carried.get(number, self._settled.get(number))
            for cursor, states in zip(cursors, carried.generators if carried is not None else (), strict=False):
                cursor.set_generators(states)
        met = self._carried.pop(loop, None)
        if met is not None:
            self._reused.setdefault(loop, met.reused)

    def _place(self, cursor: Cursor, states: dict[str, Any]) -> None:
        """Each generator once: another loop's loader may share it and have moved it on since."""
        for path, state in states.items():
            generator = cursor.generators.get(path)
            if generator is not None and not any(generator is one for one in self._placed):
                self._placed.append(generator)
                rng.set_generator_state(generator, state)


def _generators(cursors: list[Cursor]) -> list[tuple[str, int]]:
    return [(path, id(generator)) for one in cursors for path, generator in one.generators.items()]
