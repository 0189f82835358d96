"""A valid manifest as a JSON document, for tests to damage, and a comparison that tells types apart."""

import struct
from collections import OrderedDict, defaultdict, deque
from decimal import Decimal

import pytest
from hypothesis import HealthCheck, settings

from holdfast.format.manifest import open_manifest, seal_document

# A busy machine must not fail a test of behaviour.
settings.register_profile("format", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("format")

SHA = "blake3:" + "ab" * 32


def file_record(size):
    return {"size": size, "block_size": 4 << 20, "blocks": ["cd" * 16] * -(-size // (4 << 20)), "digest": SHA}


def chunk(file, offsets, sizes, begin, end):
    return {"file": file, "offsets": offsets, "sizes": sizes, "begin": begin, "end": end}


@pytest.fixture
def document():
    """A manifest with two parts, a tensor in two chunks across them, one alias and one reference to each."""
    weight = {
        "dtype": "float32",
        "shape": [4, 3],
        "chunks": [
            chunk("a.safetensors", [0, 0], [2, 3], 4096, 4120),
            chunk("b.safetensors", [2, 0], [2, 3], 4096, 4120),
        ],
    }
    bias = {"dtype": "bfloat16", "shape": [3], "chunks": [chunk("a.safetensors", [0], [3], 4120, 4126)]}
    model = {
        "kind": "module",
        "tree": {"weight": {"$tensor": "weight"}, "bias": {"$tensor": "bias"}, "tied": {"$tensor": "tied"}},
        "tensors": {"weight": weight, "bias": bias},
        "aliases": {"tied": {"item": "model", "tensor": "weight"}},
        "metadata": {},
    }
    return {
        "format": 1,
        "requires": [],
        "run": "4f1c",
        "attempt": 1,
        "ordinal": 3,
        "try_id": "9f3c",
        "parent": {"name": "step-00000400.a0001.n0002", "digest": SHA},
        "created": "2026-11-01T12:00:00.000Z",
        "reason": ["every 100 steps"],
        "progress": {"epoch": 1, "batch": 2, "step": 500, "samples": 0, "tokens": 0, "batches": 9, "elapsed": 1.5},
        "metrics": {"loss": 0.25},
        "config": {"lr": 0.1},
        "learning_rates": {"optimizer": [0.1]},
        "items": {"model": model, "values": {"kind": "tree", "tree": {"best": 1}, "tensors": {}, "aliases": {}}},
        "parts": [
            {"rank": 0, "files": {"a.safetensors": file_record(4126)}},
            {"rank": 1, "files": {"b.safetensors": file_record(4120)}},
        ],
        "environment": {"python": "3.11"},
    }


@pytest.fixture
def reopen():
    """Seals a document and opens it."""
    return lambda document: open_manifest(seal_document(document), where="here")


@pytest.fixture(scope="session")
def same():
    """Whether two values are equal in every type, order and bit."""
    return _same


def _same(first, second):
    if type(first) is not type(second):
        return False
    if isinstance(first, float):
        return struct.pack(">d", first) == struct.pack(">d", second)
    if isinstance(first, complex):
        return _same([first.real, first.imag], [second.real, second.imag])
    if isinstance(first, list | tuple | deque):
        about = first.maxlen == second.maxlen if isinstance(first, deque) else True
        return about and len(first) == len(second) and all(map(_same, first, second))
    if isinstance(first, dict | OrderedDict):
        about = first.default_factory is second.default_factory if isinstance(first, defaultdict) else True
        return about and _same([list(pair) for pair in first.items()], [list(pair) for pair in second.items()])
    if isinstance(first, set | frozenset):
        return _same_set(first, second)
    if isinstance(first, Decimal):
        return repr(first) == repr(second)
    return bool(first == second) and getattr(first, "fold", 0) == getattr(second, "fold", 0)


def _same_set(first, second):
    """Each element has its like in the other: `==` would miss a NaN in a tuple, and take 0.0 for -0.0."""
    others = list(second)
    for value in first:
        like = next((index for index, other in enumerate(others) if _same(value, other)), None)
        if like is None:
            return False
        del others[like]
    return not others
