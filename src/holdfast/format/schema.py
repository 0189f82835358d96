"""The JSON Schema of the manifest, generated from its records.

``python -m holdfast.format.schema > docs/manifest.schema.json`` writes the committed copy.
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Iterator
from typing import Any

import msgspec

from holdfast.format.dtypes import DTYPES
from holdfast.format.manifest import Manifest
from holdfast.format.validation import BLOCK_DIGEST, DIGEST, FILE_NAME, MAX_BLOCK_SIZE, MAX_DIMENSIONS, TRY_ID
from holdfast.types import Json

_CONSTRAINTS: dict[tuple[str, str], dict[str, Json]] = {
    ("Manifest", "digest"): {"pattern": f"^{DIGEST}$"},
    ("Manifest", "format"): {"minimum": 1, "maximum": 1},
    ("Manifest", "attempt"): {"minimum": 1},
    ("Manifest", "try_id"): {"pattern": f"^{TRY_ID}$"},
    ("Progress", "elapsed"): {"minimum": 0},
    ("TensorRecord", "dtype"): {"enum": list(DTYPES)},
    ("TensorRecord", "shape"): {"maxItems": MAX_DIMENSIONS},
    ("Chunk", "file"): {"pattern": f"^{FILE_NAME}$"},
    ("Part", "files"): {"propertyNames": {"pattern": f"^{FILE_NAME}$"}},
    ("FileRecord", "block_size"): {"minimum": 1, "maximum": MAX_BLOCK_SIZE},
    ("FileRecord", "digest"): {"pattern": f"^{DIGEST}$"},
    ("FileRecord", "blocks"): {"items": {"type": "string", "pattern": f"^{BLOCK_DIGEST}$"}},
}


def schema() -> dict[str, Json]:
    """The schema as a JSON object.

    What it cannot say (chunks tile their tensor, references lead somewhere) is in ``docs/format.md``.

    >>> schema()["$defs"]["Chunk"]["required"]
    ['file', 'offsets', 'sizes', 'begin', 'end']
    """
    generated = msgspec.json.schema(Manifest)
    definitions = generated["$defs"]
    for node in _nodes(generated):
        _tighten(node)
    for (record, field), constraint in _CONSTRAINTS.items():
        definitions[record]["properties"][field] |= constraint
    manifest = definitions["Manifest"]
    del manifest["properties"]["$extra"]
    manifest["required"] = ["digest", "format", *manifest["required"]]
    del manifest["properties"]["digest"]["default"]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "holdfast manifest, format 1",
        **generated,
    }


def render() -> str:
    """The schema as the text of ``docs/manifest.schema.json``."""
    return json.dumps(schema(), indent=2) + "\n"


def _nodes(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        yield node
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from _nodes(child)


def _tighten(node: dict[str, Any]) -> None:
    if node.get("type") == "integer":
        node["minimum"] = 0
    if isinstance(node.get("description"), str):
        node["description"] = inspect.cleandoc(node["description"]).split("\n\n")[0].replace("\n", " ")


if __name__ == "__main__":
    sys.stdout.write(render())
