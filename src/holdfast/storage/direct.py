"""Writing one file in one sequential stream, past the page cache where the file system takes that."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable

from holdfast.errors import UsageError
from holdfast.storage import platform


class FileWriter:
    """A file, new unless it was ``reserved``, filled front to back. ``direct``: writes still go past the page cache.

    Whether O_DIRECT works is found by trying: the rules on alignment differ by file system and kernel.
    The first block that is refused with EINVAL, and all after it, go through the page cache.
    """

    def __init__(self, path: str, *, direct: bool, reserved: bool = False) -> None:
        self._descriptor = os.open(path, platform.REOPEN if reserved else platform.CREATE, 0o666)
        self.written = 0
        self.direct = direct and platform.set_direct(self._descriptor, True)

    def reserve(self, size: int) -> None:
        """Sets room for ``size`` bytes aside, where the file system offers that. Raises `OSError` if there is none."""
        platform.reserve(self._descriptor, size)

    def write(self, block: memoryview, needed: int) -> None:
        """Writes ``block``, or at least its first ``needed`` bytes: what follows them is padding."""
        done = 0
        while done < needed:
            done += self._write_some(block[done:])
        self.written += done

    def _write_some(self, data: memoryview) -> int:
        if self.direct:
            try:
                return os.write(self._descriptor, data)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                platform.set_direct(self._descriptor, False)
                self.direct = False
        return os.write(self._descriptor, data)

    def finish(self, size: int) -> None:
        """Cuts the file to ``size`` bytes and makes it durable. Called once: a failed fsync is final."""
        if self.written > size:
            os.ftruncate(self._descriptor, size)
        platform.sync_file(self._descriptor)

    def close(self) -> None:
        """Closes the file, finished or not."""
        os.close(self._descriptor)


def write_file(
    path: str, blocks: Iterable[memoryview], size: int, *, direct: bool = True, reserved: bool = False
) -> None:  # fmt: skip
    """Makes the file ``path`` of ``size`` bytes out of ``blocks``, durably; see `Try.write`. It is new unless reserved.

    Raises `OSError` as the system does, and `UsageError` if the blocks hold fewer than ``size`` bytes.
    """
    writer = FileWriter(path, direct=direct, reserved=reserved)
    try:
        for block in blocks:
            data = block.cast("B")
            writer.write(data, min(len(data), size - writer.written))
        if writer.written < size:
            raise UsageError(f"the blocks for {path} hold {writer.written:,} bytes, {size:,} were announced")
        writer.finish(size)
    finally:
        writer.close()
