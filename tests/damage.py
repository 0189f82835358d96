"""Ways in which a checkpoint's directory can be wrong, and the kind of error that each must give."""

import json
import os

from holdfast.format.digests import FileDigest
from holdfast.format.manifest import seal_document

SHARD = "model.safetensors"


def shard_missing(checkpoint):
    (checkpoint / SHARD).unlink()


def shard_truncated(checkpoint):
    os.truncate(checkpoint / SHARD, (checkpoint / SHARD).stat().st_size - 1)


def shard_extended(checkpoint):
    with open(checkpoint / SHARD, "ab") as file:
        file.write(b"\0")


def shard_is_a_link(checkpoint):
    moved = (checkpoint / SHARD).rename(checkpoint.parent.parent / "moved")
    (checkpoint / SHARD).symlink_to(moved)


def shard_is_a_pipe(checkpoint):
    (checkpoint / SHARD).unlink()
    os.mkfifo(checkpoint / SHARD)


def shard_has_a_flipped_bit(checkpoint):
    flip(checkpoint / SHARD, -1)


def header_has_a_flipped_bit(checkpoint):
    flip(checkpoint / SHARD, 20)


def manifest_missing(checkpoint):
    (checkpoint / "manifest.json").unlink()


def manifest_has_a_flipped_bit(checkpoint):
    flip(checkpoint / "manifest.json", -100)


def manifest_truncated(checkpoint):
    os.truncate(checkpoint / "manifest.json", 500)


def manifest_is_no_json(checkpoint):
    (checkpoint / "manifest.json").write_bytes(b"these are not the bytes that were committed")


def manifest_of_another_checkpoint(checkpoint):
    other = next(path for path in checkpoint.parent.glob("step-*") if path != checkpoint)
    (checkpoint / "manifest.json").write_bytes((other / "manifest.json").read_bytes())


def format_is_newer(checkpoint):
    rewrite(checkpoint, format=2)


def feature_is_unknown(checkpoint):
    rewrite(checkpoint, requires=["linked-shards"])


def path_leaves_the_folder(checkpoint):
    parts = document(checkpoint)["parts"]
    parts[0]["files"]["../moved"] = parts[0]["files"].pop(SHARD)
    rewrite(checkpoint, parts=parts)


SEEN_AT_ONCE = {
    shard_missing: "corrupt",
    shard_truncated: "corrupt",
    shard_extended: "corrupt",
    shard_is_a_link: "corrupt",
    shard_is_a_pipe: "corrupt",
    manifest_missing: "corrupt",
    manifest_has_a_flipped_bit: "corrupt",
    manifest_truncated: "corrupt",
    manifest_is_no_json: "corrupt",
    manifest_of_another_checkpoint: "corrupt",
    format_is_newer: "unsupported",
    feature_is_unknown: "unsupported",
    path_leaves_the_folder: "corrupt",
}
"""What the manifest and the sizes give away."""

SEEN_BY_READING = {shard_has_a_flipped_bit: "corrupt", header_has_a_flipped_bit: "corrupt"}
"""What only the digests give away."""

EXIT_CODES = {"corrupt": 4, "unsupported": 5}


def flip(path, position):
    """Flips one bit of the byte at ``position``, counted from the end if it is negative."""
    data = bytearray(path.read_bytes())
    data[position] ^= 4
    path.write_bytes(data)


def document(checkpoint):
    return json.loads((checkpoint / "manifest.json").read_bytes())


def rewrite(checkpoint, **changes):
    """Changes the manifest and gives it the digest that it then needs."""
    (checkpoint / "manifest.json").write_bytes(seal_document(document(checkpoint) | changes))


def tamper(checkpoint):
    """A flipped bit whose fast digest was put right, as somebody would who means it."""
    shard_has_a_flipped_bit(checkpoint)
    digest_again(checkpoint, "blocks")


def rename_in_header(checkpoint, old, new):
    """Another name, of the same length, for a tensor in the shard's own header, and digests that fit."""
    data = (checkpoint / SHARD).read_bytes()
    (checkpoint / SHARD).write_bytes(data.replace(old, new, 1))
    digest_again(checkpoint, "blocks", "digest")


def digest_again(checkpoint, *fields):
    """Puts these fields of the shard's record right."""
    parts = document(checkpoint)["parts"]
    record = parts[0]["files"][SHARD]
    digest = FileDigest(record["block_size"])
    digest.update((checkpoint / SHARD).read_bytes())
    for field in fields:
        record[field] = getattr(digest.record(record["size"]), field)
    rewrite(checkpoint, parts=parts)
