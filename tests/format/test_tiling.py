"""Chunks cover a tensor exactly once, or the problem is named."""

import itertools
import math

from hypothesis import given
from hypothesis import strategies as st

from holdfast.format.tiling import MAX_SPLIT_DIMENSIONS, tiling_problem


def cut(draw, offsets, sizes, times):
    """A random tiling: the box is cut in two, again and again."""
    axes = [axis for axis, size in enumerate(sizes) if size > 1]
    if not axes or times == 0:
        return [(tuple(offsets), tuple(sizes))]
    axis = draw(st.sampled_from(axes))
    at = draw(st.integers(1, sizes[axis] - 1))
    low, high, start = list(sizes), list(sizes), list(offsets)
    low[axis], high[axis], start[axis] = at, sizes[axis] - at, offsets[axis] + at
    return cut(draw, offsets, low, times - 1) + cut(draw, start, high, times - 1)


@st.composite
def tilings(draw):
    shape = draw(st.lists(st.integers(1, 6), max_size=4))
    return tuple(shape), draw(st.permutations(cut(draw, [0] * len(shape), shape, 3)))


@given(tilings())
def test_every_tiling_is_accepted(tiling):
    """However a tensor was cut, its chunks cover it."""
    assert tiling_problem(*tiling) is None


@given(tilings(), st.data())
def test_a_missing_repeated_or_moved_chunk_is_refused(tiling, data):
    """A tiling with one chunk gone, twice, or elsewhere does not cover the tensor exactly once."""
    shape, boxes = tiling
    index = data.draw(st.integers(0, len(boxes) - 1))
    assert tiling_problem(shape, [box for at, box in enumerate(boxes) if at != index]) is not None
    assert tiling_problem(shape, [*boxes, boxes[index]]) is not None
    (offsets, sizes), axes = boxes[index], range(len(shape))
    for axis in axes:
        moved = tuple(offset + (at == axis) for at, offset in enumerate(offsets))
        assert tiling_problem(shape, [*boxes[:index], (moved, sizes), *boxes[index + 1 :]]) is not None


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(1, 4), st.integers(1, 4)), max_size=6))
def test_the_answer_is_that_of_counting_elements(numbers):
    """For any boxes the answer agrees with counting how often each element is covered."""
    shape = (4, 4)
    boxes = [((a, b), (c, d)) for a, b, c, d in numbers]
    covered = [
        cell for (a, b), (c, d) in boxes for cell in itertools.product(range(a, a + c), range(b, b + d))
    ]  # fmt: skip
    exact = sorted(covered) == sorted(itertools.product(range(4), range(4)))
    assert (tiling_problem(shape, boxes) is None) == exact


def test_a_tiling_that_no_straight_cut_makes_is_accepted():
    """The pinwheel covers its square, though no line runs through it."""
    pinwheel = [((0, 0), (1, 2)), ((0, 2), (2, 1)), ((2, 1), (1, 2)), ((1, 0), (2, 1)), ((1, 1), (1, 1))]
    assert tiling_problem((3, 3), pinwheel) is None


def test_scalars_have_one_chunk():
    """A 0-d tensor needs exactly one chunk."""
    assert tiling_problem((), [((), ())]) is None
    assert tiling_problem((), []) is not None
    assert tiling_problem((), [((), ()), ((), ())]) is not None


def test_empty_tensors_need_no_chunk_and_allow_empty_ones():
    """Nothing has to be covered where there is nothing; chunks still lie inside."""
    assert tiling_problem((0, 3), []) is None
    assert tiling_problem((0, 3), [((0, 0), (0, 3))]) is None
    assert "not inside" in tiling_problem((0, 3), [((0, 0), (0, 4))])
    assert "is empty" in tiling_problem((2, 3), [((0, 0), (2, 3)), ((0, 0), (0, 3))])


def test_ten_thousand_chunks_are_checked_without_comparing_all_pairs():
    """The work grows with the chunks, not with their square."""
    side = 100
    boxes = [((row, column), (1, 1)) for row in range(side) for column in range(side)]
    assert tiling_problem((side, side), boxes) is None
    assert tiling_problem((side, side), boxes[:-1]) is not None


def test_absurd_numbers_are_refused_and_cost_nothing():
    """Terabyte sizes, huge integers and too many split dimensions are answered at once."""
    huge = 10**4000
    assert "not inside" in tiling_problem((huge,), [((1,), (huge,))])
    assert tiling_problem((huge, 2), [((0, 0), (huge, 1)), ((0, 1), (huge, 1))]) is None
    dimensions = MAX_SPLIT_DIMENSIONS + 1
    boxes = [(tuple(corner), (1,) * dimensions) for corner in itertools.product((0, 1), repeat=dimensions)]
    assert len(boxes) == math.prod((2,) * dimensions)
    assert "split along 9 dimensions" in tiling_problem((2,) * dimensions, boxes)
    assert "1 offsets and 1 sizes in 2" in tiling_problem((2, 2), [((0,), (2,))])
