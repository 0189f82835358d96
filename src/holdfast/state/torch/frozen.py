"""Parameters that training leaves as they are, and what can be seen of that without reading all of them."""

from __future__ import annotations

import ctypes
from collections.abc import Hashable

import torch
from torch.multiprocessing.reductions import StorageWeakRef

from holdfast.state.strides import extent
from holdfast.state.torch.step_hook import StepHook

_PLACES = 8
_BYTES = 16
"""Bytes that are looked at in each of so many places, spread over a tensor."""
_PLAIN = (torch.Tensor, torch.nn.Parameter)


def is_frozen(tensor: torch.Tensor) -> bool:
    """Whether it is a parameter that has no gradient and gets none, so that no optimizer changes it."""
    kind = type(tensor)
    if kind is torch.nn.Parameter:
        return _stands_still(tensor)
    if not issubclass(kind, torch.nn.Parameter):
        return False
    with torch._C.DisableTorchFunctionSubclass():
        return _stands_still(tensor)


def _stands_still(parameter: torch.Tensor) -> bool:
    # One that was made in inference mode has no version counter.
    return not parameter.requires_grad and parameter.grad is None and not parameter.is_inference()


def seen(parameter: torch.Tensor, tensor: torch.Tensor) -> Hashable:
    """What can be seen of a frozen ``parameter``, of which ``tensor`` is the memory: equal while nothing changes it.

    Writes through ``.data``, and through arrays that share the memory, move no version counter: on the CPU, a few bytes
    are looked at too. Those of a device are not, for it would have to come to this moment first.
    """
    # Its memory could be given back, and come again for other values at the same address: a weak reference tells.
    storage = StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]
    bytes_seen = _probed(tensor) if tensor.is_cpu else None
    place = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor.is_conj(), tensor.is_neg())
    return (storage, *place, tensor._version, _steps.of(parameter, tensor), bytes_seen)


def _probed(tensor: torch.Tensor) -> bytes:
    """Some bytes of the memory between the first element and the last."""
    span = span_of(tensor) if tensor.numel() else 0
    size = min(_BYTES, span)
    step = max((span - size) // (_PLACES - 1), 1)
    start = tensor.data_ptr()
    return b"".join([ctypes.string_at(start + at, size) for at in range(0, span - size + 1, step)]) if span else b""


def span_of(tensor: torch.Tensor) -> int:
    """The bytes from the first element, of one that has elements, to behind the last."""
    return tensor.element_size() * (1 + extent(tensor.shape, tensor.stride())[1])


class _Steps:
    """Counts the steps that may have changed a parameter: fused optimizers move no version counter.

    One may be thawed after a save, trained, and be frozen again before the next. Of fused ones, the steps of all that
    lies in the same storage count: what is trained may have any part of the memory of what is frozen.
    """

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        # Of all optimizers of the process: one that the run does not know may have the same parameters.
        self._hook = StepHook(self._count)

    def of(self, parameter: torch.Tensor, tensor: torch.Tensor) -> tuple[int, ...]:
        """Those since it was first asked for this parameter, and for the storage of ``tensor``, its memory."""
        return tuple(self._counts.setdefault(one, 0) for one in (id(parameter), _storage(tensor)))

    def _count(self, optimizer: torch.optim.Optimizer) -> None:
        """A gradient may come only in the closure that the step is given, so one that could come counts too."""
        if not self._counts:
            return  # nothing is frozen: this is asked before each step of each optimizer
        for group in optimizer.param_groups:
            for one in group["params"]:
                self._add(id(one), one)
                if group.get("fused") and type(one) in _PLAIN:
                    self._add(_storage(one), one)

    def _add(self, mark: int, moved: torch.Tensor) -> None:
        if mark in self._counts and (moved.requires_grad or moved.grad is not None):
            self._counts[mark] += 1


def _storage(tensor: torch.Tensor) -> int:
    address: int = tensor.untyped_storage()._cdata
    return address


_steps = _Steps()
