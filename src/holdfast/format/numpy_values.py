"""NumPy scalars and dtypes as plain values. NumPy is imported only when a checkpoint holds one."""

from __future__ import annotations

import re
import sys
from typing import Any

from holdfast.format.codecs import Codec, decode_bytes, encode_bytes

_DTYPE = re.compile(r"[<>|][biufcmMSU][0-9]{1,9}(\[[0-9a-zA-Z]{1,20}\])?")


def numpy_codec(value: object) -> Codec | None:
    """The codec of a NumPy scalar or dtype; None for anything else."""
    numpy = sys.modules.get("numpy")
    if numpy is None:
        return None
    if isinstance(value, numpy.generic):
        return SCALAR
    return DTYPE if isinstance(value, numpy.dtype) else None


def _encode_scalar(value: Any) -> list[str]:
    import numpy

    array = numpy.asarray(value).astype(value.dtype.newbyteorder("<"))
    payload = [_encode_dtype(array.dtype), encode_bytes(array.tobytes())]
    # NumPy drops NULs at the end of its strings.
    if numpy.asarray(_decode_scalar(payload)).tobytes() != numpy.asarray(value).tobytes():
        raise ValueError(f"{value!r} does not survive being stored; use a Python value")
    return payload


def _decode_scalar(payload: list[Any]) -> Any:
    import numpy

    text, data = payload
    dtype, raw = _decode_dtype(text), decode_bytes(data)
    if dtype.itemsize != len(raw):
        raise ValueError(f"{len(raw)} bytes for the dtype {text}")
    return numpy.frombuffer(raw, dtype)[0] if raw else dtype.type()


def _encode_dtype(dtype: Any) -> str:
    text = str(dtype.str)
    if not _DTYPE.fullmatch(text) or dtype.hasobject:
        raise ValueError(f"the NumPy dtype {dtype} is none of bool, int, float, complex, datetime, bytes, str")
    return text


def _decode_dtype(text: str) -> Any:
    import numpy

    if not _DTYPE.fullmatch(text):
        raise ValueError(f"not a NumPy dtype: {text[:40]!r}")
    return numpy.dtype(text)


SCALAR = Codec(object, "$numpy", _encode_scalar, _decode_scalar, list)
DTYPE = Codec(object, "$numpy_dtype", _encode_dtype, _decode_dtype, str)
