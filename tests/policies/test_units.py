"""Times as people write them."""

import pytest

from holdfast.policies.units import parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("24 hours", 86400),
        ("1 day", 86400),
        ("90min", 5400),
        (" 1.5 H ", 5400),
        ("30 s", 30),
        ("2 secs", 2),
        ("3 Minutes", 180),
    ],
)
def test_units_may_be_whole_words_or_short(text, seconds):
    """With or without a blank, in any case."""
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "hours", "24", "0 hours", "-1 hour", "1 epoch", "1e9 hours", "9" * 400 + " s"])
def test_anything_else_is_no_time(text):
    """Nothing, no unit, zero, less, units that are counted, more than a number can be."""
    assert parse_duration(text) is None
