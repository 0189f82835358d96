"""The attempt's flight recorder: one JSON object a line, one write a boundary, so that SIGKILL loses nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from holdfast.errors import NotFoundError, StorageError
from holdfast.storage.base import Storage

_decoder = msgspec.json.Decoder()
_encoder = msgspec.json.Encoder()
READ_LIMIT = 4 << 30
_BACKLOG = 10_000
"""Lines kept while the storage takes none."""


def journal_path(attempt: int) -> str:
    """The journal of an attempt.

    >>> journal_path(1)
    'journal/0001.jsonl'
    """
    return f"journal/{attempt:04d}.jsonl"


class Journal:
    """Appends lines to ``journal/<attempt>.jsonl``; they are collected and written by `flush`, in one call."""

    def __init__(self, storage: Storage, attempt: int) -> None:
        self._appender = storage.append(journal_path(attempt))
        self._lines: list[bytes] = []

    def add(self, kind: str, **fields: Any) -> None:
        """One line: ``{"t": kind, **fields}``; fields are plain JSON values."""
        self._lines.append(_encoder.encode({"t": kind, **fields}))

    def flush(self) -> None:
        """Hands all lines to the kernel, which keeps them whatever happens to this process.

        Raises `StorageError` if they are refused; the next flush tries them again.
        """
        if not self._lines:
            return
        try:
            self._appender.write(b"\n".join((*self._lines, b"")))
        except StorageError:
            del self._lines[:-_BACKLOG]
            raise
        self._lines.clear()

    def close(self) -> None:
        """Closes the file; what was not flushed is lost."""
        self._appender.close()


def read_journal(storage: Storage, attempt: int, *, start: int = 0) -> Iterator[dict[str, Any]]:
    """The lines of an attempt, those from byte ``start`` on; none if it has no journal.

    A line that is half there, after a power cut, is skipped.
    """
    for line in _read(storage, journal_path(attempt), start).splitlines():
        try:
            record = _decoder.decode(line)
        except msgspec.DecodeError:
            continue
        if isinstance(record, dict):
            yield record


def _read(storage: Storage, path: str, start: int) -> bytes:
    try:
        if not start:
            return storage.read(path, limit=READ_LIMIT)
        data = bytearray(max(storage.size(path) - start, 0))
        storage.read_into(path, start, [memoryview(data)])
        return bytes(data)
    except NotFoundError:
        return b""
