"""The bytes of a snapshot on their way through an arena that may be smaller than it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from holdfast.engine.filling import Filling

PIECE = 8


class Ring:
    """Who takes the bytes out: at the last moment, and only what it was told of."""

    def __init__(self, arena: bytearray, ring: int) -> None:
        self.arena, self.ring = arena, ring
        self.taken, self.end = bytearray(), 0

    def filled(self, end: int) -> None:
        assert end >= self.end
        self.end = end

    def await_drained(self, end: int) -> None:
        while len(self.taken) < end:
            assert len(self.taken) < self.end, "it would wait for ever"
            self.taken.append(self.arena[len(self.taken) % self.ring])

    def rest(self, end: int) -> bytes:
        self.end = end
        self.await_drained(end)
        return bytes(self.taken)


@given(sizes=st.lists(st.integers(0, 40), max_size=20), pieces=st.integers(2, 4))
def test_what_streams_through_a_ring_comes_out_as_it_went_in(sizes: list[int], pieces: int) -> None:
    """In order, nothing overwritten before it was taken, whatever the lengths."""
    ring = pieces * PIECE
    arena = bytearray(ring)
    reader = Ring(arena, ring)
    filling = Filling(memoryview(arena), reader, PIECE, ring)
    expected, position = b"", 0
    for number, size in enumerate(sizes):
        data = bytes((number * 7 + index) % 251 for index in range(size))

        def copy(destination: memoryview, begin: int, data: bytes = data) -> None:
            destination[:] = data[begin : begin + len(destination)]

        filling.put(position, position + size, copy)
        expected += data
        position += size
    assert reader.rest(position) == expected


def test_what_fits_lies_at_its_own_place_and_is_told_piece_by_piece() -> None:
    """So that it can be written meanwhile; nobody waits for that."""

    class Listener:
        def __init__(self) -> None:
            self.told: list[int] = []

        def filled(self, end: int) -> None:
            self.told.append(end)

        def await_drained(self, end: int) -> None:
            raise AssertionError("all of it fits")

    arena = bytearray(64)
    listener = Listener()
    filling = Filling(memoryview(arena), listener, PIECE)
    for begin, end in ((0, 5), (10, 40)):
        filling.put(begin, end, lambda destination, _: destination.__setitem__(slice(None), b"x" * len(destination)))
    assert arena == b"x" * 5 + bytes(5) + b"x" * 30 + bytes(24)
    assert listener.told == [0, 10, 16, 24, 32]
