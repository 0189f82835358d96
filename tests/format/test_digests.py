"""Digests of files by block."""

import msgspec
import pytest
import xxhash
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import CorruptError
from holdfast.format.digests import (
    BLOCK_SIZE,
    STEP,
    FileDigest,
    block_span,
    check_block,
    check_tampering,
    checked_steps,
)

DATA = bytes(range(256)) * 40


def digested(data, block_size):
    digest = FileDigest(block_size)
    for begin in range(0, len(data), block_size):
        digest.update(memoryview(data)[begin : begin + block_size])
    return digest.record(len(data))


@given(st.binary(max_size=300), st.integers(1, 64))
def test_a_record_is_what_the_specification_says(data, block_size):
    """Blocks are XXH3-128, the file's digest is BLAKE3 of the blocks' BLAKE3 digests."""
    record = digested(data, block_size)
    blocks = [data[slice(*block_span(record, index))] for index in range(len(record.blocks))]
    assert b"".join(blocks) == data
    assert record.blocks == tuple(xxhash.xxh3_128_hexdigest(block) for block in blocks)
    assert record.digest == "blake3:" + blake3(b"".join(blake3(block).digest() for block in blocks)).hexdigest()
    assert (record.size, record.block_size) == (len(data), block_size)


def test_files_are_cut_into_four_mebibytes():
    """The block size of written files is 4 MiB."""
    assert FileDigest().record(0).block_size == BLOCK_SIZE == 4 * 1024 * 1024


def test_a_short_block_can_only_be_the_last():
    """A block after a short one, an empty one or one too long would shift all that follow."""
    digest = FileDigest(10)
    for wrong in (b"", bytes(11)):
        with pytest.raises(ValueError, match="only the last may be short"):
            digest.update(wrong)
    digest.update(bytes(9))
    with pytest.raises(ValueError, match="only the last may be short"):
        digest.update(bytes(10))


def test_a_record_of_another_size_is_refused():
    """A file is only recorded when all of its bytes were digested."""
    digest = FileDigest(10)
    digest.update(bytes(9))
    with pytest.raises(ValueError, match="digested 9 bytes of a file of 10"):
        digest.record(10)


@pytest.mark.parametrize("bit", range(0, 8 * 100, 37))
def test_a_flipped_bit_is_found_in_its_block(bit):
    """The block with the flipped bit is refused, by file and byte range, and the others are not."""
    record = digested(DATA[:100], 32)
    flipped = bytearray(DATA[:100])
    flipped[bit // 8] ^= 1 << bit % 8
    for index in range(len(record.blocks)):
        begin, end = block_span(record, index)
        if begin <= bit // 8 < end:
            with pytest.raises(CorruptError, match=rf"run/x: bytes {begin:,} to {end:,} are not"):
                check_block(record, index, [flipped[begin:end]], where="run/x")
        else:
            check_block(record, index, [flipped[begin:end]], where="run/x")


def test_a_block_may_come_in_pieces():
    """What is read to several places has the digest of the whole, and an altered piece is found."""
    record = digested(DATA, 4096)
    check_block(record, 1, [DATA[4096:5000], b"", DATA[5000:8192]], where="x")
    with pytest.raises(CorruptError, match="bytes 4,096 to 8,192"):
        check_block(record, 1, [DATA[4096:5000], DATA[5001:8192]], where="x")


def test_tampering_is_named_as_such():
    """Checksums that match and a cryptographic digest that differs have no innocent cause."""
    record = digested(DATA, 4096)
    check_tampering(record, record, where="x")
    with pytest.raises(CorruptError, match=r"x: its cryptographic digest differs .* altered on purpose"):
        check_tampering(record, msgspec.structs.replace(record, digest="blake3:" + "0" * 64), where="x")


@pytest.mark.parametrize("byte", [0, STEP - 1, STEP, 2 * STEP + 6])
def test_a_block_of_several_steps_is_checked_as_a_whole(byte):
    """A flipped bit in any of the steps is found, behind the last of them."""
    data = bytearray(2 * STEP + 7)
    record = digested(bytes(data), 4 * STEP)
    assert len(list(checked_steps(record, 0, [memoryview(data)], where="x"))) == 3
    data[byte] ^= 1
    with pytest.raises(CorruptError, match="bytes 0 to 1,048,583"):
        check_block(record, 0, [data], where="x")
