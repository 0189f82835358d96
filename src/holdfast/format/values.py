"""Plain Python values to tagged JSON and back, exactly, with their types.

What JSON has stands for itself. Everything else is an object with one key that begins with ``$``,
its tag: ``(1, 2)`` is ``{"$tuple": [1, 2]}``. Only exact types are taken, so nothing is quietly turned
into its base class, and nothing on disk can name code to run.
"""

from __future__ import annotations

import enum
import math
import re
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from holdfast.errors import CorruptError, HoldfastError, MisfitError, UnsafeValueError, UsageError
from holdfast.format.codecs import SPELLED, STANDARD, Codec, expect
from holdfast.format.enums import decode_enum, encode_enum
from holdfast.format.numpy_values import DTYPE, SCALAR, numpy_codec
from holdfast.types import Json

MAX_DEPTH = 100
"""How deep values may be nested."""

EncodeLeaf = Callable[[Any, str], Json | None]
"""Value and path to its JSON, such as ``{"$tensor": "weight"}``; None if it is not a leaf."""

DecodeLeaf = Callable[[str, Json], Any]
"""Tag (``"$tensor"``) and payload to the value; `NotImplemented` if the tag is not a leaf's."""

T = TypeVar("T")

_TAG = re.compile(r"\$[A-Za-z][A-Za-z0-9._-]*")
_ENUM = Codec(enum.Enum, "$enum", encode_enum, decode_enum, list)
_FACTORIES: dict[str, Any] = {kind.__name__: kind for kind in (list, dict, set, int, float, str)}
_MAPPINGS: dict[type, str] = {dict: "$dict", OrderedDict: "$ordered_dict", Counter: "$counter"}
_MAPPING_OF = {tag: cls for cls, tag in _MAPPINGS.items()}
PAIRED: frozenset[str] = frozenset(_MAPPING_OF)
"""Tags of dicts that are stored as a list of pairs."""
DEFAULT_DICT = "$default_dict"
"""Tag of a factory's name and a list of pairs."""
_STANDARD: dict[type, Codec] = {codec.cls: codec for codec in STANDARD}
_SPELLED: dict[type, Codec] = {codec.cls: codec for codec in SPELLED}
_BY_TAG: dict[str, Codec] = {codec.tag: codec for codec in (*STANDARD, *SPELLED, _ENUM, SCALAR, DTYPE)}
_REFERENCES = ("$tensor", "$array")
TAGS: frozenset[str] = frozenset({*_BY_TAG, *_MAPPING_OF, DEFAULT_DICT, *_REFERENCES})
"""Every tag of format 1; other tags are registered codecs'."""

_COMPOUND: frozenset[type] = frozenset({list, defaultdict, *_MAPPINGS, *_STANDARD})
"""Types whose values are taken apart, and so are never a leaf."""
_NESTED = (list, dict)
_SCALARS = frozenset({type(None), bool, int, float, str})
_JSON_TYPES = _SCALARS | {list, dict}
_REGISTERED: dict[type, Codec] = {}
_REGISTERED_TAGS: dict[str, Codec] = {}


def register_codec(cls: type[T], tag: str, encode: Callable[[T], Any], decode: Callable[[Any], T]) -> None:
    """Teach holdfast to store values whose type is exactly ``cls``.

    ``encode`` returns plain values, tensors among them if there are any; ``decode`` gets them back.
    ``tag`` marks them in the checkpoint: ``$`` and a name of your own, the same for ever. Register
    before saving and before loading. Raises `UsageError` for a type or tag that is taken.

    >>> class Point:
    ...     def __init__(self, x, y):
    ...         self.x, self.y = x, y
    >>> register_codec(Point, "$doc.point", lambda point: (point.x, point.y), lambda xy: Point(*xy))
    >>> decode(encode(Point(1, 2))).y
    2
    """
    if not _TAG.fullmatch(tag) or tag in TAGS:
        raise UsageError(f"tag {tag!r}: expected '$' and a name of your own (letters, digits, '.', '_', '-')")
    if cls in _JSON_TYPES or cls in _MAPPINGS or cls in _STANDARD or cls is defaultdict:
        raise UsageError(f"{cls.__qualname__} is stored already; a codec cannot replace that")
    former = _REGISTERED_TAGS.get(tag)
    if former is not None and _full_name(former.cls) != _full_name(cls):
        raise UsageError(f"tag {tag!r} belongs to {_full_name(former.cls)}; choose another for {_full_name(cls)}")
    _REGISTERED[cls] = _REGISTERED_TAGS[tag] = Codec(cls, tag, encode, decode)


