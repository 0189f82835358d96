"""What a save policy looks at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from holdfast.types import Json, Progress

Event = Literal["start", "boundary", "epoch_end", "end", "signal", "error"]


class Costs(msgspec.Struct, frozen=True, kw_only=True):
    """What the newest save has cost, in seconds; while ``measured`` is False, what the first one may cost.

    ``blocking`` is how long training stood still for it, ``slowdown`` by how much longer batches took while it was
    being written, ``persist`` how long that took. Both are at least those of the save before as long as the newest one
    is still ``writing``, and where it failed. ``batch`` is the time from one boundary to the next.
    """

    blocking: float = 0.0
    slowdown: float = 0.0
    persist: float = 0.0
    batch: float = 0.0
    measured: bool = False
    writing: bool = False

    @property
    def training(self) -> float:
        """Seconds of training that the save took away."""
        return self.blocking + self.slowdown

    @property
    def durable(self) -> float:
        """Seconds from the beginning of a save until it is durable."""
        return self.blocking + self.persist

    @property
    def needed(self) -> float:
        """The same from now on: one that is still being written comes first."""
        return self.durable + (self.persist if self.writing else 0.0)


class Moment(msgspec.Struct, frozen=True, kw_only=True):
    """A point at which a save may be taken.

    ``previous`` is the progress at the last point that was looked at (after a restart: that of the checkpoint resumed
    from), so that a threshold is seen when it is crossed, however far a count jumps; ``saved`` that of the newest
    save of this saver, at first that of the start. ``share`` and ``previous_share`` say how much of the run's length
    is done, from 0 to 1, where that is known. ``logged`` holds what was logged since the last point, and ``memory``
    what the policy asked to be remembered, which comes back with the checkpoint after a restart. ``now`` is the time
    in seconds since 1970 (UTC), ``deadlines`` are those known by now, by the key of their source, ``costs`` what a save
    takes, and ``failed`` says whether the newest one did.
    """

    previous: Progress
    progress: Progress
    event: Event = "boundary"
    saved: Progress = Progress()
    previous_share: float | None = None
    share: float | None = None
    saved_share: float | None = None
    logged: Mapping[str, float] = {}
    memory: Mapping[str, Json] = {}
    now: float = 0.0
    deadlines: Mapping[str, float] = {}
    costs: Costs = Costs()
    failed: bool = False

    @property
    def since_save(self) -> float:
        """Seconds of training since the newest save, that save's own cost included."""
        return self.progress.elapsed - self.saved.elapsed

    @property
    def left(self) -> float | None:
        """Seconds of training until the end of the run at the pace so far; None where its length is not known."""
        if not self.share or not self.progress.elapsed:
            return None
        return self.progress.elapsed * (1 - self.share) / self.share

    def since_saved(self) -> Moment:
        """The same moment, with all that came after the newest save as one interval."""
        return msgspec.structs.replace(self, previous=self.saved, previous_share=self.saved_share)
