"""How the samples of an epoch are divided into batches, and these among the ranks of a job."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from holdfast.data.permutation import Indices
from holdfast.errors import UsageError

Uneven = Literal["refuse", "pad", "drop"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Division:
    """Batches of ``batch_size`` samples for each of ``world_size`` ranks, of which this one is ``rank``.

    A step of the whole job consumes the next ``batch_size * world_size`` positions; each rank has the part of these
    that its number says. Positions are consumed in order, so where a job stands is one number, which another division
    goes on from. ``drop_last`` leaves out what is too little for a whole step. Else the last step is a smaller one, the
    same for every rank; ``uneven`` says what becomes of samples that ranks cannot share evenly: the epoch is refused,
    they are dropped, or padded with the first ones of the epoch.
    """

    batch_size: int
    rank: int = 0
    world_size: int = 1
    drop_last: bool = False
    uneven: Uneven = "refuse"

    @property
    def step(self) -> int:
        """Samples that all ranks together consume at a time."""
        return self.batch_size * self.world_size

    def count(self, begin: int, total: int) -> int:
        """How many batches each rank has from position ``begin`` on."""
        left = max(total - begin, 0)
        return left // self.step + (self._last_share(left % self.step) > 0)

    def reached(self, begin: int, total: int, batches: int) -> int:
        """The position up to which the job has consumed after so many batches from ``begin`` on.

        Behind the last one that is ``total``, also where samples are left out.
        """
        if batches >= self.count(begin, total):
            return max(begin, total)
        return begin + batches * self.step

    def positions(self, begin: int, total: int, first: int, last: int) -> list[Indices]:
        """For this rank's batches ``first`` to ``last``, counted from ``begin``, the positions of their samples."""
        whole = min(last, max(total - begin, 0) // self.step)
        starts = begin + np.arange(first, whole, dtype=np.int64) * self.step + self.rank * self.batch_size
        found = list(starts[:, None] + np.arange(self.batch_size, dtype=np.int64))
        if last > whole and first <= whole < self.count(begin, total):
            found.append(self._last(begin + whole * self.step, total))
        return found

    def _last(self, begin: int, total: int) -> Indices:
        share = self._last_share(total - begin)
        # What pads a share is taken from the beginning of the epoch, as torch's DistributedSampler does.
        return np.arange(begin + self.rank * share, begin + (self.rank + 1) * share, dtype=np.int64) % total

    def _last_share(self, left: int) -> int:
        """Samples of each rank in a last step for which only ``left`` are there."""
        if self.drop_last or not left:
            return 0
        share, odd = divmod(left, self.world_size)
        if odd and self.uneven == "refuse":
            raise UsageError(
                f"the last {left} samples of the epoch cannot be shared evenly by {self.world_size} ranks. Say what to "
                'do: uneven="pad" uses the first samples of the epoch once more, uneven="drop" leaves '
                f"{odd} out, drop_last=True leaves out all of them."
            )
        return share + (odd > 0 and self.uneven == "pad")
