"""How fast this machine is at what a save does before its bytes reach a disk."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np

from holdfast.engine.arena import Arena
from holdfast.engine.memory import allowed_memory
from holdfast.format.digests import BLOCK_SIZE, FileDigest

_SIZE = 256 << 20
"""Bytes that are copied and digested: more than most processors keep close to them."""
_TIMES = 5


class MemorySpeed(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes a second of ``copy``, into warm pages of an arena, and of ``digest``, each by one thread."""

    copy: float
    digest: float


def measure_memory(clock: Callable[[], float] = time.perf_counter) -> MemorySpeed:
    """Takes some tenths of a second, and at most a quarter of the memory that is left.

    Raises `MemoryLimitError` where hardly any is.
    """
    size = _fitting(allowed_memory())
    source, arena = np.ones(size, dtype=np.uint8), Arena(size)
    try:
        copying = _copying(source, arena.view, clock)
        digesting = _seconds(lambda: _digest(arena.view), clock)
    finally:
        arena.close()
    return MemorySpeed(copy=size / copying, digest=size / digesting)


def _fitting(allowed: int | None) -> int:
    """Whole blocks: one copy here, one in the arena.

    >>> _fitting(None), _fitting(100_000_000), _fitting(1)
    (268435456, 8388608, 4194304)
    """
    most = _SIZE if allowed is None else min(_SIZE, allowed // 8)
    return max(most // BLOCK_SIZE, 1) * BLOCK_SIZE


def _copying(source: np.ndarray[Any, Any], view: memoryview, clock: Callable[[], float]) -> float:
    image = np.frombuffer(view, dtype=np.uint8)
    image[:] = source  # brings the pages in, which a run does in the background
    return statistics.median(_seconds(lambda: np.copyto(image, source), clock) for _ in range(_TIMES))


def _digest(view: memoryview) -> None:
    digest = FileDigest()
    for begin in range(0, len(view), BLOCK_SIZE):
        digest.update(view[begin : begin + BLOCK_SIZE])


def _seconds(act: Callable[[], object], clock: Callable[[], float]) -> float:
    begin = clock()
    act()
    return max(clock() - begin, 1e-9)
