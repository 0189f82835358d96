"""Templates of checkpoints' names."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import UsageError
from holdfast.format.names import HASH, CheckpointName, is_label, unhashed
from holdfast.run.name_template import NameTemplate, Naming
from holdfast.types import Progress


def naming(**metrics: float) -> Naming:
    return Naming(
        progress=Progress(epoch=3, batch=4, step=500, samples=64, tokens=7, batches=40, elapsed=12.5),
        metrics=metrics, attempt=2, ordinal=9, created=datetime(2026, 11, 25, 9, 8, 7, tzinfo=UTC), run="7f3a",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("template", "label"),
    [
        ("epoch-{epoch:03d}", "epoch-003"),
        ("{step:08d}_{batch}_{batches}_{samples}_{tokens}", "00000500_4_40_64_7"),
        ("best-{val_loss:.3f}", "best-0.125"),
        ("a{attempt}-n{ordinal}-{run}", "a2-n9-7f3a"),
        ("t{time}", "t20261125T090807Z"),
        ("t{time:%Y-%m-%d}", "t2026-11-25"),
        ("after-{elapsed:.0f}s", "after-12s"),
        ("accuracy-{val_loss:.1%}", "accuracy-12.5_"),
        ("h-{hash}", "h-{hash}"),
        ("plain", "plain"),
    ],
)
def test_fields_become_what_they_stand_for(template: str, label: str) -> None:
    """Progress, attempt, time, hash, and metrics by the names under which they are logged."""
    assert NameTemplate(template).label(naming(val_loss=0.125)) == label


def test_a_metric_that_was_not_logged_has_a_placeholder() -> None:
    """Never 0, which would be the best loss of all."""
    template = NameTemplate("best-{val/loss:.3f}")
    assert template.label(naming()) == "best-no-val_loss"
    assert template.metrics == ("val/loss",)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -0.5, 1e300, 1e-12])
def test_any_value_of_a_metric_makes_a_name(value: float) -> None:
    """Also those that are no numbers."""
    for spec in ("", ":.3f", ":+e", ":g"):
        label = NameTemplate(f"x-{{loss{spec}}}").label(naming(loss=value))
        assert is_label(label)
        assert CheckpointName.parse(f"{label}.a0001.n0001") is not None


@pytest.mark.parametrize("text", ["x-{{{}}}-{{hash}}", "{{hash}}-{{{}}}", "{{time}}{{{}}}{{hash}}"])
@given(name=st.text(max_size=400), value=st.floats())
def test_whatever_a_metric_is_called_the_name_is_one(text: str, name: str, value: float) -> None:
    """A template is refused when it is made, or every name that comes of it is a plain one."""
    try:
        template = NameTemplate(text.format(name))
    except UsageError:
        return
    for metrics in ({}, {name: value}):
        assert is_label(unhashed(template.label(naming(**metrics))))


@pytest.mark.parametrize("digits", [66, 67])
def test_a_hash_has_room_in_the_longest_name(digits: int) -> None:
    """What stands for it is as long as it is; a name that would be too long goes without."""
    label = NameTemplate("e" * 70 + f"-{{hash}}-{{loss:.{digits - 2}f}}").label(naming(loss=0.5))
    assert is_label(label.replace(HASH, "0" * 12))
    assert len(unhashed(label)) == len(label.replace(HASH, "0" * 12))
    assert (HASH in label) == (digits <= 66)


@pytest.mark.parametrize(
    "template",
    ["", "a/b", "a b", "{epoch", "epoch}", "{}", "{epoch:zz}", "{epoch!r}", "-{epoch}", "{val_loss}", ".hidden", 5,
     "x.partial-{epoch}", "a:b", "x" * 200, "{hash:3}", "..", "é"],
)  # fmt: skip
def test_what_cannot_be_a_name_is_refused_when_constructed(template) -> None:
    """With the option's name, not at the first save."""
    with pytest.raises(UsageError, match="name="):
        NameTemplate(template)


@pytest.mark.parametrize("template", ["{time}", "{run}-{epoch}", "{hash}", "{elapsed:06.0f}-{step}"])
def test_a_name_may_begin_with_any_field_that_is_no_metric(template: str) -> None:
    """They are letters and digits; a metric may be negative."""
    assert is_label(unhashed(NameTemplate(template).label(naming())))


def test_what_is_left_of_a_long_name_is_a_name() -> None:
    """Without its hash, it would begin with what was to separate them."""
    label = NameTemplate("{hash}-{loss:.140f}").label(naming(loss=-1 / 3))
    assert is_label(label)


def test_a_misspelt_field_is_pointed_out() -> None:
    """It looks like a metric, for which its format may mean nothing."""
    with pytest.raises(UsageError, match="Did you mean 'step'"):
        NameTemplate("x-{setp:08d}")


@pytest.mark.parametrize("text", ["{epoch:500d}", "{time:%H:%M}"])
def test_a_format_whose_outcome_would_be_changed_is_refused(text: str) -> None:
    """The name on disk is the one that was asked for."""
    with pytest.raises(UsageError, match="what becomes of it"):
        NameTemplate(text)
