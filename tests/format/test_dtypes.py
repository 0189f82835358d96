"""Dtypes by name, and how they are stored."""

import pytest

from holdfast.errors import UsageError
from holdfast.format.dtypes import DTYPES, lookup, nbytes, stored_as
from holdfast.format.safetensors import ITEM_SIZES
from holdfast.types import TensorSpec

torch = pytest.importorskip("torch")


@pytest.mark.parametrize("name", DTYPES)
def test_every_name_is_torchs_with_its_element_size(name):
    """A name of the table is a dtype of torch, of the same size, complex where it has two components."""
    dtype = getattr(torch, name, None)
    if dtype is None:
        pytest.skip("this torch has no such dtype")
    assert (dtype.itemsize, dtype.is_complex) == (DTYPES[name].itemsize, DTYPES[name].components == 2)


@pytest.mark.parametrize("name", DTYPES)
def test_the_stored_view_has_the_same_bytes(name):
    """What is stored takes as many bytes as the tensor."""
    spec = TensorSpec(name, (2, 3))
    stored, shape = stored_as(spec)
    assert ITEM_SIZES[stored] * TensorSpec("", shape).size == nbytes(spec)


def test_scalars_and_empty_tensors_have_sizes():
    """A 0-d tensor has one element, a tensor with an empty dimension none."""
    assert (nbytes(TensorSpec("int64", ())), nbytes(TensorSpec("int64", (0, 7)))) == (8, 0)
    assert stored_as(TensorSpec("complex128", ())) == ("F64", (2,))


def test_an_unknown_dtype_is_refused_by_name():
    """A dtype that format 1 lacks is named, with those it has."""
    with pytest.raises(UsageError, match=r"'quint8' cannot be stored.*bfloat16"):
        lookup("quint8")
