"""The memory of numpy arrays: copied out of, read into, allocated."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np

from holdfast.errors import UnsafeValueError, UnsupportedFormatError
from holdfast.format.dtypes import DTYPES
from holdfast.state import strides
from holdfast.state.strides import extent
from holdfast.types import TensorSpec

Array = np.ndarray[Any, np.dtype[Any]]


def _native(name: str) -> np.dtype[Any] | None:
    try:
        dtype = np.dtype(name)
    except TypeError:
        return None
    return dtype if dtype.kind in "biufc" else None


_DTYPES = {name: dtype for name in DTYPES if (dtype := _native(name)) is not None}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


class ArraySource:
    """A numpy array to be saved, by reference: its bytes are those at the time of `copy_into`."""

    __slots__ = ("_array", "identity", "spec")

    def __init__(self, array: Array, path: str) -> None:
        self.spec = spec_of(array, path)
        self.identity = _identity(array, self.spec)
        self._array = array

    @property
    def frozen(self) -> bool:
        """Nobody can tell: an array has no version counter, and training may write into it at any time."""
        return False

    def seen(self) -> Hashable:
        return object()

    def copy_into(self, destination: memoryview, begin: int = 0) -> None:
        """Straight copy; strides are resolved."""
        image: Array = np.frombuffer(destination, dtype=self._array.dtype)
        if image.size == self._array.size:
            image.reshape(self._array.shape)[...] = self._array
        else:
            first = begin // self._array.itemsize
            # To reshape an array that is not one block of memory would copy all of it for each part.
            elements = self._array.reshape(-1) if self._array.flags.c_contiguous else self._array.flat
            image[...] = elements[first : first + image.size]


class ArrayTarget:
    """A numpy array to be filled, of the stored dtype or converted to the array's own."""

    __slots__ = ("_array", "_before", "_kept", "_staging", "spec")

    def __init__(self, array: Array, path: str, spec: TensorSpec | None = None) -> None:
        self._array = array
        self.spec = spec or spec_of(array, path)
        self._staging: Array | None = None
        self._before: Array | None = None
        self._kept: Array | None = None

    def span(self) -> tuple[int, int] | None:
        """See `holdfast.state.overlap.Live`, as for all that follow."""
        if not self._array.size:
            return None
        begin = self._array.ctypes.data
        lowest, highest = extent(self._array.shape, self._array.strides)
        return begin + lowest, begin + highest + self._array.itemsize

    def identity(self) -> Hashable:
        known = _identity(self._array, spec_of(self._array, ""))
        return object() if known is None else known

    def repeats(self) -> bool:
        return may_repeat(self._array)

    def stage(self) -> None:
        self._before = self._array.copy()
        self._kept = self._staging = empty(self.spec, "a staging buffer")

    def agrees(self) -> bool:
        return self._kept is None or self._array.tobytes() == self._kept.astype(self._array.dtype).tobytes()

    def put_back(self) -> None:
        if self._before is not None:
            self._array[...] = self._before

    def settle(self) -> None:
        self._before = self._kept = None

    def buffer(self) -> memoryview:
        if self._staging is None:
            direct = self._array.flags.c_contiguous and self.spec == spec_of(self._array, "")
            self._staging = self._array if direct else empty(self.spec, "a staging buffer")
        return self._staging.reshape(-1).view(np.uint8).data

    def finish(self) -> None:
        if self._staging is not None and self._staging is not self._array:
            self._array[...] = self._staging.astype(self._array.dtype)
        self._staging = None


source = ArraySource
target = ArrayTarget


def new(spec: TensorSpec, path: str) -> tuple[Array, ArrayTarget]:
    """A new array, its elements not set, and the target that fills it."""
    array = empty(spec, path)
    return array, ArrayTarget(array, path, spec)


def spec_of(array: Array, path: str) -> TensorSpec:
    """Dtype and shape. Raises `UnsafeValueError` for what is not plain numbers in plain memory."""
    if type(array) not in (np.ndarray, np.memmap):
        raise UnsafeValueError(f"{path}: {type(array).__qualname__} is more than its data; give a plain array", path)
    name = _NAMES.get(array.dtype)
    if name is None:
        raise UnsafeValueError(
            f"{path}: an array of dtype {array.dtype!s} has no place in a checkpoint; "
            f"convert it to native-endian numbers, or to a list",
            path,
        )
    return TensorSpec(name, array.shape)


def may_repeat(array: Array) -> bool:
    """See `holdfast.state.strides.may_repeat`."""
    return not array.flags.c_contiguous and strides.may_repeat(array.shape, array.strides, array.itemsize)


def empty(spec: TensorSpec, path: str) -> Array:
    """A new array, its elements not set. Raises `UnsupportedFormatError` for a dtype that numpy lacks."""
    if spec.dtype not in _DTYPES:
        raise UnsupportedFormatError(f"{path}: numpy has no dtype {spec.dtype!r}")
    return np.empty(spec.shape, dtype=_DTYPES[spec.dtype])


def _identity(array: Array, spec: TensorSpec) -> Hashable | None:
    """Equal for arrays that show the same elements of the same memory, tensors of torch included."""
    if not array.size or any(stride % array.itemsize for stride in array.strides):
        return None
    strides = tuple(stride // array.itemsize for stride in array.strides)
    return (None, array.ctypes.data, spec, strides, False, False)
