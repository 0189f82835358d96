"""Keep policies."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast import KeepLast, KeepWhen
from holdfast.errors import UsageError
from holdfast.policies.keep import Kept, plan
from holdfast.types import Progress


def checkpoints(on_error: list[bool]) -> list[Kept]:
    return [
        Kept(name=str(number), progress=Progress(step=number), on_error=flag) for number, flag in enumerate(on_error)
    ]


def test_the_newest_stay_with_the_reason():
    """`KeepLast(2)` of four keeps the last two and says why."""
    assert plan(KeepLast(2), checkpoints([False] * 4), {}) == {"0": None, "1": None, "2": "last 2", "3": "last 2"}


def test_checkpoints_saved_on_an_error_do_not_count():
    """An error's checkpoint never pushes a good one out."""
    kept = plan(KeepLast(2), checkpoints([False, False, True, True]), {})
    assert kept["0"] == kept["1"] == "last 2"


def test_old_checkpoints_saved_on_an_error_go():
    """One that is older than everything kept has served."""
    assert plan(KeepLast(1), checkpoints([True, False, False]), {}) == {"0": None, "1": None, "2": "last 1"}


def test_what_is_protected_stays():
    """No policy removes what the run depends on."""
    assert plan(KeepLast(1), checkpoints([False, False]), {"0": "resumed from"})["0"] == "resumed from"


@given(count=st.integers(1, 6), on_error=st.lists(st.booleans(), max_size=12))
def test_keep_last_keeps_exactly_the_newest_regular_ones(count, on_error):
    """Whatever is mixed in, the newest ``count`` regular checkpoints stay and older regular ones go."""
    ones = checkpoints(on_error)
    reasons = plan(KeepLast(count), ones, {})
    regular = [one.name for one in ones if not one.on_error]
    assert [name for name in regular if reasons[name]] == regular[-count:]


@pytest.mark.parametrize("count", [0, -1, True, 2.0, "3"])
def test_keeping_nothing_is_refused_when_constructed(count):
    """`KeepLast(0)` would delete what was just saved."""
    with pytest.raises(UsageError):
        KeepLast(count)


def test_a_rule_that_returns_nothing_is_named():
    """A `return` that was forgotten."""

    def forgetful(checkpoints):
        del checkpoints

    with pytest.raises(UsageError, match=r"the keep policy .*forgetful.* returned None. Return the names"):
        plan(KeepWhen(forgetful), [Kept(name="1", progress=Progress())], {})
