"""Policies as one would write them in code."""

from __future__ import annotations

from dataclasses import MISSING, fields, is_dataclass
from typing import Any

from holdfast.policies.keep import KeepAny, KeepWhen
from holdfast.policies.save import AllOf, AnyOf, When


def written(policy: Any) -> str:
    """A save or keep policy in code, without what it was not given.

    >>> from holdfast import AtEnd, AtMostEvery, Every, OnBest
    >>> written(Every(steps=200) | OnBest("loss") & AtMostEvery(minutes=5) | AtEnd())
    "Every(steps=200) | OnBest(metric='loss') & AtMostEvery(minutes=5) | AtEnd()"
    """
    if isinstance(policy, AnyOf | KeepAny):
        return " | ".join(map(written, policy.policies))
    if isinstance(policy, AllOf):
        inner = (f"({written(one)})" if isinstance(one, AnyOf) else written(one) for one in policy.policies)
        return " & ".join(inner)
    if isinstance(policy, When | KeepWhen):
        return str(getattr(policy.rule, "__name__", type(policy.rule).__name__))
    if not is_dataclass(policy):  # somebody's own, whose repr may have an address in it
        return f"{type(policy).__name__}()"
    given = ((one.name, getattr(policy, one.name)) for one in fields(policy) if _is_given(policy, one))
    return f"{type(policy).__name__}({', '.join(f'{name}={_value(value)}' for name, value in given)})"


def _is_given(policy: Any, one: Any) -> bool:
    return one.default is MISSING or getattr(policy, one.name) != one.default


def _value(value: Any) -> str:
    """A callable by its name: its address is another in every process."""
    return getattr(value, "__qualname__", type(value).__name__) if callable(value) else repr(value)
