"""What one epoch's pass over a loader leaves for the next: generators, a state of its own, a pool of workers."""

from __future__ import annotations

import contextlib
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
    """For one loop number: per loader, the states of its generators, that of itself or its sampler, and of its pool.

    ``warm`` says whether the pool was running; ``reused`` whether the loop was seen to use the same loader in a later
    epoch; None while only one was seen.
    """

    generators: list[dict[str, Any]] = []
    states: list[Any] = []
    warm: list[bool] = []
    reused: bool | None = None

    def __post_init__(self) -> None:
        if not len(self.generators) == len(self.states) == len(self.warm):
            raise ValueError("generators, states and warm are of different numbers of loaders")

    @property
    def holds_something(self) -> bool:
        return any(self.generators) or any(self.warm) or any(one is not None for one in self.states)


class LoaderMemory:
    """Follows the loaders of each loop number from epoch to epoch, and brings fresh ones to the same place.

    After a restart all loaders are new objects. A loader made once, before the epochs, has to get its own state
    and those of its generators back; one that is made anew in each epoch must not. Which it is was seen in the run, or,
    where only one epoch was, is told from whether the loader was there before the epochs began.
    """

    def __init__(self) -> None:
        self._cursors: dict[int, list[Cursor]] = {}
        self._reused: dict[int, bool | None] = {}
        self._marked: dict[int, Carried] = {}
        self._carried: dict[int, Carried] = {}
        self._hidden: dict[int, dict[str, object]] = {}
        self._early: weakref.WeakSet[Any] = weakref.WeakSet()
        self._ended: dict[int, Any] = {}
        self._placed: list[Any] = []
        self._settled: dict[int, Carried] = {}
        self._moved = True

    def note(self, loop: int, cursors: list[Cursor]) -> list[str]:
        """A pass begins. Returns the attributes of samplers and datasets that changed since the last.

        Nothing restores them.
        """
        for cursor in cursors:
            cursor.before = self._ended.get(id(cursor.stateful))
        before, self._moved = self._cursors.get(loop), True
        if before is not None:
            self._reused[loop] = _parts(before) == _parts(cursors)
        self._cursors[loop] = cursors
        if self._carried:
            self._placed += [part for one in cursors for part in (*one.generators.values(), one.stateful)]
        hidden = {key: value for one in cursors for key, value in hidden_state(one.loader).items()}
        last, self._hidden[loop] = self._hidden.get(loop), hidden
        return [key for key, value in hidden.items() if last is not None and key in last and last[key] != value]

    def end(self, cursor: Cursor, whole: bool) -> None:
        """A pass is over. The loader's own state is taken here: in the middle of the next pass it would be another.

        Not that of a pass that is not ``whole``: whether the next one begins anew, or there, is not known.
        """
        self._moved = True
        if cursor.stateful is not None:
            alive = {id(one.stateful) for others in self._cursors.values() for one in others}
            self._ended = {key: state for key, state in self._ended.items() if key in alive}
            self._ended[id(cursor.stateful)] = _told(cursor) if whole or cursor.ends_whole else None

    def left_early(self, cursors: list[Cursor]) -> bool:
        """Whether a loader with a state of its own, or its sampler, was left in the middle of its last pass."""
        return any(self._ended.get(id(one.stateful), True) is None for one in cursors)

    def lives_on(self, loop: int, cursors: list[Cursor]) -> bool:
        """Whether one of them is an iterator that the pass before has drawn from."""
        before = [one.loader for one in self._cursors.get(loop, ())]
        return any(hasattr(one.loader, "__next__") and any(one.loader is other for other in before) for one in cursors)

    def mark(self) -> None:
        """Remembers this boundary. Between two passes, only generators move."""
        for loop, cursors in self._cursors.items():
            if not self._moved and not any(one.generators for one in cursors):
                continue
            self._marked[loop] = Carried(
                generators=[one.generator_states() for one in cursors],
                states=[self._ended.get(id(one.stateful)) for one in cursors],
                warm=[one.warm for one in cursors],
                reused=self._reused.get(loop),
            )
        self._moved = False

    def to_tree(self) -> dict[int, dict[str, Json]]:
        """The state at the last mark, and what an earlier attempt left for loops that have not come up yet."""
        return {loop: msgspec.structs.asdict(one) for loop, one in (self._carried | self._marked).items()}

    def load(self, tree: dict[int, dict[str, Json]]) -> None:
        """What the checkpoint carries. Called before the epochs begin, so the loaders that exist now are early ones."""
        self._carried = carried_from_tree(tree)
        if any(one.reused is None and one.holds_something for one in self._carried.values()):
            self._early = _loaders_that_exist()

    def carry(self, loop: int, cursors: list[Cursor]) -> None:
        """Brings the fresh loaders of ``loop`` to where the checkpoint left them between two passes."""
        carried = self._carried.pop(loop, None)
        if carried is None or len(carried.warm) != len(cursors):
            return
        self._settled[loop] = carried
        self._reused.setdefault(loop, carried.reused)
        for index, cursor in enumerate(cursors):
            if carried.reused or (carried.reused is None and cursor.loader in self._early):
                self._place(cursor, carried.generators[index], carried.states[index])
            if carried.warm[index]:
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

    def _place(self, cursor: Cursor, states: dict[str, Any], own: Any) -> None:
        """Not what another loop's loader shares: that has moved on since."""
        for path, state in states.items():
            if path in cursor.generators and not self._is_placed(cursor.generators[path]):
                rng.set_generator_state(cursor.generators[path], state)
        if own is not None and cursor.stateful is not None and not self._is_placed(cursor.stateful):
            self._ended[id(cursor.stateful)] = own
            cursor.wake(own)

    def _is_placed(self, part: Any) -> bool:
        return any(part is one for one in self._placed)


def carried_from_tree(tree: Any) -> dict[int, Carried]:
    """The inverse of `LoaderMemory.to_tree`. Raises `ValueError` for anything else."""
    return msgspec.convert(tree, dict[int, Carried])


def _told(cursor: Cursor) -> Any:
    """The state of a loader, or None if it fails to say: that is no reason to end the training."""
    with contextlib.suppress(Exception):
        return cursor.told()
    return None


def _loaders_that_exist() -> weakref.WeakSet[Any]:
    kinds: dict[type, bool] = {}
    found: weakref.WeakSet[Any] = weakref.WeakSet()
    for one in gc.get_objects():
        kind = type(one)
        if kind not in kinds:
            stateful = hasattr(kind, "load_state_dict") and hasattr(kind, "__iter__")
            kinds[kind] = (issubclass(kind, DataLoader) or stateful) and hasattr(kind, "__weakref__")
        if kinds[kind] and kind.__hash__ is not None:
            found.add(one)
    return found


def _parts(cursors: list[Cursor]) -> list[tuple[str, int]]:
    generators = [(path, id(generator)) for one in cursors for path, generator in one.generators.items()]
    return generators + [("state", id(one.stateful)) for one in cursors]
