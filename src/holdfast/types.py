"""Frozen records that every layer shares."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import msgspec

Json = Any
"""A value that JSON can hold: None, bool, int, float, str, list or dict of these."""
Advance = Callable[[int], object]
"""Told the number of bytes done, for a progress bar."""
Progressing = Callable[[str, int], Advance]
"""Given a label and how many bytes there are, what to tell of bytes done."""


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a run has come. Survives restarts.

    ``epoch`` counts the completed epochs, so it is the number of the one that runs, and after the last one the number
    of all. ``batch`` counts the completed batches of this epoch, ``batches`` those of the whole run; ``step`` counts
    optimizer steps, ``elapsed`` training seconds.

    >>> Progress(epoch=2, batch=17, step=500).epoch
    2
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    samples: int = 0
    tokens: int = 0
    batches: int = 0
    elapsed: float = 0.0


# Of some records there are as many as tensors. Nothing in those can lead back to them, so the garbage collector, which
# looks at every object again and again while many are made, is kept out of them.


class TensorSpec(msgspec.Struct, frozen=True, gc=False):
    """Dtype name (``"float32"``, ``"bfloat16"``; see `holdfast.format.dtypes`) and global shape."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)


class Chunk(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A hyper-rectangle of a tensor and the bytes that hold it, C order, little-endian.

    ``begin`` and ``end`` are byte offsets from the start of ``file``.
    """

    file: str
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    begin: int
    end: int


class TensorRecord(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A stored tensor: its dtype, its global shape, and the chunks that tile it exactly once."""

    dtype: str
    shape: tuple[int, ...]
    chunks: tuple[Chunk, ...]

    @property
    def spec(self) -> TensorSpec:
        return TensorSpec(self.dtype, self.shape)


class Alias(msgspec.Struct, frozen=True, gc=False):
    """A tensor that shares its memory with another one, which is the one stored."""

    item: str
    tensor: str


class ItemRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One item of a checkpoint.

    ``tree`` is the item's value as tagged JSON (`holdfast.format.values`) with tensors replaced by
    references; ``tensors`` and ``aliases`` say where their bytes are; ``metadata`` is what the
    item's adapter needs to check the fit (tagged JSON).
    """

    kind: str
    tree: Json
    tensors: dict[str, TensorRecord] = {}
    aliases: dict[str, Alias] = {}
    metadata: dict[str, Json] = {}


class FileRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Size and digests of one shard.

    ``blocks`` are the XXH3-128 digests (hex) of the file cut into ``block_size`` bytes, the last
    block shorter: what every load checks. ``digest`` is ``"blake3:"`` and the hex BLAKE3 of the
    concatenated BLAKE3 digests of the same blocks: what shows tampering.
    """

    size: int
    block_size: int
    blocks: tuple[str, ...]
    digest: str


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """What one writing rank contributed to a checkpoint."""

    rank: int
    files: dict[str, FileRecord]
