"""Tensors and arrays: their bytes out and in, as leaves and as items of their own."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
from torch import nn

from holdfast.errors import MisfitError, UnsafeValueError
from holdfast.format.dtypes import DTYPES, nbytes
from holdfast.state.adapt import adapt
from holdfast.state.array import ArraySource, ArrayTarget
from holdfast.state.torch import tensor as memory
from holdfast.state.torch.tensor import TensorSource
from holdfast.types import TensorSpec


class Named(torch.Tensor):
    """A subclass that is plain storage."""


def some(dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
    """Any bits, NaNs and negative zeros among them."""
    size = nbytes(TensorSpec(str(dtype).removeprefix("torch."), shape))
    raw = torch.randint(0, 2 if dtype == torch.bool else 256, (size,), dtype=torch.uint8)
    return raw.view(dtype).reshape(shape)


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().resolve_conj().resolve_neg().reshape(-1).view(torch.uint8).numpy().tobytes()


def copied_out(tensor: torch.Tensor) -> bytes:
    source = TensorSource(tensor, "t")
    buffer = bytearray(nbytes(source.spec))
    source.copy_into(memoryview(buffer))
    return bytes(buffer)


@pytest.mark.filterwarnings("ignore:ComplexHalf")
@pytest.mark.parametrize("name", list(DTYPES))
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 3), (2, 3)])
def test_every_dtype_and_shape_survives_bit_for_bit(name, shape):
    """What goes out comes in with the same bits, NaN payloads included."""
    tensor = some(getattr(torch, name), shape)
    fresh = torch.empty_like(tensor)
    target = memory.target(fresh, "t")
    target.buffer()[:] = copied_out(tensor)
    target.finish()
    assert bits(fresh) == bits(tensor)
    assert target.spec == TensorSource(tensor, "t").spec == TensorSpec(name, shape)


VIEWS = {
    "transposed": lambda: torch.randn(3, 4).t(),
    "strided": lambda: torch.randn(10)[::3],
    "expanded": lambda: torch.randn(3, 1).expand(3, 4),
    "channels_last": lambda: torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
    "conjugate": lambda: torch.randn(3, dtype=torch.complex64).conj(),
    "negative": lambda: torch.randn(3, dtype=torch.complex64).conj().imag,
    "parameter": lambda: nn.Parameter(torch.randn(3)),
    "subclass": lambda: torch.randn(3).as_subclass(Named),
    "needs_grad": lambda: torch.randn(3, requires_grad=True) * 2,
    "inference": lambda: torch.ones(3),
}


@pytest.mark.parametrize("kind", list(VIEWS))
def test_views_and_subclasses_are_stored_as_their_elements(kind):
    """Strides, broadcasting, lazy conjugation and plain subclasses do not show in the bytes."""
    tensor = VIEWS[kind]()
    assert copied_out(tensor) == bits(tensor)


LARGE = {
    "plain": lambda: torch.randn(200, 100),
    "transposed": lambda: torch.randn(200, 100).t(),
    "conjugate": lambda: torch.randn(20_000, dtype=torch.complex64).conj(),
    "parameter": lambda: nn.Parameter(torch.randn(20_000)),
    "subclass": lambda: torch.randn(20_000).as_subclass(Named),
    "needs_grad": lambda: torch.randn(20_000, requires_grad=True) * 2,
}


@pytest.mark.parametrize("kind", list(VIEWS))
@pytest.mark.parametrize("elements", [1, 2, 5, 7])
def test_parts_of_views_are_what_they_are_in_all_of_it(kind, elements):
    """A state that streams is taken in parts, which begin and end anywhere."""
    tensor = VIEWS[kind]()
    source, size = TensorSource(tensor, "t"), elements * tensor.element_size()
    image = bytearray(nbytes(source.spec))
    for begin in range(0, len(image), size):
        source.copy_into(memoryview(image)[begin : begin + size], begin)
    assert bytes(image) == bits(tensor)


@pytest.mark.parametrize("kind", list(LARGE))
def test_large_tensors_are_stored_as_small_ones_are(kind):
    """They are copied in another way, which sees no gradients either."""
    tensor = LARGE[kind]()
    before = tensor._version
    assert copied_out(tensor) == bits(tensor)
    assert tensor._version == before


@pytest.mark.parametrize("kind", list(VIEWS))
def test_views_and_subclasses_are_filled_in_place(kind):
    """A tensor of any layout receives the elements without moving."""
    tensor, live = VIEWS[kind](), VIEWS[kind]()
    address = live.data_ptr()
    target = memory.target(live, "t")
    buffer = target.buffer()
    assert target.buffer().obj is buffer.obj or np.shares_memory(target.buffer(), buffer)
    buffer[:] = copied_out(tensor)
    target.finish()
    assert torch.equal(live, tensor)
    assert live.data_ptr() == address


def test_a_contiguous_tensor_is_its_own_buffer():
    """Reading into it needs no second memory."""
    tensor = torch.zeros(4)
    memory.target(tensor, "t").buffer()[:] = np.arange(4, dtype="f4").tobytes()
    assert torch.equal(tensor, torch.arange(4.0))


def test_a_source_does_not_see_gradients_or_versions():
    """Copying a parameter out leaves its version and its graph alone."""
    parameter = nn.Parameter(torch.randn(3))
    result = (parameter**2).sum()
    copied_out(parameter)
    assert parameter._version == 0
    result.backward()
    assert parameter.requires_grad


def test_tied_tensors_have_one_identity():
    """The same elements of the same memory are equal; a view of others, and nothing at all, are not."""
    tensor = torch.randn(4, 4)
    identity = TensorSource(tensor, "t").identity
    assert identity == TensorSource(tensor.detach(), "t").identity == TensorSource(nn.Parameter(tensor), "t").identity
    assert identity == ArraySource(tensor.numpy(), "t").identity
    assert identity != TensorSource(tensor.t(), "t").identity
    assert identity != TensorSource(tensor[:2], "t").identity
    assert TensorSource(torch.zeros(0), "t").identity is None


def jagged() -> torch.Tensor:
    return torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged)


def freed() -> torch.Tensor:
    tensor = torch.ones(3)
    tensor.untyped_storage().resize_(0)
    return tensor


STRANGE = {
    "meta": (lambda: torch.ones(2, device="meta"), "to_empty"),
    "sparse": (lambda: torch.eye(2).to_sparse(), "to_dense"),
    "sparse_csr": (lambda: torch.eye(2).to_sparse_csr(), "to_dense"),
    "quantized": (lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8), "int_repr"),
    "nested": (lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), "unbind"),
    "jagged": (jagged, "to_local"),
    "uninitialized": (lambda: nn.LazyLinear(2).weight, "forward pass"),
    "freed": (freed, "gather"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", list(STRANGE))
def test_what_is_not_plain_memory_is_refused_with_its_path(save, kind):
    """A sparse, meta, quantized, nested or lazy tensor is named, with what to do."""
    make, advice = STRANGE[kind]
    with pytest.raises(UnsafeValueError, match=advice) as caught:
        save({"a": [make()]}, "extra")
    assert caught.value.path == "extra/a/0"
    assert "extra/a/0" in str(caught.value)


def test_a_distributed_tensor_is_refused_with_its_path(save, tmp_path):
    """A DTensor has only its shard here; the error says how to get a plain one."""
    from torch.distributed.tensor import distribute_tensor, init_device_mesh

    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        tensor = distribute_tensor(torch.ones(2), init_device_mesh("cpu", (1,)))
        with pytest.raises(UnsafeValueError, match="full_tensor"):
            save({"a": tensor}, "extra")
    finally:
        torch.distributed.destroy_process_group()


def test_a_tensor_item_is_restored_in_place(save, load):
    """A tensor or parameter of its own keeps its identity and its gradient flag."""
    live = nn.Parameter(torch.zeros(2, 3))
    load(live, save(torch.arange(6.0).reshape(2, 3)))
    assert torch.equal(live, torch.arange(6.0).reshape(2, 3))
    assert live.requires_grad
    assert live.is_leaf


def test_an_array_item_is_restored_in_place(save, load):
    """An array of its own is filled, strided or not."""
    live = np.zeros((4, 3))[::2]
    load(live, save(np.arange(6.0).reshape(2, 3)))
    assert np.array_equal(live, np.arange(6.0).reshape(2, 3))


@pytest.mark.parametrize("make", [torch.zeros, np.zeros])
def test_a_tensor_item_of_another_shape_is_refused(save, make):
    """Shape and dtype must fit, and both are named."""
    with pytest.raises(MisfitError, match=r"shape \[2\] in the checkpoint, \[3\] here"):
        adapt("t", make(3)).prepare(save(make(2), "t").record)


def test_a_tensor_item_is_converted_only_when_asked(save, load):
    """A cast is asked for and noted."""
    live = torch.zeros(2, dtype=torch.float64)
    saved = save(torch.ones(2))
    with pytest.raises(MisfitError, match="float32"):
        adapt("t", live).prepare(saved.record)
    assert load(live, saved, cast=True).notes
    assert torch.equal(live, torch.ones(2, dtype=torch.float64))


@pytest.mark.skipif(not hasattr(torch, "float4_e2m1fn_x2"), reason="this torch has no numbers of four bits")
@pytest.mark.parametrize("strict", [False, True])
def test_what_torch_cannot_convert_is_refused_before_anything_is_read(save, strict):
    """Numbers of four bits become no others, whatever was asked for."""
    saved, here = save(torch.arange(4, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)), torch.zeros(4)
    if strict:
        with pytest.raises(MisfitError) as caught:
            adapt("item", here).prepare(saved.record, cast=True)
        assert "cannot be converted" in caught.value.problems[0]
    else:
        assert not adapt("item", here).prepare(saved.record, cast=True, strict=False).targets


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_read_only_array_is_refused(save, order):
    """It is the object itself that has to be filled; nothing is read before that is known."""
    array = np.ones((3, 4), order=order)
    saved = save(array)
    array.flags.writeable = False
    with pytest.raises(MisfitError) as caught:
        adapt("item", array).prepare(saved.record)
    assert "read-only" in caught.value.problems[0]


@pytest.mark.parametrize("dtype", ["bool", "i1", "u2", "i8", "f2", "f4", "f8", "c8", "c16"])
@pytest.mark.parametrize("shape", [(), (0, 2), (2, 3)])
def test_arrays_survive_bit_for_bit(dtype, shape):
    """Every plain dtype of numpy, 0-d and empty ones included."""
    array = np.asarray(np.random.default_rng(0).integers(0, 2, shape)).astype(dtype)
    source, fresh = ArraySource(array, "a"), np.empty_like(array)
    buffer = bytearray(array.nbytes)
    source.copy_into(memoryview(buffer))
    target = ArrayTarget(fresh, "a")
    target.buffer()[:] = buffer
    target.finish()
    assert fresh.tobytes() == array.tobytes()


@pytest.mark.parametrize("part", [8, 24, 4096])
def test_parts_of_an_array_that_is_not_one_block(part):
    """They are what they are in all of it, and no copy is made of the rest."""
    array = np.arange(2_000_000.0).reshape(1000, 2000).T[:, ::2]
    source, expected = ArraySource(array, "a"), array.tobytes()
    tracemalloc.start()
    for begin in (0, 8 * 999, 8 * 1000, array.nbytes - part):
        image = bytearray(part)
        source.copy_into(memoryview(image), begin)
        assert image == expected[begin : begin + part]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100_000


@pytest.mark.parametrize(
    "array",
    [np.array([object()]), np.array(["a"]), np.ma.masked_array([1], [True]), np.zeros(2, ">f4"), np.zeros(2, "M8[s]")],
    ids=["object", "text", "masked", "big_endian", "datetime"],
)
def test_arrays_that_are_not_plain_numbers_are_refused(save, array):
    """Nothing is lost or reinterpreted quietly."""
    with pytest.raises(UnsafeValueError, match="extra/a"):
        save({"a": array}, "extra")
