"""Makes the golden checkpoint: every dtype family, an alias, two parts, and every tag of format 1.

``python tests/golden/make.py FOLDER`` writes it. The committed one is never made again: it stands for
the checkpoints that people have, and the tests check that they still open with these very values.
"""

from __future__ import annotations

import http
import re
import sys
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import numpy as np

from holdfast.format.digests import FileDigest
from holdfast.format.dtypes import nbytes
from holdfast.format.manifest import MANIFEST_FILE, Manifest, Parent, seal
from holdfast.format.safetensors import layout
from holdfast.format.values import encode, register_codec
from holdfast.types import Alias, Chunk, FileRecord, ItemRecord, Part, Progress, TensorRecord, TensorSpec


@dataclass
class Point:
    """A user's type."""

    x: int
    y: tuple[int, ...]


register_codec(Point, "$golden.point", lambda point: (point.x, point.y), lambda pair: Point(*pair))

VALUES: dict[str, Any] = {
    "json": {"none": None, "yes": True, "int": -7, "float": 0.1, "text": "Grüße", "list": [1, [2.5, "x"]]},
    "numbers": [float("nan"), float("inf"), float("-inf"), -0.0, 2**200, -(2**63) - 1, complex(1, -0.0)],
    "containers": ((1, (2,)), {1, 2}, frozenset({"a"}), deque([1, 2], maxlen=3), deque()),
    "mappings": [
        {1: "int", "1": "text", (2, 3): "tuple"},
        {"$looks": "like a tag"},
        OrderedDict([("b", 1), ("a", 2)]),
        defaultdict(list, {"x": [1]}),
        Counter("hello"),
    ],
    "bytes": (b"\x00\xff", bytearray(b"ab")),
    "odd text": "\ud800 alone",
    "ranges": (range(1, 10, 3), slice(None, 5)),
    "times": (
        datetime(2026, 10, 25, 2, 30, 0, 5, tzinfo=ZoneInfo("Europe/Berlin"), fold=1),
        datetime(2026, 11, 1, tzinfo=UTC),
        date(2026, 11, 1),
        time(12, 30, tzinfo=timezone(timedelta(hours=-3), "BRT")),
        timedelta(days=-1, microseconds=3),
    ),
    "paths": (Path("runs/digits"), PurePosixPath("/data"), PureWindowsPath("C:\\data")),
    "exact": (Decimal("1.10"), Fraction(-1, 3), UUID(int=7)),
    "enums": (http.HTTPStatus.OK, re.A | re.X),
    "numpy": [
        np.float32(1.1),
        np.uint64(2**64 - 1),
        np.bool_(True),
        np.str_("ab"),
        np.datetime64("2026-11-01"),
        np.dtype(">f8"),
    ],
    "user": Point(1, (2, 3)),
}

TENSORS: dict[str, tuple[TensorSpec, bytes]] = {
    "weight": (TensorSpec("float32", (4, 3)), (np.arange(12, dtype="<f4") / 8 - 1).tobytes()),
    "norm": (TensorSpec("bfloat16", (5,)), np.arange(5, dtype="<f4").view("<u2")[1::2].tobytes()),
    "rotary": (TensorSpec("complex64", (2, 3)), (np.arange(6, dtype="<c8") * 1j + 0.5).astype("<c8").tobytes()),
    "mask": (TensorSpec("bool", (3,)), b"\1\0\1"),
    "count": (TensorSpec("int64", ()), np.array(500, dtype="<i8").tobytes()),
    "scale": (TensorSpec("float8_e4m3fn", (4,)), bytes([0x38, 0x40, 0x7F, 0x80])),
    "none": (TensorSpec("float64", (0, 2)), b""),
}

MOMENTS = np.arange(24, dtype="<f8").reshape(4, 6)
"""Stored in two chunks, one by each of two ranks."""


