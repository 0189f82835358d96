"""Plain values survive as tagged JSON with their exact types; anything else is refused with its path."""

import contextlib
import enum
import http
import re
import signal
import subprocess
import sys
import types
from collections import Counter, OrderedDict, defaultdict, deque
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from pathlib import Path, PurePosixPath, PureWindowsPath
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import CorruptError, HoldfastError, MisfitError, UnsafeValueError, UsageError
from holdfast.format.values import MAX_DEPTH, TAGS, decode, encode, register_codec

HASHABLE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(max_size=8) | st.fractions(),
    lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3),
    max_leaves=4,
)
SCALARS = (
    HASHABLE
    | st.text(st.characters())
    | st.complex_numbers()
    | st.decimals()
    | st.uuids()
    | st.binary(max_size=8).map(bytearray)
    | st.datetimes(timezones=st.none() | st.timezones() | st.sampled_from([UTC, timezone(timedelta(hours=-3), "X")]))
    | st.dates()
    | st.times()
    | st.timedeltas()
    | st.builds(range, st.integers(), st.integers(), st.integers(1))
    | st.builds(slice, st.none() | st.integers(), st.none() | st.integers(), st.none() | st.integers())
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=4), inner, max_size=3)
        | st.dictionaries(HASHABLE, inner, max_size=3)
        | st.dictionaries(HASHABLE, inner, max_size=3).map(OrderedDict)
        | st.dictionaries(HASHABLE, inner, max_size=3).map(lambda items: defaultdict(list, items))
        | st.builds(deque, st.lists(inner, max_size=3), st.none() | st.integers(3, 5))
        | st.sets(HASHABLE, max_size=3)
    ),
    max_leaves=12,
)


class Colour(enum.Enum):
    RED = 1
    ALSO_RED = RED
    BLUE = "blue"


class Access(enum.Flag):
    READ = 1
    WRITE = 2
    BOTH = 3


class Point:
    def __init__(self, x, y):
        self.x, self.y = x, y

    def __eq__(self, other):
        return (self.x, self.y) == (other.x, other.y)


class Text(str):
    __slots__ = ()


def shown(value):
    try:
        return repr(value)[:30]
    except ValueError:
        return "huge"


def through_json(value):
    return decode(msgspec.json.decode(msgspec.json.encode(encode(value))))


@given(VALUES)
def test_values_survive_with_types_order_and_bits(same, value):
    """A value read back from JSON text is the same in every type, key order and bit."""
    assert same(through_json(value), value)