def encode(value: Any, path: str = "", leaf: EncodeLeaf | None = None) -> Json:
    """``value`` as tagged JSON.

    ``leaf`` is asked first about every value that is not plain; what it returns stands in the
    result as it is. Raises `UnsafeValueError`, with the path, for a value that has no safe
    representation, a cycle, or nesting beyond `MAX_DEPTH`.

    >>> encode({"betas": (0.9, 0.999), 3: float("inf")})
    {'$dict': [['betas', {'$tuple': [0.9, 0.999]}], [3, {'$float': 'inf'}]]}
    """
    return _Encoder(leaf).encode(value, path)


def decode(json: Json, leaf: DecodeLeaf | None = None, path: str = "") -> Any:
    """The value that `encode` was given.

    ``leaf`` is asked about every tag that is neither built in nor registered; ``path`` begins the paths
    in messages. Raises `CorruptError` for
    what `encode` cannot have written, `MisfitError` where this process lacks a codec or an enum.

    >>> decode({"$tuple": [1, {"$set": [2]}]})
    (1, {2})
    """
    try:
        return _Decoder(leaf).decode(json, path, 0)
    except RecursionError as error:
        raise CorruptError(f"{_shown(path)}: a stored value is nested too deeply to be read") from error


class _Encoder:
    def __init__(self, leaf: EncodeLeaf | None) -> None:
        self._leaf = leaf
        self._open: set[int] = set()

    def encode(self, value: Any, path: str) -> Json:
        kind = type(value)
        if kind in _SCALARS:
            return value if _is_json(value) else {_SPELLED[kind].tag: _guarded(_SPELLED[kind].encode, value, path)}
        if self._leaf is not None and kind not in _COMPOUND:
            # Before all else that is done for a compound: a state may have very many leaves.
            reference = self._leaf(value, path)
            if reference is not None:
                self._require_shallow(path)
                return reference
        return self._encode_inside(value, path)

    def _require_shallow(self, path: str) -> None:
        if len(self._open) >= MAX_DEPTH:
            raise UnsafeValueError(f"{_shown(path)}: nested more than {MAX_DEPTH} deep", path)

    def _encode_inside(self, value: Any, path: str) -> Json:
        if id(value) in self._open:
            raise UnsafeValueError(f"{_shown(path)}: contains itself; a cycle cannot be stored", path)
        self._require_shallow(path)
        self._open.add(id(value))
        try:
            return self._encode_compound(value, path)
        finally:
            self._open.discard(id(value))

    def _encode_compound(self, value: Any, path: str) -> Json:
        kind = type(value)
        if kind is list:
            # Paths are spelled out only where they can be needed: lists of numbers may be long.
            return [item if _is_json(item) else self.encode(item, _below(path, at)) for at, item in enumerate(value)]
        if kind is dict and all(map(_is_plain_key, value)):
            below = f"{path}/" if path else ""
            return {key: self.encode(item, below + key) for key, item in value.items()}
        if kind in _MAPPINGS:
            return {_MAPPINGS[kind]: self._pairs(value, path)}
        if kind is defaultdict:
            return {DEFAULT_DICT: [_factory_name(value.default_factory, path), self._pairs(value, path)]}
        return self._encode_other(value, path)

    def _encode_other(self, value: Any, path: str) -> Json:
        codec = _STANDARD.get(type(value)) or _REGISTERED.get(type(value)) or _family_codec(value)
        if codec is None:
            raise UnsafeValueError(_refusal(value, path), path)
        return {codec.tag: self.encode(_guarded(codec.encode, value, path), path)}

    def _pairs(self, value: Mapping[Any, Any], path: str) -> list[Json]:
        pairs: list[Json] = []
        for key, item in value.items():
            below = _below(path, key)
            pairs.append([key if _is_json(key) else self.encode(key, f"{below} (key)"), self.encode(item, below)])
        return pairs


