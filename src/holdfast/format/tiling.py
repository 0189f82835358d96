"""Whether chunks tile a tensor: every element in exactly one of them."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence

MAX_SPLIT_DIMENSIONS = 8
"""Along how many dimensions one tensor may be split. Bounds the work that a hostile manifest can ask for."""

Box = tuple[tuple[int, ...], tuple[int, ...]]
"""Offsets and sizes, one number per dimension each."""


def tiling_problem(shape: tuple[int, ...], boxes: Sequence[Box]) -> str | None:
    """What keeps the boxes from covering ``shape`` exactly once, or None if they do.

    >>> tiling_problem((4, 6), [((0, 0), (4, 2)), ((0, 2), (4, 4))]) is None
    True
    >>> tiling_problem((4, 6), [((0, 0), (4, 2)), ((0, 1), (4, 5))])
    'its chunks overlap or leave a hole'
    """
    if len(boxes) == 1 and boxes[0] == ((0,) * len(shape), shape):
        return None
    for offsets, sizes in boxes:
        problem = _box_problem(shape, offsets, sizes)
        if problem is not None:
            return problem
    return None if 0 in shape else _cover_problem(shape, boxes)


def _box_problem(shape: tuple[int, ...], offsets: tuple[int, ...], sizes: tuple[int, ...]) -> str | None:
    if not len(offsets) == len(sizes) == len(shape):
        return f"a chunk has {len(offsets)} offsets and {len(sizes)} sizes in {len(shape)} dimensions"
    for offset, size, length in zip(offsets, sizes, shape, strict=True):
        if offset < 0 or size < 0 or offset + size > length:
            return f"a chunk of sizes {sizes} at {offsets} is not inside shape {shape}"
        if size == 0 and 0 not in shape:
            return f"a chunk of sizes {sizes} at {offsets} is empty"
    return None


def _cover_problem(shape: tuple[int, ...], boxes: Sequence[Box]) -> str | None:
    split = [axis for axis in range(len(shape)) if any(sizes[axis] != shape[axis] for _, sizes in boxes)]
    if len(split) > MAX_SPLIT_DIMENSIONS:
        return f"it is split along {len(split)} dimensions, at most {MAX_SPLIT_DIMENSIONS} are allowed"
    # The mixed derivative of an indicator of boxes is its signed corners. Zero everywhere means that the
    # chunks cover what the tensor covers, as often: exact, and linear in the number of chunks.
    corners: Counter[tuple[int, ...]] = Counter()
    for offsets, sizes in boxes:
        _add_corners(corners, [(offsets[axis], offsets[axis] + sizes[axis]) for axis in split], 1)
    _add_corners(corners, [(0, shape[axis]) for axis in split], -1)
    return "its chunks overlap or leave a hole" if any(corners.values()) else None


def _add_corners(corners: Counter[tuple[int, ...]], sides: list[tuple[int, int]], weight: int) -> None:
    for upper in itertools.product((False, True), repeat=len(sides)):
        corner = tuple(side[at] for side, at in zip(sides, upper, strict=True))
        corners[corner] += weight * (-1) ** sum(upper)
