"""Policies as one would write them in code."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from datetime import datetime
from typing import Any


class Written:
    """Is shown as one would write it in code, without what it was not given."""

    __slots__ = ()

    def in_code(self) -> str:
        """The policy in code."""
        options = ", ".join(f"{name}={_value(value)}" for name, value in _given(self).items())
        return f"{type(self).__name__}({options})"

    def __repr__(self) -> str:
        return self.in_code()


def written(policy: Written) -> str:
    """A save or keep policy in code, also one of somebody's own.

    >>> from holdfast import AtEnd, AtMostEvery, Every, OnBest
    >>> written(Every(steps=200) | OnBest("loss") & AtMostEvery(minutes=5) | AtEnd())
    "Every(steps=200) | OnBest(metric='loss') & AtMostEvery(minutes=5) | AtEnd()"
    """
    return policy.in_code()


def name_of(rule: Callable[..., Any]) -> str:
    """The name of a callable: its address is another in every process."""
    return str(getattr(rule, "__name__", type(rule).__name__))


def place_of(rule: Callable[..., Any]) -> str:
    """The name of a callable, with the file and line where that is known.

    >>> place_of(len)
    'len'
    """
    code = getattr(getattr(rule, "__func__", rule), "__code__", None) or getattr(type(rule).__call__, "__code__", None)
    return f"{name_of(rule)} ({code.co_filename}:{code.co_firstlineno})" if code is not None else name_of(rule)


def _given(policy: Any) -> dict[str, Any]:
    """The fields that are not at their default; none of a class of somebody's own that has no fields."""
    values = {one: getattr(policy, one.name) for one in fields(policy)} if is_dataclass(policy) else {}
    return {one.name: value for one, value in values.items() if one.default is MISSING or value != one.default}


def _value(value: Any) -> str:
    if callable(value):
        return getattr(value, "__qualname__", type(value).__name__)
    if isinstance(value, tuple):
        return repr(list(value))
    if isinstance(value, datetime):
        return repr(value.isoformat())
    return repr(os.fspath(value)) if isinstance(value, os.PathLike) else repr(value)
