"""A stored value without some of its tensors."""

from __future__ import annotations

from collections import OrderedDict, defaultdict

import pytest

from holdfast.errors import UsageError
from holdfast.format.pruning import pruned
from holdfast.format.values import decode, encode


class Tensor:
    """Stands for one, by its name."""

    def __init__(self, name: str) -> None:
        self.name = name


def tree_of(value: object) -> object:
    return encode(value, "item", lambda one, path: {"$tensor": one.name} if isinstance(one, Tensor) else None)


@pytest.mark.parametrize(
    ("value", "left"),
    [
        ({"a": Tensor("a"), "b": Tensor("b"), "n": 3}, {"b": "b", "n": 3}),
        ({1: {"a": Tensor("a"), "b": Tensor("b")}}, {1: {"b": "b"}}),
        (OrderedDict([(1, Tensor("a")), (2, [Tensor("b"), 2])]), OrderedDict([(2, ["b", 2])])),
        (defaultdict(list, {"a": Tensor("a"), "x": ["a", 1]}), defaultdict(list, {"x": ["a", 1]})),
        ({"pair": ["a", Tensor("b")], "text": "a"}, {"pair": ["a", "b"], "text": "a"}),
        ([[1, Tensor("b")], (Tensor("b"),)], [[1, "b"], ("b",)]),
    ],
)
def test_entries_of_dicts_go_and_all_else_stays(value, left):
    """Of any kind of dict; a list of two is not taken for an entry."""
    found = decode(pruned(tree_of(value), {"a"}, "item"), lambda tag, name: name)
    assert found == left
    assert type(found) is type(left)


@pytest.mark.parametrize("value", [[Tensor("a"), 1], Tensor("a"), {"x": (1, Tensor("a"))}])
def test_what_is_in_no_dict_cannot_be_left_out(value):
    """The rest of a list would move to other places."""
    with pytest.raises(UsageError, match="item/a: cannot be left out"):
        pruned(tree_of(value), {"a"}, "item")
