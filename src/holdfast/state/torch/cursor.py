"""Where a loader stands: what it takes to bring a fresh loader to the same position, and no further."""

from __future__ import annotations

import abc
import copy
from collections.abc import Callable, Iterable, Iterator
from typing import Annotated, Any

import msgspec

from holdfast.errors import DataOrderError
from holdfast.state.torch import rng
from holdfast.state.torch.trail import Trail
from holdfast.types import Json

Count = Annotated[int, msgspec.Meta(ge=0)]
Ticker = Callable[[int, int], None]
"""Told (done, total) while batches are replayed, for a progress bar."""


class CursorState(msgspec.Struct, kw_only=True):
    """What a checkpoint keeps of one loader's position. ``position`` is the loader's own state_dict, if it has one.

    ``warm`` says whether a persistent pool was running before the pass began. ``trail`` maps draws to the random state
    they were made in; ``generators`` and ``sampler`` are the states, before the pass began, of the loader's private
    random generators and of a sampler with a ``state_dict``.
    """

    kind: str
    consumed: Count = 0
    length: Count | None = None
    digests: dict[int, str] = {}
    trail: dict[int, rng.RngState] = {}
    generators: dict[str, Any] = {}
    sampler: Any = None
    position: Any = None
    overflowed: bool = False
    warm: bool = False


class Cursor(abc.ABC):
    """One pass over one loader.

    `open` creates the iterator and, with a stored state, brings it to that position; it leaves the global random
    state wherever that took it. The caller restores the state of the boundary afterwards. `next` hands out a batch.
    """

    kind: str
    ends_whole = False
    """Whether what lives on of a loader stands at the end of a pass also where that was left."""
    regrouped = False
    """Whether a resumed pass has batches of another size, which cannot be compared with the ones before."""

    def __init__(self, loader: Iterable[Any], where: str) -> None:
        self.loader, self.where = loader, where
        self.iterator: Iterator[Any] = iter(())
        self.length = _length(loader)
        self.generators = self.find_generators()
        self.start: dict[str, Any] = {}
        self.warm_start = self.woken = False
        self.before: Any = None
        """The state of `stateful` at the end of the pass before, if that was a whole one."""

    @abc.abstractmethod
    def open(self, stored: CursorState | None, *, exact: bool, tick: Ticker) -> None:
        """Creates the iterator; with ``stored``, at that position. Raises `DataOrderError`."""

    @abc.abstractmethod
    def mark(self) -> None:
        """Notes the position at a boundary, before the next batch is fetched. Cheap: it is called at each one."""

    def hold(self) -> None:
        """Before a batch is fetched ahead of the save that holds the boundary: keeps what that would lose."""
        return None

    @abc.abstractmethod
    def state(self) -> CursorState | None:
        """The position at the last mark; None if it is lost because a batch was fetched since."""

    def next(self) -> Any:
        """The next batch. Raises StopIteration at the end of the pass."""
        return next(self.iterator)

    def close(self) -> None:
        """Lets the iterator go, and with it the workers of a pool that is not persistent."""
        self.iterator = iter(())

    def samples(self, batch: Any) -> int:
        """How many samples ``batch``, the one just handed out, has."""
        return leading_size(batch)

    def digest(self) -> str | None:
        """A digest of the indices consumed so far, where there are indices."""
        return None

    @property
    def warm(self) -> bool:
        """Whether a persistent pool of workers is running, which draws differently in its later passes."""
        return False

    def prime(self) -> None:
        """Starts the persistent pool as the run's first pass had, without drawing anything for it."""
        return None

    def find_generators(self) -> dict[str, Any]:
        """The loader's private random generators, by path."""
        return rng.find_generators(self.loader)

    @property
    def stateful(self) -> Any:
        """What of the loader has a ``state_dict`` and lives on from pass to pass: itself, its sampler, or None."""
        return None

    def wake(self, state: Any) -> None:
        """Puts `stateful` where it stood at the end of a pass.

        To some that state means that a pass has ended, to others that nothing is left of one: if the pass that comes
        is empty, the one behind it is the one.
        """
        self.stateful.load_state_dict(state)
        self.woken = True

    def told(self) -> Any:
        """What `stateful` says at the end of a pass."""
        return copy.deepcopy(self.stateful.state_dict())

    def note_start(self, stored: CursorState | None) -> None:
        """Puts pool and private generators where they stood before the pass, and remembers that place."""
        if stored is not None:
            self.set_generators(stored.generators)
            if stored.warm:
                self.prime()
        self.warm_start = self.warm
        self.start = self.generator_states()

    def generator_states(self) -> dict[str, Any]:
        return {path: rng.generator_state(generator) for path, generator in self.generators.items()}

    def set_generators(self, states: dict[str, Any]) -> None:
        for path, state in states.items():
            if path in self.generators:
                rng.set_generator_state(self.generators[path], state)

    def check_kind(self, stored: CursorState) -> None:
        """Refuses a loader whose position is another thing than the stored one."""
        if stored.kind != self.kind:
            raise DataOrderError(
                f"{self.where}: the checkpoint was taken with a loader that resumes by {stored.kind}, this one resumes "
                f"by {self.kind}. Use the loader of the run, or start a new run folder."
            )

    def check(self, stored: CursorState) -> None:
        """Refuses a loader that cannot be at the stored position."""
        self.check_kind(stored)
        if stored.length != self.length:
            raise DataOrderError(
                f"{self.where}: the loader has {self.length} batches, it had {stored.length} when the checkpoint was "
                f"taken, after {stored.consumed} of them. Use the dataset and batch size of the run, or go back to a "
                "checkpoint of the end of an epoch: Run(..., start_from='its name'). To continue at batch "
                f"{stored.consumed} all the same, call run.batches(loader, exact=False)."
            )


