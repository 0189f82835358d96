"""The manifest: the record whose presence makes a directory a checkpoint.

Its bytes begin with a digest of themselves, which is checked before anything in them is believed:
half of all single flipped bits leave JSON that still parses.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec
from blake3 import blake3

from holdfast.errors import CorruptError, UnsupportedFormatError, UsageError
from holdfast.format.names import CheckpointName, default_label
from holdfast.format.reasons import ON_ERROR
from holdfast.format.validation import validate_items, validate_name, validate_progress
from holdfast.garbage import no_collection
from holdfast.storage.paths import MANIFEST_FILE as MANIFEST_FILE
from holdfast.types import ItemRecord, Json, Part, Progress

FORMAT = 1
"""The format that this version writes, and the newest that it reads."""

FEATURES: frozenset[str] = frozenset()
"""What a manifest may name in ``requires`` and this version understands. Format 1 by itself needs nothing."""

MANIFEST_LIMIT = 128 << 20
"""The largest manifest in bytes, about 400,000 tensors: what a reader has to be ready to hold in memory."""

_HEAD = b'{"digest":"blake3:'
_HEX = 64
_ZEROS = b"0" * _HEX

T = TypeVar("T")


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """A checkpoint of another run that this run's state came from: ``items`` are the run's own names for what it took.

    ``folder`` is where it was then, for people.
    """

    run: str
    name: str
    digest: str
    items: tuple[str, ...] = ()
    folder: str = ""


class Interval(msgspec.Struct, frozen=True, kw_only=True):
    """An interval, in seconds of training, that a saver's ``policy`` had chosen by what it measured, and why."""

    policy: str
    seconds: float
    because: str


class Parent(msgspec.Struct, frozen=True):
    """The checkpoint that came before: its directory name and its manifest's digest."""

    name: str
    digest: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """Everything about one checkpoint but the bytes of its tensors.

    ``digest`` is filled in by `seal`. ``label`` is what its directory's name begins with; empty stands for the default,
    ``step-`` and the step. ``savers`` are the identities of the savers that it was saved for, ``intervals`` what those
    had chosen by then. ``created`` is UTC, ISO 8601. ``metrics``, ``config``, ``learning_rates``, ``environment``, item
    trees and item metadata are tagged JSON, made by `holdfast.format.values.encode`. ``extra`` holds the keys this
    version does not know, kept as they were read.
    """

    digest: str = ""
    format: int = FORMAT
    requires: tuple[str, ...] = ()
    run: str
    attempt: int
    ordinal: int
    try_id: str
    label: str = ""
    parent: Parent | None = None
    origins: tuple[Origin, ...] = ()
    savers: tuple[str, ...] = ()
    intervals: tuple[Interval, ...] = ()
    created: str
    reason: tuple[str, ...] = ()
    progress: Progress = Progress()
    metrics: dict[str, Json] = {}
    config: Json = None
    learning_rates: dict[str, Json] = {}
    items: dict[str, ItemRecord] = {}
    parts: tuple[Part, ...] = ()
    environment: dict[str, Json] = {}
    extra: dict[str, Json] = msgspec.field(default_factory=dict, name="$extra")

    @property
    def name(self) -> CheckpointName:
        """The name of the directory that this manifest belongs in."""
        return CheckpointName(self.label or default_label(self.progress.step), self.attempt, self.ordinal)

    @property
    def whole(self) -> bool:
        """Whether a run can be resumed from it: it holds where the run was, and so everything else too."""
        return _NEEDED.issubset(self.items)

    @property
    def on_error(self) -> bool:
        """Whether it was saved because an exception ended the loop."""
        return ON_ERROR in self.reason


_NEEDED = frozenset({"data", "rng"})
"""Items that say where a run was. A saver that leaves out something of the state leaves out these."""

FIELDS: frozenset[str] = frozenset(field.encode_name for field in msgspec.structs.fields(Manifest)) - {"$extra"}
"""The keys of a manifest of format 1."""


class _Head(msgspec.Struct, frozen=True):
    format: int
    requires: tuple[str, ...] = ()


class _Kind(msgspec.Struct, frozen=True):
    kind: str


class _Outline(Manifest, frozen=True, kw_only=True):
    items: dict[str, _Kind] = {}  # type: ignore[assignment]


