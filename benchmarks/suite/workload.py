"""What is trained: which tensors a save has to deal with, and how many bytes of them change between two saves."""

from __future__ import annotations

import msgspec

DENSE, TINY, PARTIAL = "dense", "tiny", "partial"
WORKLOADS = (DENSE, TINY, PARTIAL)
"""All of the state changes; it is in very many tensors; hardly any of it changes."""


class Workload(msgspec.Struct, frozen=True, kw_only=True):
    """``size``: bytes of `dense`'s whole state and of `partial`'s frozen parameters. ``tensors``: of `tiny`."""

    name: str
    size: int
    tensors: int
    device: str = "cpu"

    @property
    def title(self) -> str:
        return {
            DENSE: "a dense model: every parameter is trained",
            TINY: f"{self.tensors:,} tiny tensors",
            PARTIAL: "1 % of the parameters are trained, the others frozen",
        }[self.name]


def parse_size(text: str) -> int:
    """Bytes, of a number with a binary unit.

    >>> parse_size("2GiB"), parse_size("32 MiB")
    (2147483648, 33554432)
    """
    units = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
    number, unit = text.strip()[:-3], text.strip()[-3:]
    if unit not in units or not number.strip().replace(".", "", 1).isdigit():
        raise ValueError(f"{text!r} is no size. Give a number and KiB, MiB or GiB, as in 2GiB.")
    return int(float(number) * units[unit])


def size_text(size: int) -> str:
    """The same as text, in the largest unit that fits.

    >>> size_text(2147483648), size_text(1572864)
    ('2GiB', '1536KiB')
    """
    power = next(power for power in (30, 20, 10, 0) if size % (1 << power) == 0)
    return f"{size >> power}{ {30: 'GiB', 20: 'MiB', 10: 'KiB', 0: 'B'}[power] }"
