"""The manifest: sealed, opened again, and refused when a bit or a claim is wrong."""

import json

import msgspec
import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import CorruptError, UnsupportedFormatError, UsageError
from holdfast.format import manifest as manifest_module
from holdfast.format.manifest import (
    FIELDS,
    Manifest,
    Parent,
    check_digest,
    open_manifest,
    open_outline,
    seal,
    seal_document,
)
from holdfast.format.values import encode
from holdfast.types import Alias, Chunk, FileRecord, ItemRecord, Part, Progress, TensorRecord

HEAD = b'{"digest":"blake3:'


def made(**changes):
    return Manifest(**{"run": "4f1c", "attempt": 1, "ordinal": 1, "try_id": "9f3c", "created": "now", **changes})


def resealed(data, old, new):
    """The manifest with some bytes exchanged, its digest put right: what an attacker would do."""
    assert old in data
    body = HEAD + b"0" * 64 + data[82:].replace(old, new, 1)
    return HEAD + blake3(body).hexdigest().encode() + body[82:]


MANIFESTS = st.builds(
    made,
    attempt=st.integers(1, 2**63 - 1),
    ordinal=st.integers(0, 2**63 - 1),
    parent=st.none() | st.builds(Parent, st.text(), st.text()),
    reason=st.lists(st.text(), max_size=2).map(tuple),
    progress=st.builds(Progress, step=st.integers(0, 2**60), elapsed=st.floats(0, 1e9)),
    metrics=st.dictionaries(st.text(), st.floats().map(encode), max_size=3),
    config=st.dictionaries(st.integers(), st.tuples(st.binary())).map(encode),
    extra=st.dictionaries(st.text().filter(lambda key: key not in FIELDS), st.integers() | st.none(), max_size=2),
)


@given(MANIFESTS)
def test_a_manifest_is_opened_as_it_was_sealed(manifest):
    """Every field comes back, and the digest is filled in."""
    opened = open_manifest(seal(manifest), where="here")
    assert msgspec.structs.replace(opened, digest="") == manifest
    assert seal(opened) == seal(manifest)


def test_the_digest_is_of_the_bytes_with_zeros_in_its_place():
    """The file begins with its digest, computed over itself with 64 zeros there."""
    data = seal(made())
    assert data.startswith(HEAD)
    stated = data[18:82].decode()
    assert blake3(data[:18] + b"0" * 64 + data[82:]).hexdigest() == stated
    assert open_manifest(data, where="here").digest == check_digest(data, where="here") == f"blake3:{stated}"


@pytest.mark.parametrize("opened", [open_manifest, open_outline])
def test_every_flipped_bit_is_refused_before_a_field_is_used(monkeypatch, document, opened):
    """Each single flipped bit of a manifest is found by the digest, before anything is parsed."""
    data = seal_document(document)

    def parsed(*arguments):
        raise AssertionError("a field was used")

    monkeypatch.setattr(manifest_module, "_decoded", parsed)
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CorruptError, match="run/step"):
            opened(bytes(flipped), where="run/step")


@pytest.mark.parametrize("cut", [0, 1, 17, 18, 81, 82, 83, -1])
def test_a_truncated_or_extended_manifest_is_refused(cut, document):
    """Any other length is another manifest."""
    data = seal_document(document)
    for wrong in (data[:cut], data + b"\n", data + data, b"\n" + data, b" " * len(data)):
        with pytest.raises(CorruptError):
            open_manifest(wrong, where="here")


def test_an_upper_case_digest_is_refused(document):
    """There is one spelling of each manifest."""
    data = seal_document(document)
    with pytest.raises(CorruptError):
        open_manifest(data[:18] + data[18:82].upper() + data[82:], where="here")


def test_unknown_keys_are_kept(document, reopen):
    """What a later minor version adds survives being read and written by this one."""
    opened = reopen({**document, "colour": {"deep": [1, None]}, "extra": 5})
    assert opened.extra == {"colour": {"deep": [1, None]}, "extra": 5}
    assert json.loads(seal(opened))["colour"] == {"deep": [1, None]}
    assert open_manifest(seal(opened), where="here").extra == opened.extra