class _Decoder:
    def __init__(self, leaf: DecodeLeaf | None) -> None:
        self._leaf = leaf

    def decode(self, json: Json, path: str, depth: int) -> Any:
        if not isinstance(json, _NESTED):
            return json
        if depth > MAX_DEPTH:
            raise CorruptError(f"{_shown(path)}: a stored value is nested more than {MAX_DEPTH} deep")
        if isinstance(json, list):
            return [self.decode(item, _below(path, index), depth + 1) for index, item in enumerate(json)]
        for key in json:
            if key[:1] == "$":
                return self._decode_tagged(key, json, path, depth)
        below = f"{path}/" if path else ""
        return {key: self.decode(item, below + key, depth + 1) for key, item in json.items()}

    def _decode_tagged(self, tag: str, json: dict[str, Json], path: str, depth: int) -> Any:
        if len(json) != 1:
            raise CorruptError(f"{_shown(path)}: {tag!r} stands beside other keys")
        try:
            if tag in _REFERENCES:
                return self._decode_reference(tag, json[tag], path)
            return self._decode_built_in(tag, json[tag], path, depth)
        except HoldfastError:
            raise
        except (TypeError, ValueError, AttributeError, LookupError, ArithmeticError) as error:
            raise CorruptError(f"{_shown(path)}: {tag!r} does not hold what it should: {error}") from error

    def _decode_reference(self, tag: str, payload: Json, path: str) -> Any:
        value = NotImplemented if self._leaf is None else self._leaf(tag, payload)
        if value is NotImplemented:
            raise CorruptError(f"{_shown(path)}: {tag!r} refers to a tensor where only plain values can be")
        return value

    def _decode_built_in(self, tag: str, payload: Json, path: str, depth: int) -> Any:
        if tag in _MAPPING_OF:
            return _MAPPING_OF[tag](self._unpaired(payload, path, depth))
        if tag == DEFAULT_DICT:
            name, pairs = payload
            return defaultdict(None if name is None else _FACTORIES[name], self._unpaired(pairs, path, depth))
        codec = _BY_TAG.get(tag)
        if codec is None:
            return self._decode_foreign(tag, payload, path, depth)
        value = self.decode(payload, path, depth + 1)
        return codec.decode(value if codec.payload is object else expect(value, codec.payload))

    def _decode_foreign(self, tag: str, payload: Json, path: str, depth: int) -> Any:
        codec = _REGISTERED_TAGS.get(tag)
        if codec is not None:
            return _user_decoded(codec, self.decode(payload, path, depth + 1), path)
        value = NotImplemented if self._leaf is None else self._leaf(tag, payload)
        if value is NotImplemented:
            raise MisfitError(
                f"{_shown(path)}: nothing here reads the tag {tag!r}; register its codec "
                f"(holdfast.register_codec) before loading, as the script that saved it did"
            )
        return value

    def _unpaired(self, payload: Json, path: str, depth: int) -> dict[Any, Any]:
        found = {}
        for key, item in expect(payload, list):
            plain = self.decode(key, path, depth + 1)
            found[plain] = self.decode(item, _below(path, plain), depth + 1)
        if len(found) != len(payload):
            raise ValueError("a key occurs twice")
        return found


def _is_json(value: Any) -> bool:
    kind = type(value)
    if kind is int:
        return bool(-(2**63) <= value < 2**63)
    if kind is float:
        return math.isfinite(value)
    return value is None or kind is bool or (kind is str and _is_text(value))


def _is_text(value: str) -> bool:
    if value.isascii():
        return True
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _full_name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _is_plain_key(key: Any) -> bool:
    return type(key) is str and key[:1] != "$" and _is_text(key)


def _family_codec(value: Any) -> Codec | None:
    return _ENUM if isinstance(value, enum.Enum) else numpy_codec(value)


def _factory_name(factory: Any, path: str) -> str | None:
    if factory is None:
        return None
    for name, known in _FACTORIES.items():
        if factory is known:
            return name
    raise UnsafeValueError(
        f"{_shown(path)}: a defaultdict of {factory!r} cannot be stored; use one of {', '.join(_FACTORIES)}", path
    )


def _guarded(encoder: Callable[[Any], Any], value: Any, path: str) -> Any:
    try:
        return encoder(value)
    except HoldfastError:
        raise
    except Exception as error:
        raise UnsafeValueError(f"{_shown(path)}: {type(value).__name__} cannot be stored: {error}", path) from error


def _user_decoded(codec: Codec, payload: Any, path: str) -> Any:
    try:
        return codec.decode(payload)
    except HoldfastError:
        raise
    except Exception as error:
        name = codec.cls.__qualname__
        raise MisfitError(f"{_shown(path)}: the codec of {name} could not read what was stored: {error!r}") from error


def _refusal(value: Any, path: str) -> str:
    cls = type(value)
    return (
        f"{_shown(path)}: a {_full_name(cls)} cannot be stored safely; take it out of the state, or "
        f'call holdfast.register_codec({cls.__name__}, "$your_tag", encode, decode) '
        "with functions to and from plain values"
    )


def _below(path: str, key: Any) -> str:
    name = key if isinstance(key, str) else _key_name(key)
    return f"{path}/{name}" if path else name


def _key_name(key: Any) -> str:
    try:
        return repr(key)[:80]
    except Exception:  # an integer of 5,000 digits has no repr, and a user's __repr__ may do anything
        return f"<{type(key).__name__}>"


def _shown(path: str) -> str:
    return path or "the value"
