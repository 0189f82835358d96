"""The line that is told for a value is the line on which it was written, however the text is laid out."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.run.config_scanner import Scanner
from holdfast.run.config_text import ConfigText
from holdfast.run.config_values import read_values

Path = tuple[str | int, ...]

TRAPS = ["# plain", '# save = ["at end"]', "# [[saver]]", '# """', "# it's", "# }", "#", "# ]"]
TEXTS = st.one_of(
    st.sampled_from(
        ["at end", "last 3", "every 200 steps", "a # b", '["', "it's", "]", '"""', "\\", "a\nb = 1\n", "'''"]
    ),
    st.text(st.characters(codec="utf-8", exclude_characters="\x7f"), max_size=8),
)
SCALARS = st.one_of(TEXTS, st.integers(-9, 9), st.booleans(), st.just(0.5))


def trees(scalars: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Tables as a configuration has them, and stranger ones."""
    values = st.recursive(
        scalars,
        lambda inner: st.one_of(
            st.lists(inner, max_size=3),
            st.dictionaries(TEXTS, inner, max_size=3),
            st.lists(st.dictionaries(TEXTS, inner, max_size=2), max_size=3),
        ),
        max_leaves=12,
    )
    return st.dictionaries(TEXTS, values, max_size=4)


def paths(values: Any, path: Path = ()) -> Iterator[Path]:
    """The way to everything in ``values``."""
    entries = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    for key, value in entries:
        yield (*path, key)
        yield from paths(value, (*path, key))


class Page:
    """A text that is being written at random, and the line of each thing on it."""

    def __init__(self, chance: random.Random) -> None:
        self.text = ""
        self.lines: dict[Path, int] = {}
        self.chance = chance

    def write(self, text: str) -> None:
        self.text += text

    def note(self, path: Path) -> None:
        self.lines.setdefault(path, self.text.count("\n") + 1)

    def sometimes(self) -> bool:
        return self.chance.random() < 0.5

    def choose(self, *options: str) -> str:
        return self.chance.choice(options)


class JsonPage(Page):
    def value(self, value: Any, path: Path = ()) -> None:
        if isinstance(value, dict):
            self.enclosed("{}", value, path)
        elif isinstance(value, list):
            self.enclosed("[]", dict(enumerate(value)), path)
        else:
            self.write(json.dumps(value, ensure_ascii=self.sometimes()))

    def enclosed(self, brackets: str, entries: dict[Any, Any], path: Path) -> None:
        self.write(brackets[0])
        for count, (key, value) in enumerate(entries.items()):
            self.write("," * (count > 0))
            self.space()
            self.note((*path, key))
            if brackets == "{}":
                self.write(json.dumps(key, ensure_ascii=self.sometimes()))
                self.space()
                self.write(":")
                self.space()
            self.value(value, (*path, key))
            self.space()
        self.write(brackets[1])

    def space(self) -> None:
        self.write(self.choose("", " ", "\n", "\r\n\t", "\n\n"))


class TomlPage(Page):
    def document(self, values: dict[str, Any]) -> None:
        self.section(values, (), "")

    def section(self, values: dict[str, Any], path: Path, name: str) -> None:
        """A table's entries, and then the tables in it that have a header of their own."""
        under = [key for key, value in values.items() if self.can_have_header(value) and self.sometimes()]
        for key, value in values.items():
            if key not in under:
                self.line_break()
                self.entry(key, value, path, "")
        for key in under:
            inner, place = values[key], (*path, key)
            header = f"{name}.{self.key(key)}" if name else self.key(key)
            if isinstance(inner, dict):
                self.header(f"[{header}]", place)
                self.section(inner, place, header)
                continue
            for index, one in enumerate(inner):
                self.header(f"[[{header}]]", (*place, index))
                self.section(one, (*place, index), header)
        self.line_break()

    def can_have_header(self, value: Any) -> bool:
        is_list = isinstance(value, list) and bool(value) and all(isinstance(one, dict) for one in value)
        return isinstance(value, dict) or is_list

    def header(self, text: str, path: Path) -> None:
        self.line_break()
        for length in range(1, len(path) + 1):
            self.note(path[:length])
        self.write(text)

    def entry(self, key: str, value: Any, path: Path, before: str) -> None:
        """``key = value``, or the entries of ``value`` under dotted keys."""
        name, place = before + self.key(key), (*path, key)
        if not before:
            self.note(place)
        if isinstance(value, dict) and value and self.sometimes():
            for count, (inner_key, inner) in enumerate(value.items()):
                if count:
                    self.line_break()
                self.note((*place, inner_key))
                self.entry(inner_key, inner, place, name + self.choose(".", " . ", ". "))
        else:
            self.write(name + self.choose("=", " = ", "\t= "))
            self.value(value, place)

    def value(self, value: Any, path: Path) -> None:
        if isinstance(value, dict):
            self.inline_table(value, path)
        elif isinstance(value, list):
            self.array(value, path)
        elif isinstance(value, str):
            self.write(self.quoted(value))
        else:
            self.write(value.isoformat(" ") if isinstance(value, datetime) else json.dumps(value))

    def inline_table(self, values: dict[str, Any], path: Path) -> None:
        self.write("{ ")
        for count, (key, value) in enumerate(values.items()):
            self.write(", " * (count > 0))
            self.note((*path, key))
            self.write(self.key(key) + " = ")
            self.value(value, (*path, key))
        self.write("}")

    def array(self, values: list[Any], path: Path) -> None:
        self.write("[")
        for index, value in enumerate(values):
            self.gap()
            self.note((*path, index))
            self.value(value, (*path, index))
            self.gap()
            self.write("," if index < len(values) - 1 or self.sometimes() else "")
        self.gap()
        self.write("]")

    def gap(self) -> None:
        """Space that may hold line breaks and comments."""
        self.write(self.choose("", " ", "\n", f" {self.chance.choice(TRAPS)}\n\t", "\r\n \n"))

    def line_break(self) -> None:
        self.write(self.choose("\n", "\r\n", f" {self.chance.choice(TRAPS)}\n", f"\n\n{self.chance.choice(TRAPS)}\n  "))

    def key(self, key: str) -> str:
        if re.fullmatch(r"[A-Za-z0-9_-]+", key) and self.sometimes():
            return key
        return f"'{key}'" if is_plain(key) and self.sometimes() else json.dumps(key, ensure_ascii=False)

    def quoted(self, text: str) -> str:
        kinds = [json.dumps(text, ensure_ascii=False), self.over_lines(text)]
        kinds += [f"'{text}'"] if is_plain(text) else []
        kinds += [f"'''\n{text}'''"] if is_plain(text, "\n", "'") and "'''" not in text else []
        return self.chance.choice(kinds)

    def over_lines(self, text: str) -> str:
        """A text in three quotes, and in the last of its own that need no escape."""
        bare = '"' if text.endswith('"') and self.sometimes() else ""
        escaped = "".join(
            one if one == "\n" else json.dumps(one, ensure_ascii=False)[1:-1] for one in text[: len(text) - len(bare)]
        )
        return (
            f'"""{self.choose("", chr(92) + chr(10))}{escaped}{bare}"""'
            if text[:1] != "\n"
            else f'"""\n{escaped}{bare}"""'
        )


def is_plain(text: str, *allowed: str) -> bool:
    """Whether a literal text of TOML can hold it."""
    return all((one >= " " and one != "'") or one in allowed for one in text)


class YamlPage(Page):
    def document(self, values: dict[str, Any]) -> None:
        self.line_break()
        self.block(values, (), 0)

    def block(self, values: Any, path: Path, indent: int) -> None:
        """The entries of a table or a list, each on a line of its own. The page stands at the first one's column."""
        entries = values if isinstance(values, dict) else dict(enumerate(values))
        if not entries:
            self.flow(values, path)
        for count, (key, value) in enumerate(entries.items()):
            if count:
                self.line_break()
                self.write(" " * indent)
            if isinstance(values, dict):
                self.note((*path, key))
                self.write(f"{self.text_of(key)}:")
                self.below(value, (*path, key), indent)
            else:
                self.write("-")
                self.element(value, (*path, key), indent)

    def element(self, value: Any, path: Path, indent: int) -> None:
        if isinstance(value, dict | list) and value and self.sometimes():
            self.write(" ")
            self.note(path)
            self.block(value, path, indent + 2)
        elif isinstance(value, dict | list) and value:
            self.line_break()
            self.write(" " * (indent + 3))
            self.note(path)
            self.block(value, path, indent + 3)
        else:
            self.write(" ")
            self.note(path)
            self.flow(value, path)

    def below(self, value: Any, path: Path, indent: int) -> None:
        if isinstance(value, dict | list) and value and self.sometimes():
            self.line_break()
            self.write(" " * (indent + 2))
            self.block(value, path, indent + 2)
        elif self.sometimes():
            self.line_break()
            self.write(" " * (indent + 1))
            self.flow(value, path)
        else:
            self.write(" ")
            self.flow(value, path)

    def flow(self, value: Any, path: Path) -> None:
        if not isinstance(value, dict | list):
            self.write(self.text_of(value) if isinstance(value, str) else json.dumps(value))
            return
        self.write("{" if isinstance(value, dict) else "[")
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            self.write(self.choose("", " ", f" # it's\n{' ' * 40}"))
            self.note((*path, key))
            self.write(f"{self.text_of(key)}: " if isinstance(value, dict) else "")
            self.flow(inner, (*path, key))
            self.write(", ")
        self.write("}" if isinstance(value, dict) else "]")

    def line_break(self) -> None:
        self.write(self.choose("\n", "\r\n", " # - at end\n", "\n\n# saver:\n", " # \u2028\n"))

    def text_of(self, text: str) -> str:
        if re.fullmatch("at end|last 3|every 200 steps", text) and self.sometimes():
            return text
        if re.fullmatch("[ -~]+", text) and self.sometimes():
            doubled = text.replace("'", "''")
            return f"'{doubled}'"
        return (
            '"' + "".join(one if " " <= one <= "~" and one not in '"\\' else f"\\U{ord(one):08x}" for one in text) + '"'
        )


def check(name: str, page: Page, values: dict[str, Any]) -> None:
    """Everything that was written is found on its line."""
    read, places = read_values(ConfigText(name, page.text))
    assert read == values
    assert places is not None
    assert page.lines.keys() == set(paths(values))
    assert {path: places.at(path).line for path in page.lines} == page.lines


@settings(deadline=None)
@given(trees(SCALARS), st.randoms(use_true_random=False))
def test_json_values_are_found_on_their_lines(values, chance):
    """An entry on its key's line, an element where it begins; equal texts, and brackets in texts, confuse nothing."""
    page = JsonPage(chance)
    page.space()
    page.value(values)
    page.space()
    check("holdfast.json", page, values)


@settings(deadline=None)
@given(
    trees(st.one_of(SCALARS, st.datetimes().map(lambda one: one.replace(microsecond=0)))),
    st.randoms(use_true_random=False),
)
def test_toml_values_are_found_on_their_lines(values, chance):
    """In tables with and without headers, under dotted keys, in arrays over lines, behind every kind of quotes."""
    page = TomlPage(chance)
    page.document(values)
    check("holdfast.toml", page, values)


@settings(deadline=None)
@given(trees(SCALARS), st.randoms(use_true_random=False))
def test_yaml_values_are_found_on_their_lines(values, chance):
    """In block and flow style, and where PyYAML counts a line separator as a line, which no editor does."""
    page = YamlPage(chance)
    page.document(values)
    check("holdfast.yaml", page, values)


def test_a_table_stands_where_it_is_mentioned_first():
    """`[a.b]` is a mention of `a`, though its own header comes later."""
    text = ConfigText("holdfast.toml", "[a.b]\nc = 1\n[a]\nd = 2\n[[e.f]]\ng = 3\n[[e.f]]\n[e.f.h]\ni = 4\n")
    _, places = read_values(text)
    expected = {("a",): 1, ("a", "d"): 4, ("e",): 5, ("e", "f", 0): 5, ("e", "f", 1): 7, ("e", "f", 1, "h", "i"): 9}
    assert {path: places.at(path).line for path in expected} == expected


@pytest.mark.parametrize("quotes", ['"""', "'''"])
@pytest.mark.parametrize("end", [0, 1, 2])
def test_a_text_over_lines_may_end_in_quotes_of_its_own(quotes, end):
    """TOML then has up to five of them in a row."""
    text = ConfigText("holdfast.toml", f"a = {quotes}\nb = 1\nc{quotes[0] * end}{quotes}\nb = 2\n")
    values, places = read_values(text)
    assert values["a"].endswith("c" + quotes[0] * end)
    assert places.at(["b"]).line == 4


@pytest.mark.parametrize("written", ["a = ", "a", "[a", "[[a]\n", "a = [1", "a = {b"])
def test_a_scanner_that_is_lost_says_so(written):
    """It neither hangs nor makes places up."""
    with pytest.raises(LookupError):
        Scanner(ConfigText("holdfast.toml", written), str).document()


@pytest.mark.parametrize("understood", [{"b": 1}, {"a": [1, 2]}, {"a": 1, "b": 2}])
def test_places_that_are_not_those_of_the_values_are_dropped(monkeypatch, understood):
    """A text that the parser reads in a way unknown to the scanner has values without lines."""
    monkeypatch.setattr("tomllib.loads", lambda text: understood)
    assert read_values(ConfigText("holdfast.toml", "a = 1")) == (understood, None)
    assert read_values(ConfigText("holdfast.toml", "a =")) == (understood, None)
