"""What a save policy looks at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from holdfast.types import Json, Progress

Event = Literal["start", "boundary", "epoch_end", "end", "signal", "error"]


class Moment(msgspec.Struct, frozen=True, kw_only=True):
    """A point at which a save may be taken.

    ``previous`` is the progress at the last point that was looked at (after a restart: that of the checkpoint resumed
    from), so that a threshold is seen when it is crossed, however far a count jumps; ``saved`` that of the newest
    save, at first that of the start. ``share`` and ``previous_share`` say how much of the run's length is done,
    from 0 to 1, where that is known. ``logged`` holds what was logged since the last point, and ``memory`` what
    policies asked to be remembered, which comes back with the checkpoint after a restart.
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

    def since_saved(self) -> Moment:
        """The same moment, with all that came after the newest save as one interval."""
        return msgspec.structs.replace(self, previous=self.saved, previous_share=self.saved_share)
