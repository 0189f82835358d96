"""The text of a configuration, and the places in it."""

from __future__ import annotations

import os
import re
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, field

from holdfast.errors import NotFoundError, UsageError

MAX_BYTES = 256 << 10
"""The largest configuration that is read: the parsers are slow, and a file of this size is some other file."""


class ConfigText:
    r"""What a file says, under the name by which errors call it.

    >>> text = ConfigText("holdfast.toml", 'folder = "runs/digits"\nkep = "all"\n')
    >>> text.line(23)
    2
    >>> str(text.error(23, "what is this?"))
    'holdfast.toml, line 2, column 1: what is this?'
    """

    def __init__(self, source: str, text: str) -> None:
        self.source = source
        self.text = text
        self._newlines = [match.start() for match in re.finditer("\n", text)]

    def line(self, offset: int) -> int:
        """The line of the character at ``offset``, counted from 1."""
        return bisect_left(self._newlines, offset) + 1

    def error(self, offset: int, message: str) -> UsageError:
        """A `UsageError` that points at ``offset``."""
        column = offset - self.text.rfind("\n", 0, offset)
        return UsageError(f"{self.source}, line {self.line(offset)}, column {column}: {message}")

    def repeated(self, key: str, first: int, second: int) -> UsageError:
        """A `UsageError` that names both lines of a key that is given twice."""
        return UsageError(f"{self.source}, line {second}: the key {key!r} stands on line {first} already.")


@dataclass(slots=True)
class Place:
    """The line that something stands on, and the places of what is in it, by key or by index.

    An entry of a table stands where its key does, an element of a list where it begins.

    >>> Place(1, {"save": Place(2, {0: Place(3)})}).at(["save", 0])
    Place(line=3, inner={})
    """

    line: int
    inner: dict[str | int, Place] = field(default_factory=dict)

    def at(self, path: Iterable[str | int]) -> Place | None:
        """The place at the end of ``path``, or None where nothing was written."""
        place: Place | None = self
        for part in path:
            place = place.inner.get(part) if place is not None else None
        return place


def read_text(path: str | os.PathLike[str]) -> ConfigText:
    """The text of a file. Raises `NotFoundError`, and `UsageError` if it is too large, no UTF-8 or cannot be read."""
    source = os.path.expanduser(os.fspath(path))
    data = _read(source)
    if len(data) > MAX_BYTES:
        raise UsageError(f"{source}: is larger than {MAX_BYTES >> 10} KiB: it cannot be a configuration of holdfast.")
    try:
        # Some editors begin UTF-8 with a byte order mark, which no parser but YAML's takes.
        return ConfigText(source, data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UsageError(f"{source}, line {line}: is no UTF-8: {error.reason}. Save the file as UTF-8.") from None


def _read(source: str) -> bytes:
    """The bytes of a file, of a too large one a byte more than is allowed."""
    try:
        with open(source, "rb") as file:
            return file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise NotFoundError(f"{source}: there is no such file, so no configuration was read.") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{source}: the configuration cannot be read: {error}.") from error
