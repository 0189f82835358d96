"""Where the commands' words go: a terminal, a pipe, or a program that reads JSON."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any

from holdfast.errors import HoldfastError
from holdfast.wording import printable

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

_PIPE_WIDTH = 100_000
"""Columns in a pipe, where nothing needs to fit a screen: no name is cut before `grep` sees it."""


class PipeClosed(Exception):
    """The reader of standard output went away. Not an `OSError`, which typer would end the process for."""


def console() -> Console:
    """Standard output, with colour only on a terminal. ``COLUMNS`` and ``NO_COLOR`` are respected."""
    from rich.console import Console

    wide = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return Console(width=_PIPE_WIDTH if wide else None, highlight=False, markup=False, emoji=False)


def print_all(target: Console, *parts: RenderableType) -> None:
    """Prints ``parts`` below each other, without the blanks that fill a table's last column. Raises `PipeClosed`."""
    with target.capture() as captured:
        for part in parts:
            target.print(part)
    _write("\n".join(line.rstrip(" ") for line in captured.get().split("\n")))


def print_json(value: Any) -> None:
    """Prints ``value`` as JSON, all of it ASCII. Raises `PipeClosed`."""
    _write(json.dumps(value, indent=2, allow_nan=False) + "\n")


def _write(words: str) -> None:
    try:
        sys.stdout.write(words)
        sys.stdout.flush()
    except BrokenPipeError as error:
        raise PipeClosed from error


def print_outcome(as_json: bool, record: Any, words: str) -> None:
    """What a command did, for programs or in one line."""
    if as_json:
        print_json(record)
    else:
        _write(f"{printable(words)}\n")


def print_error(error: HoldfastError, as_json: bool) -> None:
    """``{"error": {"kind", "message"}}`` on standard output, or words on standard error."""
    if as_json:
        print_json({"error": describe(error)})
    else:
        print(f"holdfast: {printable(message_of(error))}", file=sys.stderr)


def describe(error: HoldfastError) -> dict[str, str]:
    return {"kind": error.kind, "message": message_of(error)}


def message_of(error: HoldfastError) -> str:
    """What happened, without the number of the system's error in front, which the words say already."""
    strerror = getattr(error, "strerror", None)
    return str(strerror) if strerror else str(error)
