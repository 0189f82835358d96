"""A keyed order of whole numbers, in which any position is found without the others."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from holdfast.data.keys import hashes, key
from holdfast.errors import UsageError

LARGEST = 1 << 62
"""The most numbers that can be put into an order: either half of a position has 31 bits."""

_PURPOSE = "holdfast.data.Permutation 1"
_SMALL = 1 << 12
"""Up to so many numbers the order is made as a table, in which every order is as likely as any other."""
_ROUNDS = 8
_BLOCK = 1 << 14
"""Positions at a time: what is computed on the way stays in a cache of the processor."""

Indices = NDArray[np.int64]
_Words = NDArray[np.uint32]


class Permutation:
    """A pseudorandom order of ``range(length)``, one for each ``seed`` and ``epoch``.

    Called with an array of positions it returns the numbers that stand there, as int64, in a time and a memory that
    depend on how many positions are asked for only. Every number stands at exactly one position, and the order is the
    same on every machine and with every version of NumPy.

    It is a Feistel network over the two digits of a position in bases whose product is just above ``length``; a result
    that is not below ``length`` is put in again (Black and Rogaway, «Ciphers with Arbitrary Finite Domains», 2002, the
    generalized Feistel cipher with cycle walking). Its round function is a hash of 32 bits, so it hides nothing from an
    adversary. Short orders are sorted by 64-bit hashes instead.

    Raises `UsageError` for a length that is not from 0 to 2**62.

    >>> order = Permutation(10**10, seed=0, epoch=3)
    >>> order([0, 1, 2, 10**9]).tolist()
    [7486572160, 1426389207, 4691595478, 4186332523]
    >>> sorted(Permutation(5, seed=0)(range(5)).tolist())
    [0, 1, 2, 3, 4]
    """

    def __init__(self, length: int, seed: int = 0, epoch: int = 0) -> None:
        if not 0 <= length <= LARGEST:
            raise UsageError(f"an order of {length} numbers: expected from 0 to 2**62 of them.")
        self.length = length
        words = np.frombuffer(key(_PURPOSE, length, seed, epoch, size=8 * _ROUNDS), "<u4").astype(np.uint32)
        self._keys = words.reshape(_ROUNDS, 2)
        self._bases = _bases(length)
        self._table = _table(length, words) if length <= _SMALL else None

    def __len__(self) -> int:
        return self.length

    def __call__(self, positions: ArrayLike) -> Indices:
        """The numbers at these positions. Raises `UsageError` for a position that there is not."""
        asked = np.asarray(positions, np.int64)
        if asked.size and not (asked.min() >= 0 and asked.max() < self.length):
            raise UsageError(f"an order of {self.length} numbers has no position {_outside(asked, self.length)}.")
        if self._table is not None:
            return self._table[asked]
        flat = asked.reshape(-1)
        found = np.empty_like(flat)
        for begin in range(0, flat.size, _BLOCK):
            found[begin : begin + _BLOCK] = self._walked(flat[begin : begin + _BLOCK])
        return found.reshape(asked.shape)

    def _walked(self, positions: Indices) -> Indices:
        found = self._permuted(positions)
        while (outside := np.flatnonzero(found >= self.length)).size:
            found[outside] = self._permuted(found[outside])
        return found

    def _permuted(self, positions: Indices) -> Indices:
        """A permutation of the numbers below the product of both bases."""
        upper, lower = self._bases
        high = positions // lower
        left, right = high.astype(np.uint32), (positions - high * lower).astype(np.uint32)
        for number in range(0, _ROUNDS, 2):
            left = _sum(left, _hash(right, self._keys[number], upper), upper)
            right = _sum(right, _hash(left, self._keys[number + 1], lower), lower)
        return left.astype(np.int64) * lower + right


def _bases(length: int) -> tuple[int, int]:
    """Two numbers, as near to each other as can be, whose product is not below ``length``.

    >>> _bases(10), _bases(16), _bases(10**10)
    ((4, 3), (4, 4), (100000, 100000))
    """
    upper = math.isqrt(max(length, 1) - 1) + 1
    return upper, -(-max(length, 1) // upper)


def _table(length: int, words: _Words) -> Indices:
    start = int(words[0]) << 32 | int(words[1])
    return np.argsort(hashes(start, np.arange(length, dtype=np.int64)), kind="stable").astype(np.int64)


def _hash(digits: _Words, keys: _Words, base: int) -> _Words:
    """Numbers below ``base``: a keyed hash of ``digits``, with the multipliers of Wellons's «lowbias32»."""
    mixed = digits + keys[0]
    mixed ^= mixed >> np.uint32(16)
    mixed *= np.uint32(0x7FEB352D)
    mixed ^= mixed >> np.uint32(15)
    mixed += keys[1]
    mixed *= np.uint32(0x846CA68B)
    mixed ^= mixed >> np.uint32(16)
    wide = mixed.astype(np.uint64)
    wide *= np.uint64(base)
    wide >>= np.uint64(32)
    found: _Words = wide.astype(np.uint32)
    return found


def _sum(digits: _Words, others: _Words, base: int) -> _Words:
    """The sum modulo ``base`` of what is below it: where nothing is to be taken away, that leaves a huge number."""
    total = digits + others
    found: _Words = np.minimum(total, total - np.uint32(base))
    return found


def _outside(positions: Indices, length: int) -> int:
    return int(positions[(positions < 0) | (positions >= length)][0])