def test_an_outline_is_the_manifest_without_what_its_items_hold(document, reopen):
    """What decides which checkpoint stays reads no tensors' records, and all the rest as it is."""
    document["colour"] = 5
    outline = open_outline(seal_document(document), where="here")
    assert [(name, item.kind, item.tensors) for name, item in outline.items.items()] == [
        ("model", "module", {}), ("values", "tree", {})
    ]  # fmt: skip
    whole = reopen(document)
    assert msgspec.structs.replace(outline, items=whole.items, extra=whole.extra) == whole


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [({"requires": ["new"]}, UnsupportedFormatError, "requires 'new'"), ({"attempt": 0}, CorruptError, "attempt"),
     ({"items": []}, CorruptError, "items"), ({"items": {"model": {}}}, CorruptError, "kind"),
     ({"parts": [{"rank": -1, "files": {}}]}, CorruptError, "parts"), ({"label": "../x"}, CorruptError, "label")],
)  # fmt: skip
def test_an_outline_refuses_what_it_reads(document, changes, error, said):
    """By the same rules as the whole."""
    with pytest.raises(error, match=f"here.*{said}"):
        open_outline(seal_document(document | changes), where="here")


def test_extra_cannot_replace_a_field():
    """A key of the format is not an unknown key."""
    with pytest.raises(UsageError, match=r"\['run'\] are keys of the format"):
        seal(made(extra={"run": "other"}))


def test_unknown_requirements_are_refused_by_name(document, reopen):
    """What a reader must understand and does not is named, before the rest is looked at."""
    with pytest.raises(UnsupportedFormatError, match=r"here: requires 'erasure-codes', 'quantum'.*upgrade"):
        reopen({"format": 1, "requires": ["quantum", "erasure-codes"], "items": "in another way"})


def test_a_newer_format_is_refused_by_number(document, reopen):
    """A newer format is unsupported, not corrupt, whatever else it holds."""
    with pytest.raises(UnsupportedFormatError, match="here: written in format 2, this holdfast reads up to 1"):
        reopen({"format": 2, "attempt": "in words"})
    with pytest.raises(CorruptError, match="format is 0"):
        reopen({**document, "format": 0})


@pytest.mark.parametrize(
    "body",
    [b"", b"}", b'"', b'",', b'","format":1', b'","format":1}x', b'","format":"1"}', b'","format":true}', b'"}',
     b'","format":1.0}', b'","format":1e0}', b'","format":' + b"9" * 10_000 + b"}", b'","format":1,"requires":null}',
     b'","format":1,"run":"\xff"}', b'","format":1,"run":"\\ud800"}', b'","format":1,"config":' + b"[" * 100_000,
     b'","format":1,"unknown":' + b'{"a":' * 100_000, b'","format":NaN}'],
)  # fmt: skip
def test_what_is_not_such_json_is_corrupt(body):
    """A right digest over something that is not a manifest is a typed error."""
    start = HEAD + b"0" * 64
    data = HEAD + blake3(start + body).hexdigest().encode() + body
    with pytest.raises(CorruptError, match=r"^here: the manifest cannot be read"):
        open_manifest(data, where="here")


@pytest.mark.parametrize("field", ["run", "attempt", "ordinal", "try_id", "created"])
def test_a_missing_field_is_named(document, reopen, field):
    """What identifies a checkpoint has no default."""
    del document[field]
    with pytest.raises(CorruptError, match=f"here.*{field}"):
        reopen(document)


@pytest.mark.parametrize(
    ("field", "value"),
    [("attempt", 0), ("attempt", -1), ("ordinal", -1), ("ordinal", 2**63), ("try_id", "../x"), ("try_id", ""),
     ("progress", {"step": -1}), ("progress", {"step": 10**30}), ("progress", {"elapsed": -0.5}), ("attempt", True)],
)  # fmt: skip
def test_counts_and_names_out_of_range_are_refused(document, reopen, field, value):
    """Counts are not negative, and what becomes part of a name is a plain word."""
    with pytest.raises(CorruptError, match=field):
        reopen({**document, field: value})


