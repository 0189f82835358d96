"""Whether a try may still act."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from holdfast.errors import UsageError
from holdfast.storage.paths import MANIFEST_FILE, check_name


class TryState:
    """Open until the try called ``where`` commits, is abandoned, or fails once.

    >>> state = TryState("step-00000500.a0001.n0003.partial-7f3a")
    >>> state.end("is committed")
    >>> with state.acting():
    ...     pass
    Traceback (most recent call last):
    holdfast.errors.UsageError: the try step-00000500.a0001.n0003.partial-7f3a is committed: begin another one
    """

    def __init__(self, where: str) -> None:
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


def check_shard_name(file: str) -> None:
    """Refuses what cannot be a shard: no plain name, or the manifest's."""
    check_name(file)
    if file == MANIFEST_FILE:
        raise UsageError(f"{MANIFEST_FILE} is written by commit, not as a shard")
