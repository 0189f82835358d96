"""Where the elements of a strided array lie in memory, whatever framework it is of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def extent(shape: Iterable[int], strides: Iterable[int]) -> tuple[int, int]:
    """From the first element, how far it is to the one that lies lowest and to the one that lies highest.

    In the unit of ``strides``; of an array that has elements.

    >>> extent((2, 3), (3, 1)), extent((4,), (-2,))
    ((0, 5), (-6, 0))
    """
    reaches = [(size - 1) * stride for size, stride in zip(shape, strides, strict=True)]
    return sum(one for one in reaches if one < 0), sum(one for one in reaches if one > 0)


def may_repeat(shape: Sequence[int], strides: Sequence[int], unit: int = 1) -> bool:
    """Whether one place in memory may be several elements, as in what was expanded. Sure of it only if it is not.

    ``unit`` is what one element takes, in that of ``strides``.

    >>> may_repeat((2, 3), (3, 1)), may_repeat((2, 3), (0, 1)), may_repeat((0, 3), (0, 1))
    (False, True, False)
    """
    if 0 in shape:
        return False
    behind = unit
    for stride, size in sorted((abs(stride), size) for stride, size in zip(strides, shape, strict=True)):
        if size > 1 and stride < behind:
            return True
        behind += (size - 1) * stride
    return False
