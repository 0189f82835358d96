"""What a save does in memory, measured."""

from __future__ import annotations

import itertools

import pytest

from holdfast.engine import memory_speed
from holdfast.engine.memory_speed import measure_memory

SIZE = 8 << 20


@pytest.fixture
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_speed, "allowed_memory", lambda: 8 * SIZE)


@pytest.mark.usefixtures("little_memory")
def test_copies_and_digests_are_measured_by_the_clock() -> None:
    """Each look at this one takes a quarter of a second, so each copy does, and the digesting."""
    ticks = itertools.count(0.0, 0.25)
    found = measure_memory(lambda: next(ticks))
    assert (found.copy, found.digest) == (4 * SIZE, 4 * SIZE)


@pytest.mark.usefixtures("little_memory")
def test_it_takes_a_quarter_of_the_memory_that_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """A measurement must not be the one that is killed for its memory: the arena has an eighth, its source another."""
    sizes: list[int] = []
    original = memory_speed.Arena

    def arena(size: int) -> memory_speed.Arena:
        sizes.append(size)
        return original(size)

    monkeypatch.setattr(memory_speed, "Arena", arena)
    measure_memory()
    assert sizes == [SIZE]
