"""The committed JSON Schema is that of the records, and says of manifests what the code says."""

import copy
import json
from pathlib import Path

import jsonschema
import pytest

from holdfast.format.manifest import seal_document
from holdfast.format.schema import render, schema

ROOT = Path(__file__).parents[2]


@pytest.fixture
def check():
    return jsonschema.Draft202012Validator(schema()).validate


def test_the_committed_schema_is_not_stale():
    """After a change of the records the schema is to be generated again."""
    committed = (ROOT / "docs" / "manifest.schema.json").read_text()
    assert committed == render(), "run: python -m holdfast.format.schema > docs/manifest.schema.json"


def test_the_schema_is_one():
    """It is valid by its own standard, and every property of a record is described."""
    jsonschema.Draft202012Validator.check_schema(schema())
    assert "$extra" not in json.dumps(schema())


def test_a_sealed_manifest_is_valid(document, check):
    """What is written fits the schema, unknown keys included."""
    check(json.loads(seal_document({**document, "unknown": 1})))


def test_the_golden_manifest_is_valid(check):
    """The golden checkpoint fits the schema."""
    (path,) = (ROOT / "tests" / "golden" / "format1").glob("*/manifest.json")
    check(json.loads(path.read_bytes()))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("format",), 2),
        (("attempt",), 0),
        (("try_id",), "../x"),
        (("progress", "step"), -1),
        (("items", "model", "tensors", "weight", "dtype"), "object"),
        (("items", "model", "tensors", "weight", "chunks", 0, "file"), "../a"),
        (("items", "model", "tensors", "weight", "chunks", 0, "begin"), -1),
        (("parts", 0, "files", "a.safetensors", "blocks"), ["zz"]),
        (("parts", 0, "files", "/etc/passwd"), {}),
    ],
)
def test_the_schema_refuses_what_can_be_said_in_a_schema(document, check, path, value):
    """Names, ranges and digests are in the schema, for readers that start from it."""
    damaged = copy.deepcopy(json.loads(seal_document(document)))
    node = damaged
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        check(damaged)
