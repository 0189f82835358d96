"""The dtypes a checkpoint can hold, and how each is stored in a safetensors file.

Names are torch's. A dtype that safetensors or its older readers lack is stored as a view that every
reader opens: complex numbers as pairs of reals in one more dimension, rare 8-bit floats as ``U8``.
The manifest keeps the true dtype.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from holdfast.errors import UsageError
from holdfast.types import TensorSpec


@dataclass(frozen=True, slots=True)
class Dtype:
    """A dtype: bytes per element, safetensors dtype it is stored as, stored numbers per element."""

    name: str
    itemsize: int
    stored: str
    components: int = 1


DTYPES: dict[str, Dtype] = {
    dtype.name: dtype
    for dtype in (
        Dtype("bool", 1, "BOOL"),
        Dtype("uint8", 1, "U8"),
        Dtype("int8", 1, "I8"),
        Dtype("uint16", 2, "U16"),
        Dtype("int16", 2, "I16"),
        Dtype("uint32", 4, "U32"),
        Dtype("int32", 4, "I32"),
        Dtype("uint64", 8, "U64"),
        Dtype("int64", 8, "I64"),
        Dtype("float16", 2, "F16"),
        Dtype("bfloat16", 2, "BF16"),
        Dtype("float32", 4, "F32"),
        Dtype("float64", 8, "F64"),
        Dtype("float8_e4m3fn", 1, "F8_E4M3"),
        Dtype("float8_e5m2", 1, "F8_E5M2"),
        Dtype("float8_e4m3fnuz", 1, "U8"),
        Dtype("float8_e5m2fnuz", 1, "U8"),
        Dtype("float8_e8m0fnu", 1, "U8"),
        Dtype("float4_e2m1fn_x2", 1, "U8"),
        Dtype("complex32", 4, "F16", components=2),
        Dtype("complex64", 8, "F32", components=2),
        Dtype("complex128", 16, "F64", components=2),
    )
}
"""Every dtype of format 1, by name."""


def lookup(name: str) -> Dtype:
    """The dtype called ``name``; `UsageError` if format 1 has none.

    >>> lookup("complex64").itemsize
    8
    """
    try:
        return DTYPES[name]
    except KeyError:
        known = ", ".join(DTYPES)
        raise UsageError(f"dtype {name!r} cannot be stored; convert the tensor to one of: {known}") from None


def nbytes(spec: TensorSpec) -> int:
    """The bytes that a tensor of this dtype and shape takes.

    >>> nbytes(TensorSpec("bfloat16", (2, 3)))
    12
    """
    return math.prod(spec.shape) * lookup(spec.dtype).itemsize


def stored_as(spec: TensorSpec) -> tuple[str, tuple[int, ...]]:
    """The safetensors dtype and the shape under which the tensor's bytes are written.

    >>> stored_as(TensorSpec("complex64", (4,)))
    ('F32', (4, 2))
    """
    dtype = lookup(spec.dtype)
    return dtype.stored, spec.shape if dtype.components == 1 else (*spec.shape, dtype.components)
