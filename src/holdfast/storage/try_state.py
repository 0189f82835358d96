"""Whether a try may still act."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from holdfast.errors import UsageError
from holdfast.storage.paths import MANIFEST_FILE, check_name

BLOCK_MULTIPLE = 4096


class TryState:
    """Open until the try called ``where`` commits, is abandoned, or fails once.

    ``sizes`` are the bytes that were announced for each file that was written, ``reserved`` files that were not yet.

    >>> state = TryState("step-00000500.a0001.n0003.partial-7f3a")
    >>> state.end("is committed")
    >>> with state.acting():
    ...     pass
    Traceback (most recent call last):
    holdfast.errors.UsageError: the try step-00000500.a0001.n0003.partial-7f3a is committed: begin another one
    """

    def __init__(self, where: str) -> None:
        self.sizes: dict[str, int] = {}
        self.reserved: set[str] = set()
        self._where = where
        self._over: str | None = None

    def end(self, how: str) -> None:
        """No more acts. The first reason given stays."""
        self._over = self._over or how

    @contextmanager
    def acting(self) -> Iterator[None]:
        """What fails in here is the try's last act: its files may have lost bytes that nothing reports twice."""
        if self._over is not None:
            raise UsageError(f"the try {self._where} {self._over}: begin another one")
        try:
            yield
        except BaseException:
            self.end("has failed")
            raise

    def acting_by_block(self, blocks: Iterator[memoryview]) -> Iterator[memoryview]:
        """``blocks``, each an act of its own: one that fails ends the try, a caller that stops early does not."""
        while True:
            with self.acting():
                block = next(blocks, None)
            if block is None:
                return
            yield block

    def wrote(self, file: str, size: int) -> None:
        """All of ``file`` was written."""
        self.sizes[file] = size
        self.reserved.discard(file)

    def require_written(self) -> None:
        """Raises `UsageError` if a file is still reserved: it would stand for bytes that never came."""
        if self.reserved:
            raise UsageError(f"{', '.join(self.reserved)} was reserved in {self._where} and never written")

    def size_of(self, file: str) -> int:
        """The bytes that were announced for ``file``. Raises `UsageError` if it was not written."""
        try:
            return self.sizes[file]
        except KeyError:
            raise UsageError(f"the try {self._where} has written no {file}: only what it wrote is read back") from None


def check_shard_name(file: str) -> None:
    """Refuses what cannot be a shard: no plain name, or the manifest's."""
    check_name(file)
    if file == MANIFEST_FILE:
        raise UsageError(f"{MANIFEST_FILE} is written by commit, not as a shard")


def check_block_size(block_size: int) -> None:
    """Refuses blocks that do not begin where O_DIRECT can read."""
    if block_size <= 0 or block_size % BLOCK_MULTIPLE:
        raise UsageError(f"a block size of {block_size:,} bytes: expected a positive multiple of {BLOCK_MULTIPLE:,}")