@pytest.mark.parametrize(
    ("changes", "field"),
    [({"metrics": {"loss": float("nan")}}, "metrics"), ({"config": {"betas": (0.9,)}}, "config"),
     ({"config": {1: 2}}, "config"), ({"config": b"raw"}, "config"), ({"config": {"a": {3}}}, "config"),
     ({"reason": ["a list"]}, "reason")],
)  # fmt: skip
def test_sealing_refuses_what_json_would_change(changes, field):
    """Not-a-number would become null and a tuple a list: the caller is told to encode them."""
    with pytest.raises(UsageError, match=rf"manifest\.{field}: .*values\.encode"):
        seal(made(**changes))


@pytest.mark.parametrize("value", [object(), "\ud800", {"a": {("b",): 1}}])
def test_sealing_refuses_what_json_cannot_hold(value):
    """Objects and lone surrogates are the caller's error, not a crash inside the encoder."""
    with pytest.raises(UsageError, match=r"JSON cannot|values\.encode"):
        seal(made(config=value))


def test_sealing_refuses_a_manifest_that_could_not_be_opened():
    """A contradiction is found before it is committed."""
    chunk = Chunk(file="gone", offsets=(), sizes=(), begin=0, end=4)
    item = ItemRecord(kind="tree", tree=None, tensors={"a": TensorRecord(dtype="int32", shape=(), chunks=(chunk,))})
    with pytest.raises(CorruptError, match=r"to be written: items\.x\.tensors\.a"):
        seal(made(items={"x": item}))


def test_sealing_refuses_a_manifest_too_large_to_be_read(monkeypatch):
    """What readers would refuse for its size is not written."""
    monkeypatch.setattr(manifest_module, "MANIFEST_LIMIT", 1000)
    with pytest.raises(UsageError, match="readers take 1,000"):
        seal(made(config="x" * 1000))


def test_the_directory_name_follows_from_the_manifest():
    """Step, attempt and ordinal make the name."""
    assert str(made(progress=Progress(step=500), ordinal=3).name) == "step-00000500.a0001.n0003"


def test_resealing_by_hand_is_what_the_tests_think_it_is(document, reopen):
    """An attacker who puts the digest right gets past the digest and meets validation."""
    data = resealed(seal_document(document), b"a.safetensors", b"../safetensor")
    with pytest.raises(CorruptError, match=r"not a plain file name|no part has a file"):
        open_manifest(data, where="here")


def test_twenty_thousand_tensors_are_sealed_and_opened():
    """A large state's manifest is sealed and opened; every chunk and reference in it is checked."""
    count = 20_000
    tensors = {
        f"layers.{index}.weight": TensorRecord(
            dtype="float32",
            shape=(8, 8),
            chunks=(Chunk(file="m", offsets=(0, 0), sizes=(8, 8), begin=256 * index, end=256 * index + 256),),
        )
        for index in range(count)
    }
    file = FileRecord(size=256 * count, block_size=4 << 20, blocks=("0" * 32,) * 2, digest="blake3:" + "0" * 64)
    item = ItemRecord(kind="module", tree={name: {"$tensor": name} for name in tensors}, tensors=tensors)
    manifest = made(items={"model": item}, parts=(Part(rank=0, files={"m": file}),))
    assert open_manifest(seal(manifest), where="here").items == manifest.items


def test_aliases_survive():
    """Tied tensors are recorded once, with their other names."""
    item = ItemRecord(
        kind="module",
        tree={"a": {"$tensor": "a"}, "b": {"$array": "b"}},
        tensors={"a": TensorRecord(dtype="int8", shape=(0,), chunks=())},
        aliases={"b": Alias("model", "a")},
    )
    assert open_manifest(seal(made(items={"model": item})), where="here").items["model"] == item
