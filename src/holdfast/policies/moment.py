"""What a save policy looks at."""

from __future__ import annotations

from typing import Literal

import msgspec

from holdfast.types import Progress

Event = Literal["boundary", "epoch_end", "end", "signal", "error"]


class Moment(msgspec.Struct, frozen=True, kw_only=True):
    """A point at which a save may be taken.

    ``previous`` is the progress at the last point that was looked at (after a restart: that of the
    checkpoint resumed from), so that a threshold is seen when it is crossed, however far a count jumps.
    """

    previous: Progress
    progress: Progress
    event: Event = "boundary"
