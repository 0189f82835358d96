"""What holdfast sets out to reach, as ratios within one run of the suite, with digests on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from suite import figures
from suite.contenders import DCP, DCP_ASYNC, HOLDFAST, TORCH_SAVE
from suite.records import MACHINE
from suite.summary import ByRepetition, Spread, Summary, quotient
from suite.workload import DENSE, PARTIAL, TINY

HEADROOM = 64 << 20
"""Bytes that a save may take beside one copy of the state."""
MOST, LEAST = "at most", "at least"


@dataclass(frozen=True)
class Target:
    """``measure`` gives None for what was not measured; `aim` is the ratio that is wanted."""

    what: str
    measure: Callable[[Summary], Spread | None]
    bound: str
    aim: float

    def reached(self, found: Spread) -> bool:
        return found.median <= self.aim if self.bound == MOST else found.median >= self.aim


def _limit(workload: str, figure: str) -> Callable[[Summary], Spread | None]:
    """Holdfast by the machine."""
    return lambda summary: summary.to_limit(workload, HOLDFAST, figure)


def _rate(workload: str, figure: str) -> Callable[[Summary], Spread | None]:
    """The machine by holdfast: which part of its speed is reached."""
    return lambda summary: quotient(
        summary.limit(workload, HOLDFAST, figure), summary.values(workload, HOLDFAST, figure)
    )


def _peer(workload: str, figure: str, peer: str, theirs: str | None = None) -> Callable[[Summary], Spread | None]:
    """Holdfast by a peer."""
    return lambda summary: quotient(
        summary.values(workload, HOLDFAST, figure), summary.values(workload, peer, theirs or figure)
    )


def _by_peer(workload: str, figure: str, peer: str) -> Callable[[Summary], Spread | None]:
    """A peer by holdfast: how many times as fast it is."""
    return lambda summary: quotient(summary.values(workload, peer, figure), summary.values(workload, HOLDFAST, figure))


def _best(workload: str, figure: str, *, asynchronous: bool = False) -> Callable[[Summary], Spread | None]:
    """Holdfast by the best of the peers, or of those that are asynchronous."""

    def measure(summary: Summary) -> Spread | None:
        traits = summary.results.traits
        peer = summary.best_peer(workload, figure, lambda name: traits[name].asynchronous or not asynchronous)
        return None if peer is None else summary.to_peer(workload, figure, peer)

    return measure


def _partial_to_full(summary: Summary) -> Spread | None:
    return quotient(
        summary.values(PARTIAL, HOLDFAST, figures.DURABLE), summary.values(DENSE, HOLDFAST, figures.DURABLE)
    )


def _memory(summary: Summary) -> Spread | None:
    """By one copy of the state and the headroom."""
    sizes = summary.values(DENSE, HOLDFAST, figures.SIZE)
    allowed: ByRepetition = {one: size + HEADROOM for one, size in sizes.items()}
    return quotient(summary.values(DENSE, HOLDFAST, figures.SAVING_MEMORY), allowed)


def _stall_to_step(summary: Summary) -> Spread | None:
    """Only where the state is on a device whose copies run beside the training."""
    if not summary.values(DENSE, MACHINE, figures.PINNED):
        return None
    return quotient(summary.values(DENSE, HOLDFAST, figures.STALL), summary.values(DENSE, HOLDFAST, figures.STEP))


TARGETS = [
    Target("dense: durable save, part of the raw write's speed", _rate(DENSE, figures.DURABLE), LEAST, 0.9),
    Target("dense: durable save ÷ the best peer's", _best(DENSE, figures.DURABLE), MOST, 1.0),
    Target("dense: stall ÷ a copy in warm memory", _limit(DENSE, figures.STALL), MOST, 1.2),
    Target("dense: stall ÷ `dcp.async_save`'s", _peer(DENSE, figures.STALL, DCP_ASYNC), MOST, 1 / 4),
    Target(
        "dense: stall ÷ `torch.save`'s without fsync",
        _peer(DENSE, figures.STALL, TORCH_SAVE, figures.CALL), MOST, 1 / 15,
    ),
    Target(
        "dense: overhead of a save ÷ `torch.save`'s + fsync",
        _peer(DENSE, figures.OVERHEAD, TORCH_SAVE), MOST, 1 / 5,
    ),
    Target(
        "dense: overhead of a save ÷ the best asynchronous peer's",
        _best(DENSE, figures.OVERHEAD, asynchronous=True), MOST, 1 / 2,
    ),
    Target("dense: verified load, warm, times as fast as `dcp.load`", _by_peer(DENSE, figures.WARM, DCP), LEAST, 4),
    Target(
        "dense: verified load, warm, part of the speed of `torch.load(mmap=True)` + copy",
        _by_peer(DENSE, figures.WARM, TORCH_SAVE), LEAST, 0.85,
    ),
    Target("dense: verified load, cold, part of the raw read's speed", _rate(DENSE, figures.COLD), LEAST, 0.9),
    Target("dense: memory of saving ÷ one copy of the state + 64 MiB", _memory, MOST, 1.0),
    Target("tiny: durable save ÷ `dcp.save`'s", _peer(TINY, figures.DURABLE, DCP), MOST, 1 / 10),
    Target("tiny: load ÷ `dcp.load`'s", _peer(TINY, figures.WARM, DCP), MOST, 1 / 10),
    Target("tiny: bytes on disk ÷ `dcp.save`'s", _peer(TINY, figures.DISK, DCP), MOST, 1 / 3),
    Target("partial: bytes written ÷ the bytes that changed", _limit(PARTIAL, figures.WRITTEN), MOST, 1.1),
    Target("partial: durable save ÷ that of the dense state", _partial_to_full, MOST, 1 / 10),
    Target("CUDA, dense: stall ÷ a step", _stall_to_step, MOST, 0.01),
]  # fmt: skip
