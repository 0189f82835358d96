"""Counts that a user's code reports."""

from __future__ import annotations

import operator
from typing import Any

from holdfast.errors import UsageError
from holdfast.format.validation import MAX_INT


def whole(name: str, value: Any) -> int:
    """``value`` as a plain int: numpy's and tensors of one whole number are taken.

    Raises `UsageError` for anything else, and for a count that no checkpoint can hold.

    >>> whole("samples", 1 + 1)
    2
    """
    try:
        found = operator.index(value)
    except (TypeError, ValueError, RuntimeError):
        raise UsageError(f"{name}={value!r}: expected a whole number.") from None
    if isinstance(value, bool) or not 0 <= found <= MAX_INT:
        raise UsageError(f"{name}={value!r}: expected a whole number from 0 to 2**63 - 1.")
    return found
