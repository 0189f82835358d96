"""The layout of shards: what is planned opens with the safetensors package, and hostile headers are refused."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import CorruptError, UsageError
from holdfast.format.dtypes import DTYPES, nbytes
from holdfast.format.safetensors import ALIGNMENT, header_size, layout, parse_header
from holdfast.types import TensorSpec

SPECS = st.builds(TensorSpec, st.sampled_from(list(DTYPES)), st.lists(st.integers(0, 5), max_size=3).map(tuple))
NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=12).filter(lambda name: name != "__metadata__")


def with_header(entries, data=b"", padding=b""):
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return len(text + padding).to_bytes(8, "little") + text + padding + data


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@given(st.dictionaries(NAMES, SPECS, max_size=12))
def test_a_layout_is_aligned_dense_and_read_back(specs):
    """Data starts at a multiple of 4096, tensors touch, each begins at a multiple of its element size."""
    plan = layout(list(specs.items()), {"format": "pt"})
    assert len(plan.header) % ALIGNMENT == 0
    assert sum(map(nbytes, specs.values())) == plan.size - len(plan.header)
    found = parse_header(plan.header, plan.size)
    assert {name: (begin, end) for name, (_, _, begin, end) in found.items()} == plan.ranges
    assert list(plan.ranges) == sorted(plan.ranges, key=lambda name: -DTYPES[specs[name].dtype].itemsize)
    assert all(plan.ranges[name][0] % DTYPES[spec.dtype].itemsize == 0 for name, spec in specs.items())


def test_equal_element_sizes_keep_the_given_order():
    """Among tensors of one element size the first given comes first."""
    specs = [(name, TensorSpec("float32", (1,))) for name in ("z", "a", "m")]
    assert list(layout(specs, {}).ranges) == ["z", "a", "m"]


@pytest.mark.parametrize("name", [name for name in DTYPES if "float4" not in name])
def test_the_safetensors_package_opens_every_dtype(name, tmp_path):
    """A file laid out here loads with safetensors.torch, bytes and shape as stored."""
    torch = pytest.importorskip("torch")
    load_file = pytest.importorskip("safetensors.torch").load_file
    spec = TensorSpec(name, (2, 3))
    plan = layout([("flags", TensorSpec("bool", (3,))), ("x", spec), ("none", TensorSpec(name, (0, 2)))], {"a": "b"})
    begin, end = plan.ranges["x"]
    image = bytearray(plan.size)
    image[: len(plan.header)] = plan.header
    image[begin:end] = data = bytes(range(1, end - begin + 1))
    (tmp_path / "x.safetensors").write_bytes(image)
    found = load_file(tmp_path / "x.safetensors")
    assert found["x"].contiguous().view(torch.uint8).numpy().tobytes() == data
    assert found["x"].numel() in (6, 12)
    assert found["none"].numel() == 0


def test_safe_open_sees_the_metadata(tmp_path):
    """Metadata given to the layout is the file's, and a file without tensors opens."""
    safe_open = pytest.importorskip("safetensors").safe_open
    (tmp_path / "x.safetensors").write_bytes(layout([], {"format": "pt"}).header)
    with safe_open(tmp_path / "x.safetensors", "numpy") as opened:
        assert (opened.metadata(), list(opened.keys())) == ({"format": "pt"}, [])


@pytest.mark.parametrize(
    ("names", "message"),
    [(["a", "b", "a"], "both called 'a'"), (["__metadata__"], "keeps that name"), (["\ud800"], "not valid Unicode")],
)
def test_names_that_cannot_stand_in_a_file_are_refused(names, message):
    """Repeated, reserved and unwritable names are the caller's error."""
    with pytest.raises(UsageError, match=message):
        layout([(name, TensorSpec("float32", ())) for name in names], {})


HOSTILE = {
    "empty": b"",
    "cut in its length": b"\x02\x00",
    "header longer than the file": (1 << 20).to_bytes(8, "little") + b"{}",
    "header of terabytes": (1 << 50).to_bytes(8, "little") + b"{}",
    "not JSON": with_header(b"{nonsense}"),
    "not an object": with_header(b"[1]"),
    "not UTF-8": with_header(b'{"\xff": 1}'),
    "not a tensor": with_header({"x": 5}),
    "metadata not text": with_header({"__metadata__": {"a": 1}}),
    "key twice": with_header(b'{"x":%s,"x":%s}' % ((json.dumps(entry()).encode(),) * 2), bytes(8)),
    "unknown key": with_header({"x": {**entry(), "pickle": ""}}, bytes(8)),
    "unknown dtype": with_header({"x": entry("F128", (1,), (0, 16))}, bytes(16)),
    "negative size": with_header({"x": entry(shape=(-1, -2))}, bytes(8)),
    "bool as size": with_header({"x": entry(shape=(2, True))}, bytes(8)),
    "float as size": with_header({"x": entry(shape=(2.0,))}, bytes(8)),
    "integer of 10,000 digits": with_header(b'{"x":{"dtype":"F32","shape":[' + b"9" * 10_000 + b"]}}"),
    "backwards": with_header({"x": entry(offsets=(8, 0))}, bytes(8)),
    "negative offset": with_header({"x": entry(offsets=(-8, 0))}, bytes(8)),
    "three offsets": with_header({"x": entry(offsets=(0, 8, 8))}, bytes(8)),
    "terabyte shape": with_header({"x": entry(shape=(1 << 40,))}, bytes(8)),
    "bytes of another shape": with_header({"x": entry(shape=(3,))}, bytes(8)),
    "overlap": with_header({"x": entry(), "y": entry(offsets=(4, 12))}, bytes(12)),
    "hole": with_header({"x": entry(), "y": entry(offsets=(12, 20))}, bytes(20)),
    "hole at the start": with_header({"x": entry(offsets=(4, 12))}, bytes(12)),
    "trailing bytes": with_header({"x": entry()}, bytes(9)),
    "data cut off": with_header({"x": entry()}, bytes(7)),
    "nested deeply": with_header(b'{"x":' + b"[" * 100_000),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_header_is_refused(name):
    """Whatever a header claims, it is a typed error unless tensors fill the data exactly."""
    with pytest.raises(CorruptError, match="safetensors"):
        parse_header(HOSTILE[name], len(HOSTILE[name]))


def test_a_header_that_is_cut_off_is_refused():
    """A prefix shorter than the header it announces is not parsed."""
    plan = layout([("x", TensorSpec("float32", (2,)))], {})
    assert header_size(plan.header[:8], plan.size) == len(plan.header)
    with pytest.raises(CorruptError, match="cut off"):
        parse_header(plan.header[:100], plan.size)


@given(st.binary(max_size=64), st.integers(0, 100))
def test_any_bytes_are_parsed_or_refused(data, size):
    """No bytes make the parser fail in another way."""
    with contextlib.suppress(CorruptError):
        parse_header(with_header(data), size)
