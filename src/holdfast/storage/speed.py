"""How fast a file system is at what holdfast does to it."""

from __future__ import annotations

import itertools
import mmap
import os
import statistics
from collections.abc import Callable, Iterator, Sequence

import msgspec

from holdfast.storage import platform
from holdfast.storage.direct import FileWriter, write_file
from holdfast.storage.failures import reported
from holdfast.storage.medium import read_medium
from holdfast.types import Advance

Clock = Callable[[], float]

_LONGEST = 5.0
"""Seconds of writing, and of reading, after which as much as was done has to do."""
_FIRST = 32 << 20
"""Bytes that are written ahead, to know about how many can be written in that time."""
_SOURCE = 64 << 20
"""Bytes that are written over and over: more than most processors keep close to them."""
_TIMES, _FEWEST, _LATENCY_LONGEST = 32, 3, 2.0
"""How often a latency is measured; fewer times where it would take longer than that."""


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds, over so many ``times``."""

    median: float
    worst: float
    times: int


class Transfer(msgspec.Struct, frozen=True, kw_only=True):
    """So many bytes in so many seconds."""

    size: int
    seconds: float

    @property
    def rate(self) -> float:
        """Bytes a second."""
        return self.size / max(self.seconds, 1e-9)


class Speed(msgspec.Struct, frozen=True, kw_only=True):
    """``write``, fsync included, and ``read`` of one file; ``sync`` of a small file that is made; ``rename`` of a
    folder, with the fsync of the one around it.
    """

    write: Transfer
    read: Transfer
    sync: Latency
    rename: Latency


def measure(folder: str, size: int, block_size: int, clock: Clock, advance: Advance = lambda _: None) -> Speed:
    """Writes, as a save does, a file of up to ``size`` bytes into ``folder``, and reads what the medium holds of it.

    ``size`` and ``block_size`` are multiples of 4096. Raises `StorageError` if the storage fails.
    """
    source = _source(min(_SOURCE, size), block_size)
    with reported("measure", folder):
        sample = os.path.join(folder, "sample")
        # Where the page cache takes the bytes, writing is quick, and the fsync behind it could take minutes.
        first = _write(sample, source, min(_FIRST, size), clock)
        os.unlink(sample)
        feasible = int(first.rate * _LONGEST) // block_size * block_size
        write = _write(sample, source, max(min(size, feasible), block_size), clock, advance)
        return Speed(
            write=write,
            read=_read(sample, write.size, block_size, clock, advance),
            sync=_repeat(lambda number: _make_small(folder, number), clock),
            rename=_renames(folder, clock),
        )


def _source(size: int, block_size: int) -> Sequence[memoryview]:
    """Blocks that begin on a page, as O_DIRECT wants them, of bytes that no file system can compress."""
    memory = memoryview(mmap.mmap(-1, size))
    for begin in range(0, size, block_size):
        block = memory[begin : begin + block_size]
        block[:] = os.urandom(len(block))
    return [memory[begin : begin + block_size] for begin in range(0, size, block_size)]


def _write(
    path: str, source: Sequence[memoryview], size: int, clock: Clock, advance: Advance = lambda _: None
) -> Transfer:
    with reported("write", path):
        begin, writer = clock(), FileWriter(path, direct=True)
        try:
            for block in itertools.cycle(source):
                if writer.written >= size or clock() - begin > _LONGEST:
                    break
                writer.write(block, len(block))
                advance(len(block))
            writer.finish(writer.written)
        finally:
            writer.close()
        return Transfer(size=writer.written, seconds=clock() - begin)


def _read(path: str, size: int, block_size: int, clock: Clock, advance: Advance) -> Transfer:
    begin, done = clock(), 0
    for block in read_medium(path, size, block_size):
        done += len(block)
        advance(len(block))
        if clock() - begin > _LONGEST:
            break
    return Transfer(size=done, seconds=clock() - begin)


def _make_small(folder: str, number: int) -> None:
    """As a manifest is written."""
    data = memoryview(bytes(4096))
    write_file(os.path.join(folder, f"small.{number}"), [data], len(data), direct=False)


def _renames(folder: str, clock: Clock) -> Latency:
    names = (os.path.join(folder, f"renamed.{number}") for number in itertools.count())
    os.mkdir(current := next(names))

    def rename(number: int) -> None:
        nonlocal current
        before, current = current, next(names)
        os.rename(before, current)
        platform.sync_folder(folder)

    return _repeat(rename, clock)


def _repeat(act: Callable[[int], None], clock: Clock) -> Latency:
    taken = list(_timed(act, clock))
    return Latency(median=statistics.median(taken), worst=max(taken), times=len(taken))


def _timed(act: Callable[[int], None], clock: Clock) -> Iterator[float]:
    begin = clock()
    for number in range(_TIMES):
        started = clock()
        if number >= _FEWEST and started - begin > _LATENCY_LONGEST:
            return
        act(number)
        yield clock() - started
