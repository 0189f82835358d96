"""What saves of a state would cost on a storage that was measured, and how often to save there."""

from __future__ import annotations

import math

import msgspec

from holdfast.policies.moment import Costs, Moment
from holdfast.policies.overhead import Overhead, young_daly
from holdfast.policies.save import Choice
from holdfast.policies.units import SECONDS, every
from holdfast.types import Progress

SHARDS = 3
"""Files of tensors in a checkpoint of a model, its optimizer and the random states."""
SYNCS = SHARDS + 2
"""What a commit makes durable before the rename: the shards, the manifest and the folder that they are in."""
_OTHERS = "on signal | on error"
"""What ``save=`` takes the place of, and who gives only an interval would lose; a final save is always made."""
_ROUND = {
    "seconds": (1, 2, 3, 5, 10, 15, 20, 30), "minutes": (1, 2, 3, 5, 10, 15, 20, 30), "hours": (1, 2, 3, 4, 6, 8, 12),
}  # fmt: skip


class Rates(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes a second of a ``copy`` in memory, of digesting, of writing and of reading; seconds that it takes to
    make a small file durable (``sync``) and to rename a folder durably (``rename``).
    """

    copy: float
    digest: float
    write: float
    read: float
    sync: float
    rename: float


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds: training stands still for ``stall``, the checkpoint is ``durable`` so long after the save began, and it
    is verified and loaded in ``load``. ``streams``: memory does not hold a snapshot of it, so training stands still
    until the checkpoint is written.

    ``best`` is the interval of Young and Daly; ``bounded`` that of ``Overhead(0.01)``. ``interval`` is the one in
    ``phrase``: a round one close to the best, but not shorter than it takes to write a save.
    """

    stall: float
    durable: float
    load: float
    best: float
    bounded: Choice
    interval: float
    phrase: str
    streams: bool = False

    @property
    def persist(self) -> float:
        """How long the save is being written."""
        return self.durable - self.stall


def estimate(size: int, rates: Rates, mean_time_between_failures: float, memory: int | None = None) -> Estimate:
    """For a state of ``size`` bytes in the memory of the host, which has ``memory`` bytes left for a snapshot of it.

    The digests are made while the bytes are written. A load verifies them on their way into place, in one pass; a
    resume passes over them again, in the page cache.

    >>> rates = Rates(copy=8e9, digest=4e9, write=1e9, read=2e9, sync=0.01, rename=0.01)
    >>> found = estimate(2 * 10**9, rates, 24 * 3600)
    >>> found.stall, round(found.durable, 2), found.load, found.phrase
    (0.25, 2.31, 1.0, 'every 3 minutes | on signal | on error')
    """
    stall = size / rates.copy
    persist = size / min(rates.write, rates.digest) + SYNCS * rates.sync + rates.rename
    streams = memory is not None and size > memory
    if streams:
        stall, persist = stall + persist, 0.0
    best = young_daly(stall, mean_time_between_failures)
    interval, words = _round(best, persist)
    return Estimate(
        stall=stall, durable=stall + persist, load=size / rates.read, best=best,
        bounded=_bounded(stall, persist), interval=interval, phrase=f"{words} | {_OTHERS}",
        streams=streams,
    )  # fmt: skip


def _bounded(stall: float, persist: float) -> Choice:
    costs = Costs(blocking=stall, persist=persist, measured=True)
    return Overhead(0.01).choice(Moment(previous=Progress(), progress=Progress(), costs=costs))


def _round(seconds: float, least: float) -> tuple[int, str]:
    """The round interval nearest to ``seconds`` of those that are not below ``least``, and its phrase.

    >>> _round(131, 1.5), _round(0.1, 70.0), _round(4e5, 0)
    ((120, 'every 2 minutes'), (120, 'every 2 minutes'), (432000, 'every 5 days'))
    """
    day = SECONDS["days"]
    days = max(math.ceil(least / day), round(seconds / day), 1)
    round_ones = [(number * SECONDS[unit], number, unit) for unit, numbers in _ROUND.items() for number in numbers]
    fitting = [*(one for one in round_ones if one[0] >= least), (days * day, days, "days")]
    interval, number, unit = min(fitting, key=lambda one: abs(math.log(one[0] / seconds)))
    return interval, every(number, unit)
