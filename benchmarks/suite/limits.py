"""What this machine can do at most: its memory, its storage and its processor, at the bytes of a state."""

from __future__ import annotations

import mmap
import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
import xxhash
from blake3 import blake3

from suite import figures
from suite.page_cache import evict
from suite.records import Answer, Figures
from suite.workload import Workload

BLOCK = 8 << 20
PAGE = 4096
SHORT, TIMES = 0.05, 7
"""What takes less than this many seconds is done so many times."""

Work = Callable[[int, int], object]
"""Does the bytes from one place to another."""


class Limits:
    """Each is the fastest of one thread and of one for each core: nobody is forbidden to use them."""

    def __init__(self, folder: Path, size: int, device: str) -> None:
        self._size = -(-size // PAGE) * PAGE
        self._path, self._device = folder / "raw", device
        self._source, self._target = _memory(self._size), _memory(self._size)
        self._source[:] = np.resize(np.frombuffer(os.urandom(BLOCK), np.uint8), self._size)
        self._target[:] = 1
        self.notes: list[str] = []

    def measure(self) -> Figures:
        found = {
            figures.COPY_COLD: self._seconds(self._copy_cold),
            figures.COPY_WARM: self._best(self._copy),
            figures.RAW_WRITE: self._seconds(self._write),
            figures.RAW_READ: self._seconds(self._read),
            figures.READ_WARM: self._read_warm(),
            figures.XXH3: self._seconds(lambda: xxhash.xxh3_128(self._source.data).digest()),
            figures.BLAKE3: self._seconds(lambda: blake3(self._source.data).digest()),
        }
        if self._device == "cuda":
            found[figures.PINNED] = self._seconds(self._pinned())
        self._path.unlink()
        return {name: [value] for name, value in found.items()}

    def _seconds(self, act: Callable[[], object]) -> float:
        """The median of several for what is short."""
        taken = [_timed(act)]
        while taken[0] < SHORT and len(taken) < TIMES:
            taken.append(_timed(act))
        return statistics.median(taken)

    def _best(self, work: Work) -> float:
        self._in_parallel(work, 1)
        return min(self._seconds(partial(self._in_parallel, work, threads)) for threads in _THREADS)

    def _in_parallel(self, work: Work, threads: int) -> None:
        blocks = range(0, self._size, BLOCK)
        if threads == 1 or len(blocks) == 1:
            for begin in blocks:
                work(begin, min(begin + BLOCK, self._size))
            return
        with ThreadPoolExecutor(threads) as pool:
            for _ in pool.map(lambda begin: work(begin, min(begin + BLOCK, self._size)), blocks):
                pass

    def _copy(self, begin: int, end: int) -> None:
        np.copyto(self._target[begin:end], self._source[begin:end])

    def _copy_cold(self) -> None:
        """Into memory that the system has to find first."""
        fresh = _memory(self._size)
        np.copyto(fresh, self._source)

    def _write(self) -> None:
        """The fastest way to have bytes on the storage that comes back only when they are there."""
        self._path.unlink(missing_ok=True)
        descriptor = self._open(os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        try:
            self._in_parallel(lambda begin, end: os.pwrite(descriptor, self._source[begin:end].data, begin), _WRITERS)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _read(self) -> None:
        evict([self._path])
        descriptor = self._open(os.O_RDONLY)
        try:
            self._fetch(descriptor, _WRITERS)
        finally:
            os.close(descriptor)

    def _read_warm(self) -> float:
        descriptor = os.open(self._path, os.O_RDONLY)
        try:
            self._fetch(descriptor, 1)
            return min(self._seconds(partial(self._fetch, descriptor, threads)) for threads in _THREADS)
        finally:
            os.close(descriptor)

    def _fetch(self, descriptor: int, threads: int) -> None:
        self._in_parallel(lambda begin, end: os.preadv(descriptor, [self._target[begin:end].data], begin), threads)

    def _open(self, flags: int) -> int:
        try:
            return os.open(self._path, flags | os.O_DIRECT, 0o600)
        except OSError:
            self.notes.append("the storage refuses O_DIRECT: the raw limits are those of the page cache, with fsync")
            self._path.unlink(missing_ok=bool(flags & os.O_CREAT))
            return os.open(self._path, flags, 0o600)

    def _pinned(self) -> Callable[[], object]:
        source = torch.empty(self._size, dtype=torch.uint8, device="cuda")
        target = torch.empty(self._size, dtype=torch.uint8, pin_memory=True)

        def copy() -> None:
            target.copy_(source, non_blocking=True)
            torch.cuda.synchronize()

        copy()
        return copy


_THREADS = (1, os.cpu_count() or 1)
_WRITERS = 2
"""Threads, so that the storage has the next block while it is at work on one."""


def _memory(size: int) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    """That begins on a page, as O_DIRECT wants it."""
    return np.frombuffer(mmap.mmap(-1, size), np.uint8)


def _timed(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def measure_limits(workload: Workload, folder: Path, size: int) -> Answer:
    limits = Limits(folder, size, workload.device)
    return Answer(figures=limits.measure(), notes=sorted(set(limits.notes)))
