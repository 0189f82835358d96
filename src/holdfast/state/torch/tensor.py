"""The memory of torch tensors: copied out of, read into, allocated."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Hashable

import torch
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from holdfast.errors import UnsafeValueError, UnsupportedFormatError
from holdfast.format.dtypes import DTYPES
from holdfast.state import strides
from holdfast.state.torch import device_memory
from holdfast.state.torch.device_memory import DeviceMemory
from holdfast.state.torch.frozen import is_frozen, seen, span_of
from holdfast.types import TensorSpec

_DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in DTYPES if hasattr(torch, name)}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_FOUR_BITS: torch.dtype | None = getattr(torch, "float4_e2m1fn_x2", None)
_PLAIN = (torch.Tensor, torch.nn.Parameter)
_LAZY = (UninitializedParameter, UninitializedBuffer)
_WRITABLE = 0x200
"""What `PyMemoryView_FromMemory` calls ``PyBUF_WRITE``."""
_view = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int)(
    ("PyMemoryView_FromMemory", ctypes.pythonapi)
)
_CPU = torch.device("cpu")
_SMALL = 16 << 10
"""Bytes up to which what torch does around a copy costs many times the copy."""


class TensorSource:
    """A torch tensor to be saved, by reference: its bytes are those at the time of `copy_into`."""

    __slots__ = ("_frozen", "identity", "spec", "tensor")

    def __init__(self, tensor: torch.Tensor, path: str) -> None:
        self.tensor = plain(tensor, path)
        self.spec = spec_of(self.tensor, path)
        self.identity = _identity(self.tensor, self.spec)
        self._frozen = tensor if is_frozen(tensor) else None

    @property
    def frozen(self) -> bool:
        return self._frozen is not None

    def seen(self) -> Hashable:
        return object() if self._frozen is None else seen(self._frozen, self.tensor)

    def copy_into(self, destination: memoryview, begin: int = 0) -> None:
        """Straight copy at the speed of the memory; strides, broadcasting and lazy conjugation are resolved."""
        size = len(destination)
        if 0 < size <= _SMALL and _is_straight(self.tensor):
            destination[:] = ctypes.string_at(self.tensor.data_ptr() + begin, size)
        elif size:
            tensor = _copyable(self.tensor.detach())
            _copy_part(torch.frombuffer(destination, dtype=tensor.dtype), tensor, begin // tensor.element_size())


def cloned(tensor: torch.Tensor) -> torch.Tensor:
    """A dense copy of it on its own device, which does not stop for that."""
    return tensor.resolve_conj().resolve_neg().clone(memory_format=torch.contiguous_format)


def part_of(tensor: torch.Tensor, destination: memoryview, begin: int) -> tuple[torch.Tensor, torch.Tensor]:
    """``destination`` as a tensor, and the elements of a dense ``tensor`` that belong there, from byte ``begin`` on."""
    image = torch.frombuffer(destination, dtype=tensor.dtype)
    first = begin // tensor.element_size()
    return image, tensor.view(-1)[first : first + image.numel()]


def _copyable(tensor: torch.Tensor) -> torch.Tensor:
    """The same memory in a dtype that can be copied from one layout to another: torch cannot do so with four bits."""
    return tensor.view(torch.uint8) if tensor.dtype == _FOUR_BITS else tensor


def _copy_part(image: torch.Tensor, tensor: torch.Tensor, first: int) -> None:
    """Fills ``image`` with the elements of ``tensor`` from number ``first`` on, without a copy of all of it."""
    if tensor.is_contiguous():
        image.copy_(tensor.view(-1)[first : first + image.numel()])
        return
    row = tensor[0].numel()
    while image.numel():
        index, skipped = divmod(first, row)
        rows = 0 if skipped else image.numel() // row
        count = rows * row or min(row - skipped, image.numel())
        if rows:
            image[:count].view(rows, *tensor.shape[1:]).copy_(tensor[index : index + rows])
        else:
            _copy_part(image[:count], tensor[index], skipped)
        image, first = image[count:], first + count


class TensorTarget:
    """A torch tensor to be filled, of the stored dtype or converted to the tensor's own."""

    __slots__ = ("_before", "_kept", "_new", "_remote", "_staging", "_tensor", "spec")

    def __init__(self, tensor: torch.Tensor, spec: TensorSpec, staging: torch.Tensor | None = None) -> None:
        """Of a tensor that is `plain`; ``staging`` is where its bytes are read to, if that is known already."""
        self._tensor = tensor
        self.spec = spec
        self._staging = staging
        self._new = staging is not None
        self._remote: DeviceMemory | None = None
        self._before: torch.Tensor | None = None
        self._kept: torch.Tensor | None = None

    def buffer(self) -> memoryview | DeviceMemory:
        if self._remote is None and self._staging is None:
            self._place()
        return _memory(self._staging) if self._staging is not None else self._remote or memoryview(bytearray())

    def span(self) -> tuple[int, int] | None:
        """See `holdfast.state.overlap.Live`, as for all that follow."""
        if self._new or not self._tensor.numel():
            return None
        begin = self._tensor.data_ptr()
        if self._tensor.is_contiguous():
            return begin, begin + self._tensor.nbytes
        return begin, begin + span_of(self._tensor)

    def identity(self) -> Hashable:
        return _identity(self._tensor, spec_of(self._tensor, ""))

    def repeats(self) -> bool:
        return may_repeat(self._tensor)

    def stage(self) -> None:
        self._before = cloned(self._tensor.detach())
        self._count()
        self._kept = self._staging = empty(self.spec, "a staging buffer")

    def agrees(self) -> bool:
        return self._kept is None or torch.equal(
            _bits(self._tensor.detach()), _bits(self._kept.to(self._tensor.device, self._tensor.dtype))
        )

    def put_back(self) -> None:
        if self._before is not None:
            live = _copyable(self._tensor.detach())
            _distinct(live).copy_(_distinct(_copyable(self._before), live))

    def settle(self) -> None:
        self._before = self._kept = None

    def _count(self) -> None:
        if not self._tensor.is_inference():
            # Else nobody would see that it is read into: a graph that needs the old values, a save that takes what is
            # frozen for what it was, a snapshot that is just being copied behind training.
            torch.autograd.graph.increment_version(self._tensor)

    def _place(self) -> None:
        self._count()
        alike = self._tensor.dtype == _DTYPES.get(self.spec.dtype) and is_dense(self._tensor)
        if alike and self._tensor.numel() and device_memory.accelerator.has(self._tensor):
            self._remote = DeviceMemory.of(self._tensor)
        else:
            self._staging = self._tensor if alike and self._tensor.is_cpu else empty(self.spec, "a staging buffer")

    def finish(self) -> None:
        if self._staging is not None and self._staging is not self._tensor:
            live = self._tensor.detach()
            if self._staging.dtype == live.dtype:
                live, self._staging = _copyable(live), _copyable(self._staging)
            _distinct(live).copy_(_distinct(self._staging, live))
        self._staging = self._remote = None


