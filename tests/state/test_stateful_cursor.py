"""Where a loader stands that says so by itself."""

from __future__ import annotations

from typing import Any

import pytest

from holdfast.state.torch import stateful_cursor
from holdfast.state.torch.stateful_cursor import StatefulCursor


class Loader:
    """Takes ``seconds`` of a clock to say where it stands."""

    def __init__(self) -> None:
        self.clock, self.seconds, self.asked = 0.0, 0.0, 0
        self.state: dict[str, Any] = {"given": []}

    def __iter__(self):
        for number in range(1000):
            self.state["given"].append(number)
            yield number

    def state_dict(self) -> dict[str, Any]:
        self.asked += 1
        self.clock += self.seconds
        return self.state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.state = state


@pytest.fixture
def loader(monkeypatch: pytest.MonkeyPatch) -> Loader:
    made = Loader()
    monkeypatch.setattr(stateful_cursor.time, "perf_counter", lambda: made.clock)
    return made


@pytest.fixture
def cursor(loader: Loader) -> StatefulCursor:
    made = StatefulCursor(loader, "here")
    made.open(None, exact=True, tick=lambda done, total: None)
    return made


def advance(cursor: StatefulCursor, seconds: float = 1.0) -> None:
    """A batch that takes so long, and the boundary behind it."""
    cursor.next()
    cursor.loader.clock += seconds
    cursor.mark()


def position(cursor: StatefulCursor) -> Any:
    state = cursor.state()
    return None if state is None else state.position


def test_the_boundary_before_the_batch_that_was_fetched_since_can_be_told(cursor):
    """Also where the loader hands out the very object that it goes on with."""
    advance(cursor)
    cursor.next()
    assert position(cursor) == {"given": [0]}
    assert position(cursor) == {"given": [0]}
    cursor.mark()
    assert position(cursor) == {"given": [0, 1]}


def test_a_loader_that_is_slow_to_tell_is_not_asked_at_every_boundary(cursor, loader):
    """A hundredth of the time, beyond a twentieth of a second at once; a save asks it in any case."""
    loader.seconds = 0.1
    for _ in range(100):
        advance(cursor)
    assert 0.1 * loader.asked <= 0.01 * loader.clock + 0.05 + 0.1
    assert loader.asked >= 9
    loader.seconds = 100.0
    advance(cursor, 10.0)
    advance(cursor)
    assert position(cursor) == {"given": list(range(102))}
    cursor.next()
    assert position(cursor) is None


def test_a_position_that_a_save_will_need_is_held_at_any_price(cursor, loader):
    """A loader without a length is asked for its next batch before the save."""
    loader.seconds = 100.0
    advance(cursor)
    advance(cursor)
    cursor.hold()
    cursor.next()
    assert position(cursor) == {"given": [0, 1]}


def test_what_the_loader_raises_is_raised_where_its_position_is_needed(cursor, loader):
    """Not at the boundary, where it would end the training; and the boundary after is another matter."""
    loader.state_dict = lambda: 1 / 0  # type: ignore[method-assign]
    advance(cursor)
    with pytest.raises(ZeroDivisionError):
        cursor.state()
    del loader.state_dict
    advance(cursor)
    assert position(cursor) == {"given": [0, 1]}
