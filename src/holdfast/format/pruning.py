"""A stored value without some of its tensors."""

from __future__ import annotations

from collections.abc import Set
from typing import Any

from holdfast.errors import UsageError
from holdfast.format.validation import REFERENCE_TAGS
from holdfast.format.values import DEFAULT_DICT, PAIRED
from holdfast.types import Json


def pruned(tree: Json, left_out: Set[str], where: str) -> Json:
    """``tree``, tagged JSON, without the entries that refer to a tensor in ``left_out``.

    Raises `UsageError`, naming ``where`` and the tensor, for one that is not an entry of a dict: what is left of a list
    would have moved to other places.

    >>> pruned({"weight": {"$tensor": "weight"}, "bias": {"$tensor": "bias"}}, {"bias"}, "model")
    {'weight': {'$tensor': 'weight'}}
    """
    if _reference(tree) in left_out:
        raise UsageError(
            f"{where}/{_reference(tree)}: cannot be left out, because it is no entry of a dict; leave out all of "
            f"{where!r}, or nothing of it."
        )
    if isinstance(tree, list):
        return [pruned(one, left_out, where) for one in tree]
    if not isinstance(tree, dict):
        return tree
    if PAIRED.intersection(tree):
        return {tag: _pairs(pairs, left_out, where) for tag, pairs in tree.items()}
    if DEFAULT_DICT in tree:
        factory, pairs = tree[DEFAULT_DICT]
        return {DEFAULT_DICT: [factory, _pairs(pairs, left_out, where)]}
    return {key: pruned(value, left_out, where) for key, value in tree.items() if _reference(value) not in left_out}


def _pairs(pairs: list[list[Json]], left_out: Set[str], where: str) -> list[list[Json]]:
    """The entries of a dict whose keys are not all text."""
    return [[key, pruned(value, left_out, where)] for key, value in pairs if _reference(value) not in left_out]


def _reference(tree: Any) -> str | None:
    """The name of the tensor that ``tree`` stands for, if it is a reference."""
    if not isinstance(tree, dict) or len(tree) != 1:
        return None
    ((tag, name),) = tree.items()
    return name if tag in REFERENCE_TAGS else None
