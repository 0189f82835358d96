"""Reading a file into memory that exists, through the page cache or past it."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterable

from holdfast.errors import CorruptError
from holdfast.storage import platform

ALIGNMENT = 4096
"""Offsets, lengths and memory addresses that O_DIRECT takes are multiples of it."""
_WINDOW = 2 << 20
"""Bytes that are read at a time."""

_own = threading.local()

ReadSome = Callable[[memoryview, int], int]
"""Reads from an offset into memory and returns the number of bytes, 0 only at the end of the file."""


def read_file_into(path: str, offset: int, buffers: Iterable[memoryview], size: int, *, direct: bool) -> None:
    """Fills ``buffers`` from the file ``path`` of ``size`` bytes; see `Storage.read_into`."""
    descriptor = os.open(path, platform.READ)
    try:
        read_some = DirectReader(descriptor).read_some if direct else _cached_reader(descriptor)
        for buffer in buffers:
            if offset + buffer.nbytes > size:
                wanted = f"{buffer.nbytes:,} bytes at {offset:,} were expected in it"
                raise CorruptError(f"{path} ends after {size:,} bytes; {wanted}")
            _fill(buffer.cast("B"), offset, read_some, path)
            offset += buffer.nbytes
    finally:
        os.close(descriptor)


def _fill(buffer: memoryview, offset: int, read_some: ReadSome, path: str) -> None:
    while len(buffer):
        count = read_some(buffer, offset)
        if count == 0:
            raise CorruptError(f"{path} ends at byte {offset:,}, before all that was expected in it was read")
        offset += count
        buffer = buffer[count:]


def _cached_reader(descriptor: int) -> ReadSome:
    return lambda buffer, offset: platform.read_some(descriptor, buffer, offset)


class DirectReader:
    """Reads an open file past the page cache into memory of any alignment, by way of a window that is aligned.

    Those of one thread share its window: it can use one of them at a time.
    """

    def __init__(self, descriptor: int) -> None:
        platform.set_direct(descriptor, True)
        self._descriptor = descriptor
        self._window = _window_of_thread()
        self._begin = self._end = 0

    def read_some(self, buffer: memoryview, offset: int) -> int:
        """See `ReadSome`."""
        if not self._begin <= offset < self._end:
            self._begin = self._end = offset - offset % ALIGNMENT
            # A read may end before what is wanted, and only one of nothing says that the file does.
            while self._end <= offset and (count := self._read_on()):
                self._end += count
        count = max(0, min(len(buffer), self._end - offset))
        place = offset - self._begin
        buffer[:count] = self._window[place : place + count]
        return count

    def _read_on(self) -> int:
        return read_aligned(self._descriptor, self._window[self._end - self._begin :], self._end)


def read_aligned(descriptor: int, buffer: memoryview, offset: int) -> int:
    """Like `platform.read_some`. A file whose direct read is refused is read through the page cache from there on."""
    try:
        return platform.read_some(descriptor, buffer, offset)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    platform.set_direct(descriptor, False)
    return platform.read_some(descriptor, buffer, offset)


def _window_of_thread() -> memoryview:
    """One for all files that the thread reads: fresh memory for each would cost what shows."""
    if not hasattr(_own, "window"):
        _own.window = platform.contiguous_memory(_WINDOW)
    return memoryview(_own.window)


def _forget_windows() -> None:
    """In a forked child: the memory stays with the parent, where a read may be on its way into it."""
    global _own
    _own = threading.local()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_windows)
