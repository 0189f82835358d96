"""Tables that stay readable where there is little room: the least important columns go first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from rich.table import Table
from rich.text import Text

from holdfast.wording import printable

GAP = 2
"""Spaces between columns."""
SHORTEST = {"": 0, "ellipsis": 24, "fold": 40}
"""What stays of an elastic column in any case; names are folded, and hard to read then."""


@dataclass(frozen=True, slots=True)
class Column:
    """A header and its cells. Columns of ``rank`` 0 always stay; of the others, those of the highest rank go first.

    Where even that is too wide, an ``elastic`` column is shortened, or folded, down to `SHORTEST`.
    """

    header: str
    cells: Sequence[Text]
    right: bool = False
    rank: int = 0
    elastic: Literal["", "ellipsis", "fold"] = ""

    @property
    def width(self) -> int:
        return max(cell.cell_len for cell in (Text(self.header), *self.cells))

    @property
    def least(self) -> int:
        return min(self.width, SHORTEST[self.elastic]) if self.elastic else self.width


def text(value: object, style: str = "") -> Text:
    """A cell. What a checkpoint says reaches the terminal only through here, as text and nothing else."""
    return Text(printable(str(value)).replace("\n", " "), style=style)


def column(
    header: str,
    values: Iterable[object],
    *,
    right: bool = False,
    rank: int = 0,
    elastic: Literal["", "ellipsis", "fold"] = "",
) -> Column:
    cells = [one if isinstance(one, Text) else text(one) for one in values]
    return Column(printable(header), cells, right, rank, elastic)


def fitting(columns: Sequence[Column], room: int) -> tuple[list[Column], list[str]]:
    """The columns for which there is ``room``, and the headers of those left out."""
    shown, left_out = list(columns), list[Column]()
    while _total(shown) > room and any(one.rank for one in shown):
        last = max(reversed(shown), key=lambda one: one.rank)
        shown.remove(last)
        left_out.insert(0, last)
    return shown, [one.header for one in columns if one in left_out]


def _total(columns: Sequence[Column]) -> int:
    return sum(one.least for one in columns) + GAP * (len(columns) - 1)


def table(columns: Sequence[Column], room: int) -> Table:
    """The columns side by side, headers dim, nothing drawn between them."""
    made = Table(box=None, padding=(0, GAP, 0, 0), pad_edge=False, header_style="dim")
    for one, width in zip(columns, _widths(columns, room), strict=True):
        made.add_column(
            Text(one.header),
            justify="right" if one.right else "left",
            width=width,
            no_wrap=one.elastic != "fold",
            overflow=one.elastic or "ellipsis",
        )
    for row in zip(*(one.cells for one in columns), strict=True):
        made.add_row(*row)
    return made


def _widths(columns: Sequence[Column], room: int) -> Iterator[int]:
    """What is left of ``room`` goes to the elastic columns, first come, first served."""
    spare = max(0, room - _total(columns))
    for one in columns:
        more = min(spare, one.width - one.least)
        spare -= more
        yield one.least + more


def pairs(rows: Iterable[tuple[str, object]]) -> Table:
    """Labels and what belongs to them, the latter wrapped where it is long."""
    made = Table(box=None, padding=(0, GAP, 0, 0), pad_edge=False, show_header=False)
    made.add_column(style="dim", min_width=14, overflow="fold")
    made.add_column(overflow="fold")
    for label, value in rows:
        made.add_row(text(label), value if isinstance(value, Text) else text(value))
    return made


def marked(mark: str, style: str, lines: Iterable[object]) -> Table:
    """Lines behind a mark, so that long ones stay clear of it."""
    made = Table.grid(padding=(0, 1, 0, 0))
    for index, line in enumerate(lines):
        made.add_row(Text(mark if index == 0 else "", style=style), line if isinstance(line, Text) else text(line))
    return made
