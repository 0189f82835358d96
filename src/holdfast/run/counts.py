"""Counts that a user's code reports."""

from __future__ import annotations

import operator
from typing import Any

from holdfast.errors import UsageError


def whole(name: str, value: Any) -> int:
    """``value`` as a plain int: numpy's and tensors of one whole number are taken. Raises `UsageError`.

    >>> whole("samples", True + 1)
    2
    """
    try:
        return operator.index(value)
    except (TypeError, ValueError, RuntimeError):
        raise UsageError(f"{name}={value!r}: expected a whole number.") from None
