"""Jobs on a few threads: reading, hashing and copying release the interpreter lock."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from holdfast.types import Advance

Job = Callable[[], int]
"""Does something and returns how many bytes that was."""

STRETCH = 4
"""Blocks of a file that a job reads in one go: to open it for each of them would cost what shows."""
_MOST_THREADS = 8

_own = threading.local()


def run_jobs(jobs: Sequence[Job], advance: Advance, *, waiting: bool = False) -> None:
    """Runs all ``jobs``, in any order, and stops soon after one has failed; that error is raised.

    ``waiting``: they wait for a medium rather than for a processor, so that more of them run at a time.

    The calling thread does some of them, and calls ``advance``: if it only waited, each that ends would wake it, and
    take a core from the others.
    """
    left, done = deque(jobs), deque[int]()

    def report() -> None:
        while done:
            advance(done.popleft())

    others = min(_threads() * (1 + waiting), len(jobs)) - 1
    with ThreadPoolExecutor(max(1, others), thread_name_prefix="holdfast-read") as pool:
        helpers = [pool.submit(_work, left, done) for _ in range(others)]
        try:
            _work(left, done, report)
        finally:
            _own.memory = b""
        for helper in helpers:
            helper.result()
    report()


def _work(left: deque[Job], done: deque[int], report: Callable[[], None] | None = None) -> None:
    try:
        while (job := _next(left)) is not None:
            done.append(job())
            if report is not None:
                report()
    except BaseException:
        left.clear()
        raise


def _threads() -> int:
    """One for each core that this process may use: with more, they take each other's caches."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, _MOST_THREADS))


def scratch(length: int) -> memoryview:
    """Memory of this thread, until it asks again: fresh pages for each block would cost more than the reading."""
    if len(getattr(_own, "memory", b"")) < length:
        _own.memory = bytearray(length)
    return memoryview(_own.memory)[:length]


def _next(left: deque[Job]) -> Job | None:
    """None if there is none: other threads take them too."""
    try:
        return left.popleft()
    except IndexError:
        return None
