"""What of the state a saver takes."""

from __future__ import annotations

import pytest

from holdfast.errors import UsageError
from holdfast.run.extent import AnyExtent, make_extent

NAMES = ("model", "ema", "optimizer")


def test_without_a_choice_all_is_taken_and_what_the_run_adds() -> None:
    """Only such a checkpoint can be resumed from."""
    extent = make_extent(NAMES, None, (), "")
    assert extent.whole
    assert all(map(extent.takes, (*NAMES, "data", "rng", "values", "gradients")))


def test_a_choice_of_all_items_is_no_choice() -> None:
    """Naming every item leaves nothing out."""
    assert make_extent(NAMES, ["model", "e*", "optimizer"], (), "").whole


@pytest.mark.parametrize(
    ("items", "exclude", "taken"),
    [
        (["model"], (), {"model"}),
        (["*m*"], ["optimizer"], {"model", "ema"}),
        (None, ["optimizer/*"], {"model", "ema"}),
        (None, ["optimizer/**", "ema"], {"model"}),
    ],
)
def test_patterns_choose_items(items, exclude, taken) -> None:
    """Those of the shell; what the run adds is left out as soon as anything is."""
    extent = make_extent(NAMES, items, exclude, "")
    assert {name for name in (*NAMES, "data", "rng") if extent.takes(name)} == taken
    assert not extent.whole


def test_tensors_of_an_item_can_be_left_out() -> None:
    """By patterns behind the item's name; the item itself stays."""
    extent = make_extent(NAMES, None, ["model/head.*", "model/*.bias"], "")
    tensors = ["head.weight", "body.weight", "body.bias"]
    assert extent.left_out("model", tensors) == ["head.weight", "body.bias"]
    assert extent.left_out("ema", tensors) == ()
    assert extent.takes("model")
    assert not extent.whole


def test_the_contents_for_several_savers_are_what_any_of_them_takes() -> None:
    """A tensor is left out only if all that take its item leave it out."""
    one = make_extent(NAMES, ["model"], ["model/a", "model/b"], "")
    other = make_extent(NAMES, ["model", "ema"], ["model/b", "model/c"], "")
    union = AnyExtent((one, other))
    assert {name for name in NAMES if union.takes(name)} == {"model", "ema"}
    assert set(union.left_out("model", ["a", "b", "c", "d"])) == {"b"}
    assert set(union.left_out("ema", ["a"])) == set()


@pytest.mark.parametrize(
    ("items", "exclude", "said"),
    [
        (["modle"], (), r"savers\[1\]: items: 'modle' is no item of state=. Did you mean 'model'\?"),
        (None, ["optimiser/*"], r"exclude: 'optimiser' is no item .* Did you mean 'optimizer'\?"),
        (None, ["*"], "nothing of model, ema, optimizer is left"),
        (["model"], ["model"], "nothing of"),
    ],
)
def test_a_choice_that_means_nothing_is_refused(items, exclude, said) -> None:
    """With the option's name, and the nearest item."""
    with pytest.raises(UsageError, match=said):
        make_extent(NAMES, items, exclude, "savers[1]: ")
