"""What `benchmarks/behind.py` has measured on CUDA devices: in its file, and as a table."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path

import msgspec

from suite.summary import Spread
from suite.tables import Table, spread_text


class Behind(msgspec.Struct, frozen=True, kw_only=True):
    """One run: of each save ``stall`` and ``longer`` in seconds, ``copy`` and ``pinned`` in bytes a second."""

    command: str
    date: str
    device: str
    torch: str
    step: list[float]
    stall: list[float]
    longer: list[float]
    copy: list[float]
    pinned: list[float]


def read(path: Path) -> list[Behind]:
    """What is stored; nothing, if nothing is."""
    return msgspec.json.decode(path.read_bytes(), type=list[Behind]) if path.exists() else []


def add(found: Behind, path: Path) -> None:
    """Takes the place of what the same command has measured before."""
    kept = [one for one in read(path) if one.command != found.command]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode([*kept, found]), indent=1) + b"\n")


def table(found: list[Behind]) -> Table:
    headers = ["", "a step", "stall", "stall / step", "the next step is longer by", "copy", "copy / pinned copy"]
    return Table(headers, [_row(one) for one in found])


def _row(one: Behind) -> list[str]:
    return [
        f"`{one.command}`: {one.device}, torch {one.torch}, {one.date}",
        _text(one.step, _milliseconds),
        _text(one.stall, _milliseconds),
        f"{statistics.median(one.stall) / statistics.median(one.step):.4f}",
        _text(one.longer, _milliseconds),
        _text(one.copy, _speed),
        f"{statistics.median(one.copy) / statistics.median(one.pinned):.3f}",
    ]


def _text(values: list[float], shown: Callable[[float], str]) -> str:
    return spread_text(Spread(statistics.median(values), min(values), max(values)), shown)


def _milliseconds(seconds: float) -> str:
    """A difference of two may be less than nothing.

    >>> _milliseconds(0.2), _milliseconds(-0.00002)
    ('200.00 ms', '-0.02 ms')
    """
    return f"{1e3 * seconds:.2f} ms"


def _speed(value: float) -> str:
    return f"{value / 1e9:.1f} GB/s"