def _memory(tensor: torch.Tensor) -> memoryview:
    """The bytes of a tensor that lies straight in memory, valid as long as the tensor is.

    By torch's own ways it takes four calls and several times as long, which shows where there are very many tensors.
    """
    size = tensor.nbytes
    return _view(tensor.data_ptr(), size, _WRITABLE) if size else memoryview(bytearray())


def plain(tensor: torch.Tensor, path: str) -> torch.Tensor:
    """The same memory as a tensor without behaviour of its own.

    Raises `UnsafeValueError` for a tensor that is not plain strided memory.
    """
    if type(tensor) in _PLAIN:
        _refuse(_formlessness(tensor), path)
        return tensor
    _refuse(_strangeness(tensor), path)
    with torch._C.DisableTorchFunctionSubclass():
        return tensor.detach()


source = TensorSource


def target(tensor: torch.Tensor, path: str, spec: TensorSpec | None = None) -> TensorTarget:
    """Where the elements of ``tensor`` are filled from stored ones, which are those of ``spec``.

    Raises `UnsafeValueError` for a tensor that is not plain strided memory.
    """
    tensor = plain(tensor, path)
    return TensorTarget(tensor, spec or spec_of(tensor, path))


def new(
    spec: TensorSpec, path: str, device: torch.device = _CPU, like: torch.Tensor | None = None
) -> tuple[torch.Tensor, TensorTarget]:
    """A new tensor, its elements not set, and the target that fills it.

    Its elements lie in the order of those of ``like``, if that has the same shape.
    """
    tensor = empty(spec, path, device)
    if like is not None and _is_ordered(like, tensor):
        with torch._C.DisableTorchFunctionSubclass():
            tensor = torch.empty_like(like.detach(), dtype=tensor.dtype, device=device)
    return tensor, TensorTarget(tensor, spec, tensor if _is_straight(tensor) else None)


def _is_ordered(tensor: torch.Tensor, usual: torch.Tensor) -> bool:
    """Whether it has the shape of the other, and strides of its own, as in channels last.

    Those of axes of one element count: fused steps on a device ask for equal strides.
    """
    if is_uninitialized(tensor) or tensor.shape != usual.shape or tensor.layout != torch.strided:
        return False
    return tensor.stride() != usual.stride() and is_plain(tensor)


