"""The reader in docs/format.md reads checkpoints, with nothing of holdfast, and refuses damaged ones."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from holdfast.format.dtypes import DTYPES
from holdfast.format.values import TAGS

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "format.md").read_text()
READER = re.search(r"```python\n(import json.*?)```", TEXT, re.DOTALL)[1]
(GOLDEN,) = (ROOT / "tests" / "golden" / "format1").iterdir()


@pytest.fixture
def read():
    namespace = {"__name__": "reader"}
    exec(compile(READER, "docs/format.md", "exec"), namespace)
    return namespace["read"]


@pytest.fixture
def checkpoint(tmp_path):
    return shutil.copytree(GOLDEN, tmp_path / GOLDEN.name)


def test_the_reader_knows_nothing_of_holdfast():
    """A stranger could have written it: about forty lines, with json, blake3 and numpy."""
    assert "holdfast" not in READER
    assert len([line for line in READER.splitlines() if line.strip()]) <= 45


def test_the_reader_reads_every_tensor(read):
    """Whole, split, aliased, empty, complex and bfloat16 tensors come out."""
    manifest, tensors = read(GOLDEN)
    assert manifest["progress"]["step"] == 500
    assert np.array_equal(tensors["model", "weight"], (np.arange(12) / 8 - 1).reshape(4, 3))
    assert tensors["model", "head"] is tensors["model", "weight"]
    assert np.array_equal(tensors["optimizer", "exp_avg"], np.arange(24.0).reshape(4, 6))
    assert np.array_equal(tensors["model", "rotary"].ravel(), np.arange(6) * 1j + 0.5)
    assert tensors["model", "count"] == 500
    assert tensors["model", "none"].shape == (0, 2)
    bits = tensors["model", "norm"].astype("<u4") << 16
    assert np.array_equal(bits.view("<f4"), np.arange(5, dtype="f4"))


def test_the_reader_knows_every_dtype(read):
    """Its table is that of the format."""
    assert {name: np.dtype(code).itemsize for name, code in read.__globals__["DTYPES"].items()} == {
        name: dtype.itemsize for name, dtype in DTYPES.items()
    }


@pytest.mark.parametrize("file", ["manifest.json", "model.safetensors", "optimizer.1.safetensors"])
def test_the_reader_refuses_a_flipped_bit(read, checkpoint, file):
    """The digest rules of the document find damage in every file."""
    data = bytearray((checkpoint / file).read_bytes())
    data[-20] ^= 1
    (checkpoint / file).write_bytes(data)
    with pytest.raises(ValueError, match="is not the one that was committed"):
        read(checkpoint)


def test_the_reader_runs_as_a_script():
    """As printed, it lists the tensors of a checkpoint."""
    command = [sys.executable, "-c", READER, str(GOLDEN)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "model/weight float32 (4, 3)" in done.stdout.splitlines()


def test_every_tag_and_dtype_is_in_the_document():
    """The tables of the document are complete."""
    assert {tag for tag in TAGS if f"`{tag}`" not in TEXT} == set()
    assert {name for name in DTYPES if f"`{name}`" not in TEXT} == set()
