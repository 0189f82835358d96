"""Bytes back into memory: in one pass, block by block, each checked on its way."""

import itertools

import numpy as np
import pytest

from holdfast.engine.catalog import Entry
from holdfast.engine.parallel import STRETCH
from holdfast.engine.read import bytes_of, read
from holdfast.errors import CorruptError
from holdfast.format.digests import FileDigest
from holdfast.format.manifest import Manifest
from holdfast.state.array import ArrayTarget
from holdfast.storage.memory import MemoryStorage
from holdfast.types import Alias, Chunk, ItemRecord, Part, TensorRecord

NAME = "step-00000000.a0001.n0001"
BLOCK = 4096


class Counting(MemoryStorage):
    """Remembers what was read of it."""

    def __init__(self):
        super().__init__()
        self.reads = []
        self.buffers = []
        self.cached = True
        self.direct = set()

    def is_cached(self, path):
        return self.cached

    def read_into(self, path, offset, buffers, *, direct=False):
        self.direct.add(direct)

        def noted():
            end = offset
            for buffer in buffers:
                end += buffer.nbytes
                self.buffers.append(buffer)
                yield buffer
            self.reads.append((offset, end))

        super().read_into(path, offset, noted())


def stored(data, tensors, aliases=()):
    """A checkpoint of one file ``data``, of ``tensors`` by name: shape and where each chunk lies."""
    digest = FileDigest(BLOCK)
    for begin in range(0, len(data), BLOCK):
        digest.update(data[begin : begin + BLOCK])
    storage = Counting()
    attempt = storage.begin(NAME, "1")
    attempt.write("model.safetensors", [memoryview(data)], len(data))
    attempt.commit(b"{}")
    records = {
        name: TensorRecord(
            dtype="uint8", shape=shape,
            chunks=tuple(Chunk(file="model.safetensors", offsets=o, sizes=s, begin=b, end=e) for o, s, b, e in chunks),
        )
        for name, (shape, chunks) in tensors.items()
    }  # fmt: skip
    item = ItemRecord(
        kind="module", tree=None, tensors=records, aliases={name: Alias("model", to) for name, to in aliases}
    )
    part = Part(rank=0, files={"model.safetensors": digest.record(len(data))})
    manifest = Manifest(run="r", attempt=1, ordinal=1, try_id="1", created="", items={"model": item}, parts=(part,))
    return storage, Entry(NAME, manifest, len(data))


def whole(begin, end):
    return (end - begin,), [((0,), (end - begin,), begin, end)]


def pattern(size):
    return bytes(np.random.default_rng(1).integers(0, 256, size, dtype=np.uint8))


def target(*shape):
    array = np.zeros(shape, dtype=np.uint8)
    return array, ArrayTarget(array, "x")


def test_every_byte_is_read_once_and_put_in_its_place():
    """Tensors across several blocks and several tensors in one block come out of a single pass."""
    data = pattern(5 * BLOCK + 77)
    bounds = [100, 200, 3 * BLOCK - 5, 3 * BLOCK + 9, 5 * BLOCK + 77]
    spans = {f"t{begin}": (begin, end) for begin, end in itertools.pairwise(bounds)}
    storage, entry = stored(data, {name: whole(*span) for name, span in spans.items()})
    found = {name: target(end - begin) for name, (begin, end) in spans.items()}
    done = []
    targets = {"model": {name: one for name, (_, one) in found.items()}}
    read(storage, entry, targets, advance=done.append)
    assert all(found[name][0].tobytes() == data[begin:end] for name, (begin, end) in spans.items())
    assert sorted(storage.reads) == [(0, STRETCH * BLOCK), (STRETCH * BLOCK, len(data))]
    assert sum(done) == bytes_of(entry, targets) == len(data)


def test_only_the_blocks_of_what_is_wanted_are_read():
    """One small tensor of a large file costs one block, and damage elsewhere does not matter to it."""
    data = pattern(8 * BLOCK)
    storage, entry = stored(
        data, {"wanted": whole(2 * BLOCK + 10, 2 * BLOCK + 20), "other": whole(3 * BLOCK, 8 * BLOCK)}
    )
    array, one = target(10)
    read(storage, entry, {"model": {"wanted": one}})
    assert array.tobytes() == data[2 * BLOCK + 10 : 2 * BLOCK + 20]
    assert storage.reads == [(2 * BLOCK, 3 * BLOCK)]


