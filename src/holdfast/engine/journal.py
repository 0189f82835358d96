"""The attempt's flight recorder: one JSON object a line, one write a boundary, so that SIGKILL loses nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from holdfast.errors import NotFoundError
from holdfast.storage.base import Storage

_decoder = msgspec.json.Decoder()
_encoder = msgspec.json.Encoder()
READ_LIMIT = 4 << 30


def journal_path(attempt: int) -> str:
    """
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
        """Hands all lines to the kernel, which keeps them whatever happens to this process."""
        if self._lines:
            data = b"\n".join((*self._lines, b""))
            self._lines.clear()
            self._appender.write(data)

    def close(self) -> None:
        self.flush()
        self._appender.close()


def read_journal(storage: Storage, attempt: int) -> Iterator[dict[str, Any]]:
    """The lines of an attempt. A line that a power cut left half there ends the reading, as does a missing file."""
    try:
        data = storage.read(journal_path(attempt), limit=READ_LIMIT)
    except NotFoundError:
        return
    for line in data.splitlines():
        try:
            record = _decoder.decode(line)
        except msgspec.DecodeError:
            return
        if isinstance(record, dict):
            yield record