class ReplayCursor(Cursor):
    """Any other iterable: on resume the batches that were consumed are produced again and dropped.

    Exact also when the iterable draws from the global generators, and with workers that do: all of it is
    repeated in the random state it happened in.
    """

    kind = "replay"

    def __init__(self, loader: Iterable[Any], where: str, *, watch: bool = True) -> None:
        super().__init__(loader, where)
        self._watch = watch

    def open(self, stored: CursorState | None, *, exact: bool, tick: Ticker) -> None:
        self.note_start(stored)
        self._trail = Trail(self._watch, stored.trail if stored is not None else None)
        self._consumed = self._marked = 0
        if stored is not None and exact:
            self.check(stored)
        self.iterator = self.make_iterator()
        total = stored.consumed if stored is not None else 0
        while self._consumed < total:
            try:
                self.next()
            except StopIteration:
                raise DataOrderError(
                    f"{self.where}: the checkpoint was taken after {total} batches, but this iterable ends after "
                    f"{self._consumed}. Use the data of the run, or start a new run folder."
                ) from None
            tick(self._consumed, total)

    def make_iterator(self) -> Iterator[Any]:
        return iter(self.loader)

    def next(self) -> Any:
        batch = self._trail.draw(self._consumed, self.iterator.__next__)
        self._consumed += 1
        return batch

    def mark(self) -> None:
        self._marked = self._consumed

    def state(self) -> CursorState:
        return CursorState(
            kind=self.kind, consumed=self._marked, length=self.length, generators=self.start,
            trail=dict(self._trail.entries), overflowed=self._trail.overflowed,
        )  # fmt: skip


def _length(loader: Iterable[Any]) -> int | None:
    try:
        return len(loader)  # type: ignore[arg-type]  # asked because it may not be sized
    except TypeError:
        return None


def leading_size(batch: Any) -> int:
    """The number of samples in a batch: the leading dimension of its first array; 1 where there is none.

    >>> leading_size([1, 2, 3])
    1
    """
    if getattr(batch, "shape", None):
        return int(batch.shape[0])
    if isinstance(batch, dict):
        return next((leading_size(value) for value in batch.values()), 1)
    if isinstance(batch, (list, tuple)) and batch:
        return leading_size(batch[0])
    return 1


def cursor_to_tree(state: CursorState) -> dict[str, Json]:
    """Nested plain values and arrays, to be stored as part of an item."""
    tree = msgspec.structs.asdict(state)
    tree["trail"] = {index: rng.to_tree(entry) for index, entry in state.trail.items()}
    return tree


def cursor_from_tree(tree: Any) -> CursorState:
    """The inverse of `cursor_to_tree`. Raises `CorruptError` or `ValueError` for anything else."""
    state = msgspec.convert({**tree, "trail": {}}, CursorState)
    trail = msgspec.convert(tree["trail"], dict[Count, Any])
    state.trail = {index: rng.from_tree(entry) for index, entry in trail.items()}
    return state
