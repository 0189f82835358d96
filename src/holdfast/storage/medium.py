"""Reading one file back as the medium holds it, past the page cache where the file system takes that."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator

from holdfast.storage import platform
from holdfast.storage.failures import reported, wrong_size
from holdfast.storage.reading import read_aligned


def read_medium(path: str, size: int, block_size: int) -> Iterator[memoryview]:
    """The first ``size`` bytes of the durable file ``path``; see `Try.read_back`."""
    with reported("read back", path):
        descriptor = os.open(path, platform.READ)
        try:
            # In any case: some file systems take O_DIRECT and answer from the page cache all the same.
            platform.drop_cached(descriptor)
            platform.set_direct(descriptor, True)
            # A mapping begins on a page, as O_DIRECT wants it.
            buffer = memoryview(mmap.mmap(-1, block_size))
            for begin in range(0, size, block_size):
                needed = min(block_size, size - begin)
                found = _fill(descriptor, buffer, begin, needed)
                if found < needed:
                    raise wrong_size(path, begin + found, size)
                yield buffer[:needed]
        finally:
            os.close(descriptor)


def _fill(descriptor: int, buffer: memoryview, offset: int, needed: int) -> int:
    """Reads at least ``needed`` bytes, unless the file ends before; how many were read."""
    done = 0
    while done < needed:
        count = read_aligned(descriptor, buffer[done:], offset + done)
        if count == 0:
            break
        done += count
    return done