def is_uninitialized(tensor: object) -> bool:
    """Whether this is a parameter of a lazy module that has not seen its first batch."""
    return issubclass(type(tensor), _LAZY)  # isinstance() runs code of torch for each parameter that it is asked of


def is_plain(tensor: torch.Tensor) -> bool:
    """Whether `plain` takes it: it is one block of memory, and that is there."""
    return _strangeness(tensor) is None


def spec_of(tensor: torch.Tensor, path: str) -> TensorSpec:
    """Dtype and shape. Raises `UnsafeValueError` for a dtype that format 1 has no name for."""
    if tensor.dtype not in _NAMES:
        raise UnsafeValueError(f"{path}: {tensor.dtype} has no place in a checkpoint; convert the tensor first", path)
    return _spec(tensor.dtype, tensor.shape)


@functools.lru_cache(4096)
def _spec(dtype: torch.dtype, shape: torch.Size) -> TensorSpec:
    """One record for all tensors that are alike: there may be very many."""
    return TensorSpec(_NAMES[dtype], tuple(shape))


def dtype_named(name: str, path: str) -> torch.dtype:
    """The torch dtype of that name. Raises `UnsupportedFormatError` if this torch has none."""
    if name not in _DTYPES:
        raise UnsupportedFormatError(f"{path}: torch {torch.__version__} has no dtype {name!r}; use a newer torch")
    return _DTYPES[name]


def empty(spec: TensorSpec, path: str, device: torch.device = _CPU) -> torch.Tensor:
    """A new tensor, its elements not set."""
    # With the size by its name, torch finds out at once which of its functions is meant: a third of the time.
    return torch.empty(size=spec.shape, dtype=dtype_named(spec.dtype, path), device=device)


def _identity(tensor: torch.Tensor, spec: TensorSpec) -> Hashable | None:
    """Equal for tensors that show the same elements of the same memory, arrays of numpy included."""
    if not tensor.numel():
        return None
    device = None if tensor.is_cpu else tensor.device
    return (device, tensor.data_ptr(), spec, tensor.stride(), tensor.is_conj(), tensor.is_neg())


def _is_straight(tensor: torch.Tensor) -> bool:
    """Whether the elements lie in this machine's memory one behind the other, as they are."""
    return tensor.is_cpu and is_dense(tensor)


def may_repeat(tensor: torch.Tensor) -> bool:
    """See `holdfast.state.strides.may_repeat`."""
    return not tensor.is_contiguous() and strides.may_repeat(tensor.shape, tensor.stride())


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return cloned(tensor).view(-1).view(torch.uint8)


def is_dense(tensor: torch.Tensor) -> bool:
    """Whether the elements lie one behind the other, as they are, on whatever device."""
    return tensor.is_contiguous() and not tensor.is_conj() and not tensor.is_neg()


def _distinct(tensor: torch.Tensor, like: torch.Tensor | None = None) -> torch.Tensor:
    """Without the axes along which ``like`` repeats one element: torch refuses to write into those."""
    for axis, stride in enumerate((tensor if like is None else like).stride()):
        if stride == 0 and tensor.shape[axis] > 1:
            tensor = tensor.narrow(axis, 0, 1)
    return tensor


def _refuse(reason: str | None, path: str) -> None:
    if reason is not None:
        raise UnsafeValueError(f"{path}: {reason}", path)


def _strangeness(tensor: torch.Tensor) -> str | None:
    if is_uninitialized(tensor):
        return "a lazy module's parameter without a shape yet; run one forward pass before the first save"
    if type(tensor).__torch_dispatch__ is not torch.Tensor.__torch_dispatch__:
        name = f"{type(tensor).__module__}.{type(tensor).__qualname__}"
        return f"{name} is not one plain block of memory; give its local or full tensor (`to_local()`, `full_tensor()`)"
    with torch._C.DisableTorchFunctionSubclass():
        return _formlessness(tensor)


def _formlessness(tensor: torch.Tensor) -> str | None:
    if tensor.is_meta:
        return "a tensor on the meta device has no values; materialize it (`to_empty`, then initialize) first"
    if tensor.is_quantized:
        return (
            "a quantized tensor has its scale outside the data; save `int_repr()` and the scale, or the float weights"
        )
    if tensor.is_nested:
        return "a nested tensor is a list of tensors; save them as a list (`unbind()`)"
    if tensor.layout != torch.strided:
        return f"a tensor of layout {tensor.layout} is not one block of memory; save its parts, or `to_dense()`"
    if tensor.numel() and not tensor.untyped_storage().nbytes():
        return "its storage was freed (a sharded parameter outside of forward?); gather it before saving"
    return None
