"""The golden checkpoint, as somebody's from long ago: this version must read it, value for value."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from holdfast.format.digests import FileDigest, block_span, check_block
from holdfast.format.dtypes import stored_as
from holdfast.format.manifest import open_manifest
from holdfast.format.names import CheckpointName
from holdfast.format.safetensors import header_size, parse_header
from holdfast.format.values import decode

GOLDEN = Path(__file__).parents[1] / "golden"
(CHECKPOINT,) = (GOLDEN / "format1").iterdir()


@pytest.fixture(scope="module")
def make():
    """The script that made it, which holds the values."""
    spec = importlib.util.spec_from_file_location("golden_make", GOLDEN / "make.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["golden_make"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def manifest():
    return open_manifest((CHECKPOINT / "manifest.json").read_bytes(), where=CHECKPOINT.name)


def test_the_manifest_belongs_in_its_directory(manifest):
    """Directory name and manifest agree on step, attempt and ordinal."""
    assert manifest.name == CheckpointName.parse(CHECKPOINT.name)
    assert manifest.reason == ("every 100 steps", "at end")
    assert (manifest.progress.step, manifest.progress.elapsed) == (500, 12.5)
    assert manifest.extra == {"note": "a key that format 1 does not know"}


def test_every_tag_is_decoded_to_the_same_value(manifest, make, same):
    """Plain values of every type come back exactly."""
    assert same(decode(manifest.items["values"].tree), make.VALUES)
    assert same(decode(manifest.config), {"lr": 0.1, "betas": (0.9, 0.999)})


def test_every_file_has_its_digests(manifest):
    """Sizes, block digests and file digests are those of the bytes."""
    for part in manifest.parts:
        for file, record in part.files.items():
            data = (CHECKPOINT / file).read_bytes()
            digest = FileDigest(record.block_size)
            for index in range(len(record.blocks)):
                block = data[slice(*block_span(record, index))]
                check_block(record, index, [block], where=file)
                digest.update(block)
            assert digest.record(len(data)) == record


def test_whole_tensors_have_their_bytes(manifest, make):
    """Each tensor's chunk holds its bytes, and the shard's own header says the same."""
    image = (CHECKPOINT / "model.safetensors").read_bytes()
    header = parse_header(image[: header_size(image[:8], len(image))], len(image))
    for name, record in manifest.items["model"].tensors.items():
        spec, data = make.TENSORS[name]
        (chunk,) = record.chunks
        assert record.spec == spec
        assert image[chunk.begin : chunk.end] == data
        assert header[name] == (*stored_as(spec), chunk.begin, chunk.end)
    assert manifest.items["model"].aliases["head"].tensor == "weight"


def test_a_split_tensor_is_put_together(manifest, make):
    """The chunks of two parts make the whole."""
    record = manifest.items["optimizer"].tensors["exp_avg"]
    whole = np.zeros(record.shape, "<f8")
    for chunk in record.chunks:
        data = (CHECKPOINT / chunk.file).read_bytes()[chunk.begin : chunk.end]
        place = tuple(slice(offset, offset + size) for offset, size in zip(chunk.offsets, chunk.sizes, strict=True))
        whole[place] = np.frombuffer(data, "<f8").reshape(chunk.sizes)
    assert np.array_equal(whole, make.MOMENTS)
    assert decode(manifest.items["optimizer"].tree, lambda tag, name: name) == {"state": {0: {"exp_avg": "exp_avg"}}}


def test_the_safetensors_package_opens_its_shards(make):
    """The golden shards are plain safetensors files."""
    torch = pytest.importorskip("torch")
    tensors = pytest.importorskip("safetensors.torch").load_file(CHECKPOINT / "model.safetensors")
    assert torch.equal(tensors["weight"], (torch.arange(12) / 8 - 1).reshape(4, 3))
    assert torch.view_as_complex(tensors["rotary"]).shape == (2, 3)
    assert tensors["norm"].dtype == torch.bfloat16


def test_the_script_still_makes_such_a_checkpoint(make, tmp_path, manifest):
    """What is written today differs from the golden one in nothing that a reader of it needs."""
    make.make(tmp_path)
    made = open_manifest((tmp_path / "manifest.json").read_bytes(), where="made")
    assert (made.items, made.parts) == (manifest.items, manifest.parts)