@pytest.mark.parametrize(
    "value",
    [
        -0.0, float("nan"), float("-nan"), float("inf"), 5e-324, 2**63 - 1, 2**63, -(2**63) - 1, 10**5000,
        {10**5000: 1}, True, "", "\ud800", "\0", {"$tensor": 1}, {"$a": 1, "b": 2}, {"": 0}, {1: "a", "1": "b"},
        {"\udfff": 1}, [], {}, (), set(), frozenset(), deque(maxlen=0), Counter("hello"), defaultdict(None, {1: 2}),
        defaultdict(int), defaultdict(dict, {"a": {}}),
        datetime(2026, 10, 25, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"), fold=1),
        datetime.max, datetime(2026, 1, 1, tzinfo=UTC), time(1, 2, 3, 4, tzinfo=timezone(timedelta(seconds=1))),
        date.min, timedelta.min, Decimal("-0E+7"), Decimal("sNaN123"), Fraction(-1, 3), UUID(int=1), Path("a/../b"),
        Path("/"), Path("\udcff"), PurePosixPath("/x"), PureWindowsPath("C:\\x"), slice((1,), "b"), range(10, 0, -3),
        Colour.RED, Colour.ALSO_RED, Access.READ, Access.BOTH, Access(0), re.A | re.X, re.RegexFlag(0),
        signal.SIGTERM, http.HTTPStatus.OK, complex(-0.0, float("nan")), complex(float("inf"), -0.0),
    ],
    ids=shown,
)  # fmt: skip
def test_edge_values_survive(same, value):
    """Values at the edges of their types survive exactly."""
    assert same(through_json(value), value)


@pytest.mark.parametrize(
    "value",
    [
        np.float32(1.1), np.float16("nan"), np.float64(-0.0), np.longdouble(1) / 3, np.int8(-1), np.uint64(2**64 - 1),
        np.bool_(True), np.complex64(1 - 2j), np.str_("häß"), np.str_(""), np.bytes_(b"ab"), np.datetime64("NaT"),
        np.datetime64("2026-11-01"), np.timedelta64(5, "ms"),
    ],
    ids=repr,
)  # fmt: skip
def test_numpy_scalars_survive(value):
    """A NumPy scalar comes back with its type and bits."""
    found = through_json(value)
    assert (type(found), found.dtype, found.tobytes()) == (type(value), value.dtype, value.tobytes())


@pytest.mark.parametrize("dtype", ["f4", ">i8", "?", "U5", "M8[us]", "c16"])
def test_numpy_dtypes_survive(dtype):
    """A NumPy dtype comes back, byte order included."""
    assert through_json(np.dtype(dtype)) == np.dtype(dtype)


def test_json_values_stand_for_themselves():
    """What JSON has is not tagged, so a manifest stays readable."""
    value = {"lr": 0.1, "betas": [0.9, 0.999], "amsgrad": False, "foreach": None, "name": "é"}
    assert encode(value) == value


def refused(value, message, path="optimizer"):
    with pytest.raises(UnsafeValueError, match=message) as caught:
        encode(value, path)
    assert str(caught.value).startswith(caught.value.path)
    return caught.value.path


def test_a_function_is_refused_with_its_path_and_the_way_out():
    """The message says where the value is and how to register a codec."""
    value = {"param_groups": [{"lr": 0.1, "hook": lambda: None}]}
    assert refused(value, r"a builtins.function cannot .*register_codec") == "optimizer/param_groups/0/hook"


@pytest.mark.parametrize(
    "value",
    [
        Point(1, 2), Text("a"), object(), int, len, np.zeros(2), np.dtype([("a", "f4")]), np.dtype("O"), iter([]),
        np.str_("a\0"), type("D", (dict,), {})(), type("L", (list,), {})(), type("I", (int,), {})(3), 1 << (1 << 19),
        enum.Enum("Local", "A").A, defaultdict(lambda: 0), OrderedDict, memoryview(b"a"), ..., NotImplemented,
    ],
    ids=shown,
)  # fmt: skip
def test_values_without_a_safe_tag_are_refused(value):
    """Custom classes, subclasses of plain types and unbounded values are never stored in part or as something else."""
    assert refused({"a": [value]}, "cannot be stored") == "optimizer/a/0"


def test_keys_are_refused_with_their_path():
    """A key that cannot be stored is named as a key."""
    assert refused({"a": {Point: 1}}, "cannot be stored").endswith("(key)")


def test_a_cycle_is_refused_with_its_path():
    """A value that contains itself is refused where it closes; a value that occurs twice is not a cycle."""
    shared = [1]
    assert encode([shared, shared]) == [[1], [1]]
    loop = {"a": [shared]}
    loop["a"].append({"b": (loop,)})
    assert refused(loop, "contains itself") == "optimizer/a/1/b/0"


@pytest.mark.parametrize(
    "wrap", [lambda v: [v], lambda v: {"a": v}, lambda v: (v,), lambda v: {1: v}, lambda v: deque([v])]
)
def test_nesting_is_bounded_alike_in_both_directions(wrap):
    """What is just shallow enough to be stored can be read back; deeper is refused, not a crash."""
    value, stored, depth = 0, 0, 0
    while depth < 2 * MAX_DEPTH:
        with contextlib.suppress(UnsafeValueError):
            stored, value, depth = encode(value), wrap(value), depth + 1
            continue
        break
    assert MAX_DEPTH // 3 <= depth <= MAX_DEPTH + 1
    refused(value, "nested more than")
    assert encode(decode(msgspec.json.decode(msgspec.json.encode(stored)))) == stored


def test_leaves_are_asked_first_and_stand_for_values():
    """References made by the caller come back through the caller, with the path on the way out."""
    asked = []

    def store(value, path):
        asked.append(path)
        return {"$tensor": path} if isinstance(value, Point) else None

    tree = encode({"state": {0: (Point(1, 2), 5)}, "hue": Colour.RED}, "optimizer", store)
    assert asked == ["optimizer/state/0/0", "optimizer/hue"]
    assert decode(tree, lambda tag, payload: (tag, payload)) == {
        "state": {0: (("$tensor", "optimizer/state/0/0"), 5)},
        "hue": Colour.RED,
    }


def test_leaves_are_nested_no_deeper_than_can_be_read():
    """The deepest reference that is stored is read back; one level more is refused."""

    def store(value, path):
        return {"$tensor": path} if isinstance(value, Point) else None

    value = Point(1, 2)
    for _ in range(MAX_DEPTH - 1):
        value = [value]
    found = decode(encode(value, "", store), lambda tag, payload: (tag, payload))
    while isinstance(found, list):
        (found,) = found
    assert found[0] == "$tensor"
    with pytest.raises(UnsafeValueError, match="nested more than"):
        encode([value], "", store)


def test_a_reference_among_plain_values_is_corrupt():
    """Where nothing resolves tensors, a reference to one cannot have been written."""
    with pytest.raises(CorruptError, match=r"config/x: '\$tensor' refers to a tensor"):
        decode({"x": {"$tensor": "weight"}}, None, "config")


def test_a_registered_type_is_stored_with_what_is_in_it():
    """A codec's plain values are encoded in turn: tags, nested codecs and leaves included."""
    register_codec(Point, "$tests.point", lambda point: (point.x, point.y), lambda xy: Point(*xy))
    value = [Point(Point(1, {2}), float("inf"))]
    assert through_json(value) == value
    assert encode(Point(1, 2)) == {"$tests.point": {"$tuple": [1, 2]}}
    register_codec(Point, "$tests.point", lambda point: (point.x, point.y), lambda xy: Point(*xy))


@pytest.mark.parametrize(
    ("cls", "tag"),
    [(Text, "text"), (Text, "$"), (Text, "$tuple"), (Text, "$tensor"), (Text, "$a b"), (dict, "$d"), (tuple, "$t"),
     (int, "$i")],
)  # fmt: skip
def test_a_codec_cannot_take_what_is_taken(cls, tag):
    """Tags of the format and types that it stores already stay what they are."""
    with pytest.raises(UsageError):
        register_codec(cls, tag, str, str)


def test_two_types_cannot_share_a_tag():
    """A tag belongs to one class, or a checkpoint could be read back as another type."""
    register_codec(Text, "$tests.text", str, Text)
    with pytest.raises(UsageError, match=r"belongs to .*Text"):
        register_codec(Point, "$tests.text", str, str)


def test_a_codec_that_fails_is_named():
    """An error in a user's codec says which value, on both ways."""

    class Broken:
        pass

    register_codec(Broken, "$tests.broken", lambda value: value.missing, lambda value: value.missing)
    with pytest.raises(UnsafeValueError, match=r"a/0: Broken cannot be stored: .*missing"):
        encode([Broken()], "a")
    with pytest.raises(MisfitError, match=r"0: the codec of .*Broken could not read"):
        decode([{"$tests.broken": 1}])


def test_an_unregistered_tag_is_named():
    """A tag nobody reads is a missing registration, not corruption: older checkpoints would not help."""
    with pytest.raises(MisfitError, match=r"a/0: nothing here reads the tag '\$mine'.*register"):
        decode({"a": [{"$mine": 1}]})
    with pytest.raises(MisfitError, match=r"\$mine"):
        decode({"$mine": 1}, lambda tag, payload: NotImplemented)


@pytest.mark.parametrize(
    ("module", "name"),
    [("antigravity", "A"), ("os", "system"), ("tests.nothing", "A"), ("", ""), ("builtins", "object"),
     ("http", "HTTPStatus.mro")],
)  # fmt: skip
def test_an_enum_is_only_looked_for_among_imported_modules(module, name):
    """Reading imports nothing and finds nothing but enums; the message says what to import."""
    with pytest.raises(MisfitError, match=r"import .* before loading"):
        decode({"$enum": [module, name, "A"]})


def test_an_enum_never_wakes_a_lazy_module(monkeypatch):
    """A module whose ``__getattr__`` imports on demand is not asked: a checkpoint could choose what it imports."""

    class Lazy(types.ModuleType):
        def __getattribute__(self, name):
            raise AssertionError(f"asked for {name}")

    monkeypatch.setitem(sys.modules, "lazy_module", Lazy("lazy_module"))
    with pytest.raises(MisfitError, match="import lazy_module before"):
        decode({"$enum": ["lazy_module", "Colour", "RED"]})


def test_a_member_that_is_gone_is_named():
    """An enum that lost a member says which."""
    with pytest.raises(MisfitError, match="has no member 'GREEN'"):
        decode({"$enum": [__name__, "Colour", "GREEN"]})


HOSTILE = {
    "tag beside a key": {"$tuple": [], "a": 1},
    "two tags": {"$tuple": [], "$set": []},
    "tuple of text": {"$tuple": "abc"},
    "tuple of an object": {"$tuple": {"a": 1}},
    "set of lists": {"$set": [[1]]},
    "pairs of three": {"$dict": [[1, 2, 3]]},
    "pairs no list": {"$dict": {"a": 1}},
    "key twice": {"$dict": [[1, 2], [1, 3]]},
    "unhashable key": {"$dict": [[[], 1]]},
    "factory by name": {"$default_dict": ["eval", []]},
    "factory unhashable": {"$default_dict": [[], []]},
    "int not hex": {"$int": "12"},
    "int no text": {"$int": 12},
    "int endless": {"$int": "0x" + "f" * 100_000},
    "int of many digits in a float": {"$float": "1" * 16},
    "float finite": {"$float": "3ff0000000000000"},
    "float not hex": {"$float": "zz"},
    "bytes not base64": {"$bytes": "*"},
    "bytes from a list": {"$bytes": [1]},
    "text not UTF-8": {"$str": "/w=="},
    "complex of text": {"$complex": ["1", "2"]},
    "complex of three": {"$complex": [1.0, 2.0, 3.0]},
    "range of zero": {"$range": [0, 1, 0]},
    "range of floats": {"$range": [0.0, 1.0, 1.0]},
    "slice of one": {"$slice": [1]},
    "deque negative": {"$deque": {"items": [], "maxlen": -1}},
    "deque huge": {"$deque": {"items": [], "maxlen": {"$int": "0x" + "f" * 40}}},
    "deque without length": {"$deque": {"items": []}},
    "datetime": {"$datetime": ["yesterday", None, 0]},
    "datetime with odd zone": {"$datetime": ["2026-11-01T00:00:00", "UTC", 0]},
    "datetime with odd fold": {"$datetime": ["2026-11-01T00:00:00", None, 7]},
    "date": {"$date": "2026-02-30"},
    "timedelta": {"$timedelta": [10**18, 0, 0]},
    "timezone": {"$timezone": [10**18, None]},
    "zone outside": {"$zoneinfo": "../../etc/passwd"},
    "zone absolute": {"$zoneinfo": "/etc/passwd"},
    "path with NUL no text": {"$path": 1},
    "pure path of another kind": {"$pure_path": ["mac", "a"]},
    "decimal": {"$decimal": "one"},
    "fraction by zero": {"$fraction": [1, 0]},
    "uuid": {"$uuid": "1"},
    "enum of numbers": {"$enum": [1, 2, 3]},
    "enum of two": {"$enum": ["a", "b"]},
    "enum of lists": {"$enum": [[], [], []]},
    "several names of a plain enum": {"$enum": [__name__, "Colour", ["RED"]]},
    "numpy object": {"$numpy": ["|O", ""]},
    "numpy object dtype": {"$numpy_dtype": "O"},
    "numpy structured": {"$numpy_dtype": "f4,f4"},
    "numpy huge": {"$numpy": ["<U999999999", "AAAA"]},
    "numpy of other size": {"$numpy": ["<f4", "AAAAAAA="]},
    "numpy absurd": {"$numpy_dtype": "<f3"},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_json_is_corrupt(name):
    """Whatever stands under a tag, it is a value of that type or a typed error with the path."""
    with pytest.raises(CorruptError, match=r"^config/a/0"):
        decode({"a": [HOSTILE[name]]}, None, "config")


def test_deep_json_is_corrupt():
    """JSON nested beyond the limit is refused, however it got into memory."""
    json = 0
    for _ in range(100_000):
        json = [json]
    with pytest.raises(CorruptError, match="nested more than"):
        decode(json)
    while json:  # taken apart here, or its deallocation is the deep recursion
        (json,) = json


def test_an_unknown_time_zone_says_what_to_install():
    """A zone this machine lacks is no corruption."""
    for name in ("Mars/Olympus", "Europe"):
        with pytest.raises(MisfitError, match=f"no time zone '{name}'"):
            decode({"$zoneinfo": name})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=4), inner, max_size=3)
        | st.builds(lambda tag, payload: {tag: payload}, st.sampled_from([*sorted(TAGS), "$mine"]), inner)
    ),
    max_leaves=10,
)


@given(JSON)
def test_any_json_is_decoded_or_refused(json):
    """No JSON makes reading fail in another way, and what was read can be stored."""
    try:
        value = decode(json)
    except HoldfastError:
        return
    encode(value)


def test_reading_and_writing_values_needs_no_numpy():
    """The modules of the format are imported without NumPy and torch: the writer process starts fast and small."""
    modules = ", ".join(
        f"holdfast.format.{name}" for name in ("values", "manifest", "safetensors", "digests", "schema")
    )
    done = subprocess.run(
        [sys.executable, "-c", f"import sys, {modules}; print(*sys.modules)"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert not {"numpy", "torch"} & set(done.stdout.split())
