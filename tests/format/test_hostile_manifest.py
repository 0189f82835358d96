"""Manifests with a right digest that claim something impossible or dangerous: each is a typed error with its key."""

import pytest

from holdfast.errors import CorruptError

TERA = 1 << 40


def tensor(document, name="weight"):
    return document["items"]["model"]["tensors"][name]


def files(document, part=0):
    return document["parts"][part]["files"]


def renamed(name):
    def damage(document):
        files(document)[name] = files(document).pop("a.safetensors")
        for record in document["items"]["model"]["tensors"].values():
            for chunk in record["chunks"]:
                chunk["file"] = name if chunk["file"] == "a.safetensors" else chunk["file"]

    return damage


def changed(*path, to):
    def damage(document):
        node = document
        for key in path[:-1]:
            node = node[key]
        node[path[-1]] = to

    return damage


def first_chunk(**changes):
    return lambda document: tensor(document)["chunks"][0].update(changes)


def file_a(**changes):
    return lambda document: files(document)["a.safetensors"].update(changes)


def alias(item, name, key="tied"):
    return lambda document: document["items"]["model"]["aliases"].update({key: {"item": item, "tensor": name}})


def tree(value):
    return changed("items", "model", "tree", to=value)


def without_second_chunk(document):
    tensor(document)["chunks"].pop()


def chunk_twice(document):
    tensor(document)["chunks"].append(dict(tensor(document)["chunks"][0]))


def terabytes_in_one_chunk(document):
    tensor(document).update(
        shape=[TERA],
        chunks=[{"file": "a.safetensors", "offsets": [0], "sizes": [TERA], "begin": 0, "end": 4 * TERA}],
    )


def alias_chain(document):
    alias("model", "weight", "one")(document)
    alias("model", "one", "two")(document)


def alias_loop(document):
    alias("model", "two", "one")(document)
    alias("model", "one", "two")(document)


def same_file_in_two_parts(document):
    files(document, 1)["a.safetensors"] = dict(files(document)["a.safetensors"])