def test_a_flipped_bit_beside_what_is_wanted_is_found():
    """A block is believed as a whole or not at all."""
    data = bytearray(pattern(2 * BLOCK))
    storage, entry = stored(bytes(data), {"wanted": whole(BLOCK, BLOCK + 10)})
    data[-1] ^= 1
    attempt = storage.begin("step-00000001.a0001.n0002", "2")
    attempt.write("model.safetensors", [memoryview(bytes(data))], len(data))
    attempt.commit(b"{}")
    _, one = target(10)
    with pytest.raises(CorruptError, match="bytes 4,096 to 8,192 are not the ones that were committed"):
        read(storage, Entry("step-00000001.a0001.n0002", entry.manifest, 0), {"model": {"wanted": one}})


def test_many_small_tensors_come_out_of_whole_blocks():
    """A thousand tensors of seven bytes need no thousand reads, but one of each block."""
    data = pattern(7000)
    names = {f"t{index}": (7 * index, 7 * index + 7) for index in range(1000)}
    storage, entry = stored(data, {name: whole(*span) for name, span in names.items()})
    found = {name: target(7) for name in names}
    read(storage, entry, {"model": {name: one for name, (_, one) in found.items()}})
    assert all(found[name][0].tobytes() == data[begin:end] for name, (begin, end) in names.items())
    assert len(storage.buffers) == 2


def test_tensors_that_are_no_longer_tied_both_get_their_bytes():
    """What was stored once for two names fills two memories, and one memory under two names is filled once."""
    data = pattern(3 * BLOCK)
    storage, entry = stored(data, {"one": whole(5, 3 * BLOCK)}, aliases=[("two", "one"), ("same", "one")])
    (first, one), (second, two) = target(3 * BLOCK - 5), target(3 * BLOCK - 5)
    read(storage, entry, {"model": {"one": one, "two": two, "same": ArrayTarget(first, "x")}})
    assert first.tobytes() == second.tobytes() == data[5:]
    assert storage.reads == [(0, 3 * BLOCK)]


def test_tied_tensors_are_read_straight_to_their_one_place():
    """The second name asks for the same bytes in the same place: nothing is read or copied twice for it."""
    data = pattern(3 * BLOCK)
    storage, entry = stored(data, {"one": whole(0, 3 * BLOCK)}, aliases=[("same", "one")])
    array, one = target(3 * BLOCK)
    read(storage, entry, {"model": {"one": one, "same": ArrayTarget(array, "x")}})
    assert array.tobytes() == data
    assert len(storage.buffers) == 3
    assert all(np.shares_memory(np.frombuffer(buffer, np.uint8), array) for buffer in storage.buffers)


def test_chunks_are_put_together():
    """Columns of a matrix that lie apart in the file come back as the matrix."""
    data = pattern(24)
    matrix = np.frombuffer(data[:12] + data[12:], dtype=np.uint8)
    left, right = matrix[:12].reshape(4, 3), matrix[12:].reshape(4, 3)
    storage, entry = stored(data, {"m": ((4, 6), [((0, 0), (4, 3), 0, 12), ((0, 3), (4, 3), 12, 24)])})
    array, one = target(4, 6)
    read(storage, entry, {"model": {"m": one}})
    assert np.array_equal(array, np.hstack([left, right]))


@pytest.mark.parametrize(("ranks", "direct"), [(None, True), ("1", True), ("8", False)])
def test_what_is_not_cached_is_read_past_the_cache_unless_others_read_the_same(monkeypatch, ranks, direct):
    """The page cache would only take memory from the training; of eight processes of a machine it serves seven."""
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    if ranks:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", ranks)
    data = pattern(20 * BLOCK)
    storage, entry = stored(data, {"x": whole(0, 20 * BLOCK)})
    storage.cached = False
    array, one = target(20 * BLOCK)
    read(storage, entry, {"model": {"x": one}})
    assert array.tobytes() == data
    assert storage.direct == {direct}


def test_what_is_cached_is_read_from_there():
    """A direct read would go to the disk again."""
    data = pattern(BLOCK)
    storage, entry = stored(data, {"x": whole(0, BLOCK)})
    read(storage, entry, {"model": {"x": target(BLOCK)[1]}})
    assert storage.direct == {False}
