"""What of a nested value can be seen to change without copying its tensors."""

from __future__ import annotations

import sys
from typing import Any

from holdfast.state.stateful import copied
from holdfast.state.tree import TENSOR, tag_of

_LEAVES = 64


def glance(value: Any) -> Any:
    """Something that is equal as long as ``value`` has not changed; None where a change could go unseen.

    Tensors are seen by their version counters, which writes through ``.data`` do not move; plain values are copied.
    Arrays and tensors that were made in inference mode have no such counter, and what is large would take too long.

    >>> glance({"history": [0.5]}) == glance({"history": [0.5]})
    True
    """
    leaves: list[Any] = []
    return leaves if _gather(value, leaves) else None


def _gather(value: Any, leaves: list[Any]) -> bool:
    if len(leaves) > _LEAVES:
        return False
    if isinstance(value, dict):
        return all(_gather(part, leaves) for pair in value.items() for part in pair)
    if isinstance(value, (list, tuple)):
        return all(_gather(part, leaves) for part in value)
    tag = tag_of(value)
    if tag is not None:
        version = _version(value) if tag == TENSOR else None
        leaves.append((id(value), version))
        return version is not None
    if _is_known(value):
        leaves.append(id(value))
        return True
    leaves.append(copied(value))
    return not hasattr(value, "state_dict")


def _version(tensor: Any) -> int | None:
    try:
        version: int = tensor._version
    except RuntimeError:  # it was made in inference mode, where changes are not counted
        return None
    return version


def _is_known(value: Any) -> bool:
    """Modules and optimizers in a container are watched by themselves."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, (torch.nn.Module, torch.optim.Optimizer))
