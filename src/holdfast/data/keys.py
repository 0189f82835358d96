"""Keys out of seeds: independent random bytes for each purpose, epoch and sample, the same on every machine."""

from __future__ import annotations

import struct

import blake3
import numpy as np
from numpy.typing import NDArray

_GAMMA = np.uint64(0x9E3779B97F4A7C15)


def key(purpose: str, *numbers: int, size: int = 32) -> bytes:
    """``size`` bytes of the BLAKE3 hash of ``purpose`` and ``numbers``, in decimal, with line feeds between them.

    >>> key("example", 0, 1, size=4).hex()
    '6d0f9992'
    """
    return blake3.blake3("\n".join((purpose, *map(str, numbers))).encode()).digest(length=size)


def number(purpose: str, *numbers: int) -> int:
    """A key as a whole number of 64 bits, read as little-endian."""
    return words(key(purpose, *numbers, size=8))[0]


def words(found: bytes) -> tuple[int, ...]:
    """The whole numbers of 64 bits that a key is made of.

    >>> words(bytes([1] + [0] * 7 + [2] + [0] * 7))
    (1, 2)
    """
    return struct.unpack(f"<{len(found) // 8}Q", found)


def hashes(start: int, positions: NDArray[np.int64]) -> NDArray[np.uint64]:
    """The outputs of SplitMix64 (Steele, Lea and Flood, 2014) begun at ``start``, at these places of its sequence.

    Those of different places differ, whatever ``start`` is.
    """
    mixed = positions.astype(np.uint64)
    mixed += np.uint64(1)
    mixed *= _GAMMA
    mixed += np.uint64(start)
    mixed ^= mixed >> np.uint64(30)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(27)
    mixed *= np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return mixed
