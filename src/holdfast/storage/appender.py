"""A file on a file system that only grows, such as a journal."""

from __future__ import annotations

import contextlib
import os

from holdfast.errors import UsageError
from holdfast.storage import platform
from holdfast.storage.failures import reported


class LocalAppender:
    """A file that only grows. Two processes that append to it do not tear each other's writes."""

    def __init__(self, path: str) -> None:
        self.path = path
        with reported("open", path):
            self._descriptor = os.open(path, platform.APPEND, 0o666)
        self._closed = False

    def write(self, data: bytes) -> None:
        """Appends all of ``data``, in one system call unless that falls short, or nothing."""
        if self._closed:
            raise UsageError(f"{self.path} is closed")
        view = memoryview(data)
        with reported("append to", self.path):
            try:
                while view:
                    view = view[os.write(self._descriptor, view) :]
            except OSError:
                self._take_back(len(data) - len(view))
                raise

    def _take_back(self, size: int) -> None:
        """Half a line would spoil the one that is appended after it."""
        with contextlib.suppress(OSError):
            os.ftruncate(self._descriptor, os.fstat(self._descriptor).st_size - size)

    def close(self) -> None:
        """Closes the file."""
        if not self._closed:
            self._closed = True
            os.close(self._descriptor)
