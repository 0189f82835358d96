"""Where the values of a TOML or JSON text stand, which their parsers do not tell."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from holdfast.run.config_text import ConfigText, Place

Decode = Callable[[str], str]
"""The text that a quoted key stands for."""

_STRING = "|".join((
    r'"""(?:\\.|[^\\])*?"""(?:"{0,2})', r"'''.*?'''(?:'{0,2})", r'"(?:\\.|[^"\\])*"', r"'[^']*'",
))  # fmt: skip
_SPACE = re.compile(r"(?:\s+|#[^\n]*)*")
_KEY = re.compile(rf"""{_STRING}|[^\s.=:,#\[\]{{}}"']+""", re.DOTALL)
_SCALAR = re.compile(rf"{_STRING}|[^,#\]}}\n]+", re.DOTALL)
_SEPARATOR = re.compile("[=:]")


class Scanner:
    r"""Walks over a text that its parser has accepted, so it looks only for what structures it, and validates nothing.

    What stands between the brackets of TOML and of JSON looks alike, but for ``=`` and ``:``. Both methods raise
    `LookupError` when they have lost their way, and `UsageError` for a key that is given twice in one table.

    >>> text = ConfigText("holdfast.toml", '[[saver]]\nsave = [\n  "at end",  # and else?\n  "on error",\n]\n')
    >>> Scanner(text, str).document().at(["saver", 0, "save", 1]).line
    4
    """

    def __init__(self, text: ConfigText, decode: Decode) -> None:
        self._source = text
        self._text = text.text
        self._decode = decode
        self._at = 0

    def document(self) -> Place:
        """The places of a TOML document."""
        root = table = Place(1)
        self._match(_SPACE)
        while self._at < len(self._text):
            if self._takes("["):
                table = self._header(root)
            else:
                self._entry(table)
        return root

    def value(self) -> Place:
        """The places of a JSON text."""
        self._match(_SPACE)
        root = Place(self._line())
        self._inside(root)
        return root

    def _header(self, root: Place) -> Place:
        """The table under ``[name]`` or, new, under ``[[name]]``."""
        is_list = self._takes("[")
        line = self._line()
        parent, name = self._name(root)
        place = parent.inner.setdefault(name, Place(line))
        self._require("]]" if is_list else "]")
        return _element(place, line) if is_list else place

    def _entry(self, table: Place) -> None:
        """A key and its value."""
        line = self._line()
        parent, name = self._name(table)
        if name in parent.inner:
            raise self._source.repeated(name, parent.inner[name].line, line)
        self._match(_SEPARATOR)
        self._inside(parent.inner.setdefault(name, Place(line)))

    def _inside(self, place: Place) -> None:
        """What is in the value that begins here."""
        if self._takes("["):
            while not self._takes("]"):
                self._inside(_element(place, self._line()))
                self._takes(",")
        elif self._takes("{"):
            while not self._takes("}"):
                self._entry(place)
                self._takes(",")
        else:
            self._match(_SCALAR)

    def _name(self, table: Place) -> tuple[Place, str]:
        """The last part of a key, and the table that the parts before it lead to."""
        line, name = self._line(), self._key()
        while self._takes("."):
            table = _newest(table.inner.setdefault(name, Place(line)))
            name = self._key()
        return table, name

    def _key(self) -> str:
        written = self._match(_KEY)
        return self._decode(written) if written[0] in "\"'" else written

    def _line(self) -> int:
        return self._source.line(self._at)

    def _takes(self, text: str) -> bool:
        """Whether ``text`` stands here; it and the space behind it are then passed."""
        found = self._text.startswith(text, self._at)
        if found:
            self._at += len(text)
            self._match(_SPACE)
        return found

    def _require(self, text: str) -> None:
        if not self._takes(text):
            raise LookupError(f"{text!r} was expected at {self._at}")

    def _match(self, pattern: re.Pattern[str]) -> str:
        """What ``pattern`` matches here; it and the space behind it are then passed."""
        match = pattern.match(self._text, self._at)
        if match is None:
            raise LookupError(f"{pattern.pattern!r} was expected at {self._at}")
        space = _SPACE.match(self._text, match.end())
        self._at = space.end() if space is not None else match.end()
        return match[0]


def _element(place: Place, line: int) -> Place:
    """A new element at the end of the list at ``place``."""
    return place.inner.setdefault(len(place.inner), Place(line))


def _newest(place: Place) -> Place:
    """TOML means the last element of a list of tables by the list's name."""
    return place.inner[len(place.inner) - 1] if 0 in place.inner else place


def fits(place: Place, values: Any) -> bool:
    """Whether there is a place for each value and no other."""
    inner = values if isinstance(values, dict) else dict(enumerate(values)) if isinstance(values, list) else {}
    return place.inner.keys() == inner.keys() and all(fits(place.inner[key], inner[key]) for key in inner)