def seal(manifest: Manifest) -> bytes:
    """The bytes of ``manifest.json``: compact JSON that begins with the digest of the whole.

    What it returns opens again as an equal manifest. Raises `CorruptError` where the manifest
    contradicts itself, `UsageError` where it holds what JSON would not give back.
    """
    if FIELDS & manifest.extra.keys():
        raise UsageError(f"manifest.extra: {sorted(FIELDS & manifest.extra.keys())} are keys of the format itself")
    try:
        document = msgspec.structs.asdict(manifest)
        data = seal_document(document | document.pop("extra"))
    except (TypeError, UnicodeEncodeError, RecursionError) as error:
        raise UsageError(f"the manifest holds what JSON cannot: {error}; encode plain values first") from error
    if len(data) > MANIFEST_LIMIT:
        raise UsageError(f"the manifest takes {len(data):,} bytes, readers take {MANIFEST_LIMIT:,}; save fewer leaves")
    _check_same(manifest, open_manifest(data, where="the manifest to be written"))
    return data


def seal_document(document: dict[str, Json]) -> bytes:
    """The bytes of any JSON object with its digest in front, unchecked; a ``digest`` in it is replaced."""
    body = {key: value for key, value in document.items() if key != "digest"}
    data = msgspec.json.encode({"digest": "blake3:" + _ZEROS.decode(), **body})
    start = len(_HEAD)
    return data[:start] + _own_digest(data).encode() + data[start + _HEX :]


@no_collection()
def open_manifest(data: bytes, *, where: str) -> Manifest:
    """The manifest in ``data``, the bytes of the ``manifest.json`` of the checkpoint ``where``.

    Checks the digest on the raw bytes first, then the format, then what it requires, then that it
    does not contradict itself. Raises `CorruptError` or `UnsupportedFormatError` naming ``where`` and the key.
    """
    _check_head(data, where)
    manifest = _decoded(data, Manifest, where)
    return _checked(msgspec.structs.replace(manifest, extra=_unknown(data, where)), where)


def open_outline(data: bytes, *, where: str) -> Manifest:
    """Like `open_manifest`, but of the items only the names and kinds are read, and keys that are not known are not.

    For who looks at all checkpoints again and again and loads none: it takes a tenth of the time and little memory.
    """
    _check_head(data, where)
    outline = _decoded(data, _Outline, where)
    items = {name: ItemRecord(kind=one.kind, tree=None) for name, one in outline.items.items()}
    return _checked(Manifest(**(msgspec.structs.asdict(outline) | {"items": items})), where)


def _check_head(data: bytes, where: str) -> None:
    check_digest(data, where=where)
    _check_readable(_decoded(data, _Head, where), where)


def _checked(manifest: Manifest, where: str) -> Manifest:
    validate_name(manifest.label, manifest.attempt, manifest.ordinal, manifest.try_id, where=where)
    validate_progress(manifest.progress, where=where)
    validate_items(manifest.items, manifest.parts, where=where)
    return manifest


def check_digest(data: bytes, *, where: str) -> str:
    """The digest that ``data`` begins with; `CorruptError` unless it is the digest of ``data``."""
    found = bytes(data[len(_HEAD) : len(_HEAD) + _HEX])
    if not data.startswith(_HEAD) or len(found) < _HEX:
        raise CorruptError(f'{where}: not a manifest: it does not begin with {_HEAD.decode()}<{_HEX} hex digits>"')
    if found != _own_digest(data).encode():
        raise CorruptError(f"{where}: the manifest's bytes are not the ones that were committed: its digest differs")
    return f"blake3:{found.decode()}"


def _own_digest(data: bytes) -> str:
    start = len(_HEAD)
    return blake3(data[:start]).update(_ZEROS).update(memoryview(data)[start + _HEX :]).hexdigest()


def _check_readable(head: _Head, where: str) -> None:
    if head.format > FORMAT:
        raise UnsupportedFormatError(
            f"{where}: written in format {head.format}, this holdfast reads up to {FORMAT}; upgrade holdfast"
        )
    if head.format < 1:
        raise CorruptError(f"{where}: format is {head.format}, expected 1 or more")
    missing = sorted(set(head.requires) - FEATURES)
    if missing:
        raise UnsupportedFormatError(
            f"{where}: requires {', '.join(map(repr, missing))}, which this holdfast lacks; upgrade holdfast"
        )


def _decoded(data: bytes, kind: type[T], where: str) -> T:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise CorruptError(f"{where}: the manifest cannot be read: {error}") from error


def _unknown(data: bytes, where: str) -> dict[str, Json]:
    raw = _decoded(data, dict[str, msgspec.Raw], where)
    return {key: _decoded(bytes(value), object, where) for key, value in raw.items() if key not in FIELDS}


def _check_same(manifest: Manifest, opened: Manifest) -> None:
    names = (name for name in manifest.__struct_fields__ if name != "digest")
    changed = [name for name in names if getattr(manifest, name) != getattr(opened, name)]
    if changed:
        raise UsageError(
            f"manifest.{changed[0]}: JSON would not give it back as it is (nan, a tuple, keys that are not text?); "
            "encode plain values with holdfast.format.values.encode"
        )