def shard(
    file: Path, tensors: Sequence[tuple[str, TensorSpec, bytes]]
) -> tuple[FileRecord, dict[str, tuple[int, int]]]:
    """Write a safetensors file; its record and each tensor's byte range."""
    plan = layout([(name, spec) for name, spec, _ in tensors], {"format": "pt"})
    image = bytearray(plan.size)
    image[: len(plan.header)] = plan.header
    for name, spec, data in tensors:
        begin, end = plan.ranges[name]
        assert len(data) == nbytes(spec)
        image[begin:end] = data
    file.write_bytes(image)
    digest = FileDigest(block_size=4096)
    for begin in range(0, len(image), 4096):
        digest.update(bytes(image[begin : begin + 4096]))
    return digest.record(len(image)), plan.ranges


def model(folder: Path) -> tuple[ItemRecord, FileRecord]:
    """An item of whole tensors, one of them under a second name."""
    name = "model.safetensors"
    record, ranges = shard(folder / name, [(key, spec, data) for key, (spec, data) in TENSORS.items()])
    tensors = {
        key: TensorRecord(
            dtype=spec.dtype,
            shape=spec.shape,
            chunks=(
                Chunk(
                    file=name,
                    offsets=(0,) * len(spec.shape),
                    sizes=spec.shape,
                    begin=ranges[key][0],
                    end=ranges[key][1],
                ),
            ),
        )
        for key, (spec, _) in TENSORS.items()
    }
    tree = {key: {"$tensor": key} for key in (*TENSORS, "head")}
    return ItemRecord(kind="module", tree=tree, tensors=tensors, aliases={"head": Alias("model", "weight")}), record


def optimizer(folder: Path) -> tuple[ItemRecord, list[FileRecord]]:
    """An item whose one tensor is split by columns over two files."""
    chunks, records = [], []
    for rank, columns in enumerate((slice(0, 2), slice(2, 6))):
        data = np.ascontiguousarray(MOMENTS[:, columns])
        file = f"optimizer.{rank}.safetensors"
        record, ranges = shard(folder / file, [("exp_avg", TensorSpec("float64", data.shape), data.tobytes())])
        begin, end = ranges["exp_avg"]
        chunks.append(Chunk(file=file, offsets=(0, columns.start), sizes=data.shape, begin=begin, end=end))
        records.append(record)
    tensor = TensorRecord(dtype="float64", shape=MOMENTS.shape, chunks=tuple(chunks))
    tree = {"state": {"$dict": [[0, {"exp_avg": {"$array": "exp_avg"}}]]}}
    return ItemRecord(kind="tree", tree=tree, tensors={"exp_avg": tensor}), records


def make(folder: Path) -> None:
    """Write the checkpoint's files into ``folder``."""
    weights, file = model(folder)
    moments, files = optimizer(folder)
    manifest = Manifest(
        run="0f6d0d3c5b0f4c6ab7f2a4c58f6f1b11",
        attempt=1,
        ordinal=3,
        try_id="9f3c5a7e",
        parent=Parent("step-00000400.a0001.n0002", "blake3:" + "5" * 64),
        created="2026-11-20T12:00:00.000Z",
        reason=("every 100 steps", "at end"),
        progress=Progress(epoch=2, batch=17, step=500, samples=16_000, tokens=0, batches=500, elapsed=12.5),
        metrics={"loss": 0.25, "val_loss": encode(float("nan"))},
        config=encode({"lr": 0.1, "betas": (0.9, 0.999)}),
        learning_rates={"optimizer": [0.1]},
        items={"model": weights, "optimizer": moments, "values": ItemRecord(kind="tree", tree=encode(VALUES))},
        parts=(
            Part(rank=0, files={"model.safetensors": file, "optimizer.0.safetensors": files[0]}),
            Part(rank=1, files={"optimizer.1.safetensors": files[1]}),
        ),
        environment={"python": "3.11.7", "torch": "2.13.0"},
        extra={"note": "a key that format 1 does not know"},
    )
    (folder / MANIFEST_FILE).write_bytes(seal(manifest))


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.mkdir(parents=True)
    make(target)
