"""Enum members: stored by module, class and name, found again only among modules already imported."""

from __future__ import annotations

import enum
import functools
import operator
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from holdfast.errors import MisfitError


def encode_enum(value: enum.Enum) -> list[Any]:
    """Module, class and member name (a list of names for combined flags)."""
    cls = type(value)
    if _find(cls.__module__, cls.__qualname__) is not cls:
        raise ValueError(f"enum {cls.__qualname__} is not in {cls.__module__}; define it at module level")
    encoded = [cls.__module__, cls.__qualname__, _names(value)]
    if decode_enum(encoded) != value:
        raise ValueError(f"{value!r} is not made of the named members of {cls.__qualname__}")
    return encoded


def decode_enum(payload: list[Any]) -> Any:
    """The member; `MisfitError` if its class is not imported or lacks it. Imports nothing."""
    module, qualname, name = payload
    cls = _find(module, qualname)
    if cls is None:
        raise MisfitError(f"enum {module}.{qualname} is not there; import {module} before loading this checkpoint")
    if not isinstance(name, list):
        return _member(cls, name)
    if not issubclass(cls, enum.Flag):
        raise ValueError("only flags have several names")
    return functools.reduce(operator.or_, (_member(cls, one) for one in name), cls(0))


def _names(value: Any) -> str | list[str]:
    name = value.name
    if isinstance(name, str) and name in type(value).__members__:
        return name
    return [member.name for member in type(value) if value & member]


def _find(module: str, qualname: str) -> type[enum.Enum] | None:
    found: Any = sys.modules.get(module)
    for name in qualname.split("."):
        found = _attributes(found).get(name)
    return found if isinstance(found, type) and issubclass(found, enum.Enum) else None


def _attributes(owner: Any) -> Mapping[str, Any]:
    # getattr on a lazy module runs its __getattr__, and with it imports that the checkpoint chose.
    attributes: Mapping[str, Any] = {}
    if isinstance(owner, ModuleType | type):
        attributes = object.__getattribute__(owner, "__dict__")
    return attributes


def _member(cls: type[enum.Enum], name: Any) -> Any:
    member = cls.__members__.get(name)
    if member is None:
        raise MisfitError(f"enum {cls.__module__}.{cls.__qualname__} has no member {name!r} any more")
    return member