PLAIN = "not a plain file name"
HOSTILE = {
    "file name leaves the folder": (renamed("../a"), PLAIN),
    "file name is the parent": (renamed(".."), PLAIN),
    "file name is absolute": (renamed("/etc/passwd"), PLAIN),
    "file name in a folder": (renamed("a/b"), PLAIN),
    "file name for Windows": (renamed("C:\\a"), PLAIN),
    "file name is hidden": (renamed(".trainer.lock"), PLAIN),
    "file name is the manifest": (renamed("manifest.json"), PLAIN),
    "file name is the manifest on macOS": (renamed("Manifest.JSON"), PLAIN),
    "file name is empty": (renamed(""), PLAIN),
    "file name with NUL": (renamed("a\0"), PLAIN),
    "file name with a line break": (renamed("a\n"), PLAIN),
    "file name too long": (renamed("a" * 300), PLAIN),
    "file in two parts": (same_file_in_two_parts, "another part has a file of that name"),
    "rank twice": (changed("parts", 1, "rank", to=0), "ranks .* distinct"),
    "negative rank": (changed("parts", 1, "rank", to=-1), "ranks .* non-negative"),
    "file of terabytes with one block": (file_a(size=TERA), "block digests for"),
    "file of terabytes in one block": (file_a(size=TERA, block_size=TERA), "expected at most"),
    "file of negative size": (file_a(size=-1, blocks=[]), "size -1"),
    "blocks of zero bytes": (file_a(block_size=0), "block_size 0"),
    "a block digest missing": (file_a(blocks=[]), "0 block digests for 4126 bytes"),
    "a block digest too many": (file_a(blocks=["cd" * 16] * 2), "2 block digests"),
    "a block digest that is none": (file_a(blocks=["zz"]), "a digest is not written"),
    "a file digest of another kind": (file_a(digest="md5:" + "0" * 32), "a digest is not written"),
    "unknown file": (first_chunk(file="c.safetensors"), "no part has a file 'c.safetensors'"),
    "unknown dtype": (changed("items", "model", "tensors", "weight", "dtype", to="object"), "no dtype 'object'"),
    "a chunk missing": (without_second_chunk, "overlap or leave a hole"),
    "no chunks": (changed("items", "model", "tensors", "weight", "chunks", to=[]), "overlap or leave a hole"),
    "a chunk twice": (chunk_twice, "overlap or leave a hole"),
    "overlapping chunks": (first_chunk(sizes=[3, 3], end=4132), "overlap or leave a hole"),
    "a hole": (first_chunk(sizes=[1, 3], end=4108), "overlap or leave a hole"),
    "a chunk outside the shape": (first_chunk(offsets=[3, 0]), "not inside shape"),
    "a chunk of terabytes": (first_chunk(sizes=[TERA, 3]), "not inside shape"),
    "negative offsets": (first_chunk(offsets=[-1, 0]), "not inside shape"),
    "negative sizes": (first_chunk(sizes=[-2, 3]), "not inside shape"),
    "other dimensions": (first_chunk(offsets=[0]), "1 offsets and 2 sizes in 2 dimensions"),
    "bytes before the file": (first_chunk(begin=-24, end=0), "bytes -24 to 0"),
    "bytes behind the file": (first_chunk(begin=4120, end=4144), "bytes 4120 to 4144 of a.safetensors, which has 4126"),
    "bytes backwards": (first_chunk(begin=4120, end=4096), "bytes 4120 to 4096"),
    "too few bytes": (first_chunk(end=4116), "20 bytes, sizes .* need 24"),
    "bytes of another dtype": (changed("items", "model", "tensors", "weight", "dtype", to="int64"), "need 48"),
    "bytes shared with another tensor": (first_chunk(begin=4098, end=4122), "shares bytes with another chunk"),
    "terabytes in a shape": (changed("items", "model", "tensors", "weight", "shape", to=[TERA, 3]), "leave a hole"),
    "terabytes in a chunk": (terabytes_in_one_chunk, f"which has {4126}"),
    "zero elements in absurd shape": (
        changed("items", "model", "tensors", "weight", to={"dtype": "int8", "shape": [0, TERA, TERA], "chunks": []}),
        "is beyond",
    ),
    "negative shape": (changed("items", "model", "tensors", "weight", "shape", to=[-4, 3]), "is negative"),
    "65 dimensions": (changed("items", "model", "tensors", "weight", "shape", to=[1] * 65), "too many dimensions"),
    "an integer of 300 digits": (first_chunk(end=10**300), "bytes 4096 to 1000"),
    "a bool for a number": (first_chunk(begin=True), "cannot be read"),
    "a float for a number": (first_chunk(begin=4096.0), "cannot be read"),
    "text for a number": (first_chunk(begin="4096"), "cannot be read"),
    "a list for a file": (first_chunk(file=["a.safetensors"]), "cannot be read"),
    "items as a list": (changed("items", to=[]), "cannot be read"),
    "alias of nothing": (alias("model", "gone"), r"aliases\.tied: no tensor is stored as model/gone"),
    "alias into no item": (alias("gone", "weight"), "no tensor is stored as gone/weight"),
    "alias of itself": (alias("model", "tied"), "no tensor is stored as model/tied"),
    "alias chain": (alias_chain, r"aliases\.two: no tensor is stored as model/one"),
    "alias loop": (alias_loop, "no tensor is stored as model/"),
    "alias under a stored name": (alias("model", "bias", "weight"), "also stored as a tensor"),
    "reference to nothing": (tree({"a": [{"$tensor": "gone"}]}), "leads to no tensor of the item"),
    "reference to another item": (changed("items", "values", "tree", to={"$array": "weight"}), "leads to no tensor"),
    "reference that is no text": (tree({"$tensor": ["weight"]}), "leads to no tensor"),
    "reference in a dict's pairs": (tree({"$dict": [[1, {"$tensor": "gone"}]]}), "leads to no tensor"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_manifest_is_refused_by_its_key(document, reopen, name):
    """The error names the checkpoint, the key and what is wrong with it."""
    damage, message = HOSTILE[name]
    reopen(document)
    damage(document)
    with pytest.raises(CorruptError, match=rf"(?s)^here: .*{message}"):
        reopen(document)


def test_a_manifest_that_is_right_is_opened(document, reopen):
    """What the hostile ones are made from opens."""
    opened = reopen(document)
    assert opened.items["model"].tensors["weight"].spec.shape == (4, 3)
    assert [part.rank for part in opened.parts] == [0, 1]


def test_two_parts_may_hold_files_of_an_item(document, reopen):
    """Chunks of a tensor lie in the files of any part: one record for one process and for many."""
    assert {chunk.file for chunk in reopen(document).items["model"].tensors["weight"].chunks} == {
        "a.safetensors",
        "b.safetensors",
    }
