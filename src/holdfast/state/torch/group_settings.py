"""Whether the stored settings of an optimizer's groups are of the kinds that its step can calculate with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch


def setting_problems(saved: Any, here: Mapping[str, Any], standard: Mapping[str, Any]) -> Iterator[str]:
    """What refuses the stored group ``saved`` in place of the live group ``here``.

    Of what the class has as its ``standard`` settings the whole kind is compared; of what else a script puts into a
    group, None stands for anything and a list may be of any length. A setting that only one of the two has is that of
    another version of the class, except for those that no step can do without.
    """
    if not isinstance(saved, dict):
        yield f"{_shown(saved)} in the checkpoint, a group of parameters here"
        return
    for name, value in here.items():
        if name == "params":
            if not _is_numbered(saved.get(name), len(value)):
                yield f"params: {_shown(saved.get(name))} in the checkpoint, numbers of {len(value)} parameters here"
        elif name not in saved:
            if name == "lr":
                yield "lr: not in the checkpoint"
        elif not _is_alike(saved[name], value, strict=name in standard):
            yield f"{name}: {_shown(saved[name])} in the checkpoint, {_shown(value)} here"


def _is_numbered(params: Any, count: int) -> bool:
    return isinstance(params, list) and len(params) == count and all(type(one) in (int, str) for one in params)


def _is_alike(saved: Any, here: Any, *, strict: bool) -> bool:
    """Switches may be undecided, on both sides; numbers may be tensors of one element."""
    if here is None or (saved is None and (isinstance(here, bool) or not strict)):
        return True
    if isinstance(here, list | tuple):
        return isinstance(saved, list | tuple) and (not strict or _are_alike(saved, here))
    if _is_number(here):
        return _is_number(saved)
    if isinstance(here, str):
        return saved is None or isinstance(saved, str)
    return not isinstance(here, torch.Tensor) or isinstance(saved, torch.Tensor)


def _are_alike(saved: Any, here: Any) -> bool:
    return len(saved) == len(here) and all(
        one is None or _is_alike(one, other, strict=True) for one, other in zip(saved, here, strict=True)
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) or (isinstance(value, torch.Tensor) and value.numel() == 1)


def _shown(value: Any) -> str:
    return "a tensor" if isinstance(value, torch.Tensor) else f"{value!r:.40}"
