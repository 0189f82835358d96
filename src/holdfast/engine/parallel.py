"""Jobs on a few threads: reading, hashing and copying release the interpreter lock."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from holdfast.types import Advance

Job = Callable[[], int]
"""Does something and returns how many bytes that was."""

_MOST_THREADS = 8
_WINDOW = 128
"""Jobs under way at once: bounds how far work runs ahead of a failure."""

_own = threading.local()


def run_jobs(jobs: Sequence[Job], advance: Advance) -> None:
    """Runs all ``jobs``, in any order, and stops soon after one has failed; that error is raised."""
    if len(jobs) < 2:
        for job in jobs:
            advance(job())
        return
    with ThreadPoolExecutor(_threads(), thread_name_prefix="holdfast-read") as pool:
        for window in _windows(jobs):
            for done in pool.map(_call, window):
                advance(done)


def _threads() -> int:
    """One for each core that this process may use: with more, they take each other's caches."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, _MOST_THREADS))


def scratch(length: int) -> memoryview:
    """Memory of this thread, until it asks again: fresh pages for each block would cost more than the reading."""
    if len(getattr(_own, "memory", b"")) < length:
        _own.memory = bytearray(length)
    return memoryview(_own.memory)[:length]


def _call(job: Job) -> int:
    return job()


def _windows(jobs: Sequence[Job]) -> Iterator[Sequence[Job]]:
    return (jobs[begin : begin + _WINDOW] for begin in range(0, len(jobs), _WINDOW))
