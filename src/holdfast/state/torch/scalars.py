"""Logged scalars on their way to the host, without making a device wait."""

from __future__ import annotations

import math
from typing import Any

import torch

from holdfast.errors import UsageError
from holdfast.types import Json


class HeldScalar:
    """A scalar as it was when it was logged. It is cloned: ``loss /= 4`` after the call would change a mere view.

    A value on a CUDA device is copied to the host behind the kernels that compute it; `ready` says when it is there.
    """

    __slots__ = ("_event", "_value")

    def __init__(self, name: str, value: Any) -> None:
        self._event: Any = None
        self._value: Any = value
        if isinstance(value, torch.Tensor):
            self._hold(name, value)
        elif getattr(value, "shape", ()) not in ((), (1,)) or not hasattr(value, "__float__") or _is_complex(value):
            raise _refusal(name, type(value).__name__)
        else:
            self._value = _as_float(name, value)

    def _hold(self, name: str, value: torch.Tensor) -> None:
        if value.numel() != 1:
            raise UsageError(f"log({name}=…): expected one element, got shape {tuple(value.shape)}; log its mean().")
        # Its value is asked for at a boundary, where nobody knows the name of what cannot become a number.
        if value.is_complex() or value.is_meta:
            raise _refusal(name, f"a tensor of {value.dtype} on {value.device}")
        kept = value.detach().clone()
        if kept.device.type == "cuda":
            self._value = torch.empty_like(kept, device="cpu", pin_memory=True).copy_(kept, non_blocking=True)
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            self._event.record()
        else:
            self._value = kept

    def ready(self) -> bool:
        return self._event is None or bool(self._event.query())

    def value(self) -> float:
        """The value. Waits for the device if it is not `ready`."""
        if self._event is not None:
            self._event.synchronize()
        return float(self._value)


def _is_complex(value: Any) -> bool:
    """NumPy's complex numbers have a ``__float__`` that drops half of them."""
    return getattr(getattr(value, "dtype", None), "kind", "") == "c"


def _as_float(name: str, value: Any) -> float:
    try:
        return float(value)
    except OverflowError:
        raise _refusal(name, f"{type(value).__name__} beyond what a float can hold") from None
    except (TypeError, ValueError):
        raise _refusal(name, type(value).__name__) from None


def _refusal(name: str, got: str) -> UsageError:
    return UsageError(f"log({name}=…): expected a number or a tensor with one element, got {got}.")


def to_json(value: float) -> Json:
    """JSON has no infinities: they become strings.

    >>> to_json(float("nan"))
    'nan'
    """
    return value if math.isfinite(value) else str(value)
