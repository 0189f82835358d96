"""What a run has made, as plain values and tensors, and where two of them differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch


def picture(value: Any) -> Any:
    """A copy in dicts, lists, tensors and plain values only."""
    if hasattr(value, "state_dict"):
        return picture(value.state_dict())
    if isinstance(value, torch.Generator):
        return value.get_state()
    if hasattr(value, "getstate"):
        return picture(value.getstate())
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy())
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {str(key): picture(part) for key, part in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [picture(part) for part in value]
    assert value is None or isinstance(value, (bool, int, float, str, bytes)), f"no picture of a {type(value)}"
    return value


def differences(one: Any, other: Any, path: str = "") -> Iterator[str]:
    """Where they are not the same to the last bit; numbers by their type too."""
    if type(one) is not type(other):
        yield f"{path}: a {type(one).__name__} and a {type(other).__name__}"
    elif isinstance(one, dict):
        if one.keys() != other.keys():
            yield f"{path}: keys {sorted(one.keys() ^ other.keys())} are in one of them only"
        for key in one.keys() & other.keys():
            yield from differences(one[key], other[key], f"{path}/{key}")
    elif isinstance(one, list):
        if len(one) != len(other):
            yield f"{path}: {len(one)} and {len(other)} entries"
        for index, (part, counterpart) in enumerate(zip(one, other, strict=False)):
            yield from differences(part, counterpart, f"{path}/{index}")
    elif isinstance(one, torch.Tensor):
        if one.dtype != other.dtype or one.shape != other.shape or not torch.equal(one, other):
            yield f"{path}: tensors differ"
    elif one != other:
        yield f"{path}: {one!r} and {other!r}"
