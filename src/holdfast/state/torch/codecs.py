"""Plain values of torch: dtypes, sizes, devices, layouts and memory formats. Importing this registers them."""

from __future__ import annotations

from typing import Any

import torch

from holdfast.errors import CorruptError
from holdfast.format.values import register_codec
from holdfast.types import Json

_SINGLETONS: dict[type[Any], str] = {
    torch.dtype: "$torch.dtype",
    torch.layout: "$torch.layout",
    torch.memory_format: "$torch.memory_format",
}


def _name(value: object) -> str:
    return str(value).removeprefix("torch.")


def _named(kind: type[Any], payload: Json) -> Any:
    """The constant of that name, only if it is of the kind that was asked for: a name opens nothing else."""
    value = getattr(torch, payload, None) if isinstance(payload, str) else None
    if not isinstance(value, kind):
        raise CorruptError(f"torch {torch.__version__} has no {kind.__name__} named {payload!r}")
    return value


def _size(payload: Json) -> torch.Size:
    if not isinstance(payload, list) or not all(type(length) is int and length >= 0 for length in payload):
        raise CorruptError(f"{payload!r} is not a torch.Size")
    return torch.Size(payload)


def _device(payload: Json) -> torch.device:
    try:
        return torch.device(str(payload))
    except RuntimeError as error:
        raise CorruptError(f"{payload!r} is not a torch.device: {error}") from error


def _register_singletons(kind: type[Any], tag: str) -> None:
    register_codec(kind, tag, _name, lambda payload: _named(kind, payload))


for _kind, _tag in _SINGLETONS.items():
    _register_singletons(_kind, _tag)
register_codec(torch.Size, "$torch.Size", list, _size)
register_codec(torch.device, "$torch.device", str, _device)
