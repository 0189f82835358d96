"""Configurations: what they say, and how they are refused."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from holdfast.errors import NotFoundError, UsageError
from holdfast.run.config_text import MAX_BYTES
from holdfast.run.configuration import Configuration, read_configuration

TOML = """\
folder = "runs/digits"
start_from = { model = "runs/pretrained", ema = ["runs/other", "model"] }

[[saver]]
save = ["every 200 steps", "every 10 minutes", "at end", "on signal", "on error"]
keep = ["last 3", "best val_loss min 2"]

[[saver]]
folder = "exports/digits"
save = "every 1 epochs"
keep = "every 24 hours"
items = ["model"]
exclude = ["model/head.*"]
name = "epoch-{epoch:03d}-{val_loss:.3f}"
verify = "readback"
"""
YAML = """\
folder: runs/digits
start_from:
  model: runs/pretrained
  ema: [runs/other, model]
saver:
- save: [every 200 steps, every 10 minutes, at end, on signal, on error]
  keep:
  - last 3
  - best val_loss min 2
- folder: exports/digits
  save: every 1 epochs
  keep: every 24 hours
  items: [model]
  exclude: [model/head.*]
  name: epoch-{epoch:03d}-{val_loss:.3f}
  verify: readback
"""
VALUES: dict[str, Any] = {
    "folder": "runs/digits",
    "start_from": {"model": "runs/pretrained", "ema": ["runs/other", "model"]},
    "saver": [
        {
            "save": ["every 200 steps", "every 10 minutes", "at end", "on signal", "on error"],
            "keep": ["last 3", "best val_loss min 2"],
        },
        {
            "folder": "exports/digits",
            "save": "every 1 epochs",
            "keep": "every 24 hours",
            "items": ["model"],
            "exclude": ["model/head.*"],
            "name": "epoch-{epoch:03d}-{val_loss:.3f}",
            "verify": "readback",
        },
    ],
}


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def written(text: str, name: str = "holdfast.toml") -> Configuration:
    Path(name).write_text(text, encoding="utf-8")
    return read_configuration(name)


def refusal(text: str, name: str = "holdfast.toml") -> str:
    with pytest.raises(UsageError) as error:
        written(text, name)
    return str(error.value)


def refusal_of(values: Any) -> str:
    with pytest.raises(UsageError) as error:
        read_configuration(values)
    return str(error.value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("holdfast.toml", TOML),
        ("holdfast.yaml", YAML),
        ("holdfast.YML", YAML),
        ("holdfast.json", json.dumps(VALUES)),
        ("holdfast.toml", "\ufeff" + TOML),
        ("holdfast.json", "\ufeff" + json.dumps(VALUES)),
    ],
)
def test_every_language_says_the_same(name, text):
    """Also behind the byte order mark of some editors; values stay as they were written."""
    configuration = written(text, name)
    assert configuration.source == name
    assert configuration.options == {key: value for key, value in VALUES.items() if key != "saver"}
    assert list(configuration.savers) == VALUES["saver"]


def test_a_file_below_the_home_is_found_by_its_short_path(tmp_path, monkeypatch):
    """A tilde that no shell has expanded stands for the home."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "run.toml").write_text('folder = "runs/x"')
    assert read_configuration("~/run.toml").options == read_configuration(tmp_path / "run.toml").options


def test_a_dict_says_the_same():
    """Its tuples become lists, as in a file."""
    configuration = read_configuration({**VALUES, "keep": ("last 3", "all")})
    assert configuration.source == "the configuration"
    assert configuration.options["keep"] == ["last 3", "all"]
    assert list(configuration.savers) == VALUES["saver"]


def test_changing_a_dict_later_changes_nothing():
    """Lists in it are copied too."""
    values = {"saver": [{"save": ["at end"]}]}
    configuration = read_configuration(values)
    values["saver"][0]["save"].append("nonsense")
    values["saver"][0]["keep"] = "nonsense"
    assert configuration.savers == ({"save": ["at end"]},)


def test_options_at_the_top_are_those_of_all_savers():
    """`save`, `keep`, `items`, `exclude`, `name` and `verify` may stand there."""
    options = {key: value for key, value in VALUES["saver"][1].items() if key != "folder"}
    assert read_configuration(options).options == options


@pytest.mark.parametrize(
    ("name", "text"),
    [("empty.toml", ""), ("empty.yaml", "# nothing\n"), ("empty.json", "{}"), ("none.toml", "saver = []")],
)
def test_nothing_need_be_said(name, text):
    """An empty configuration is one."""
    assert written(text, name) == Configuration(name, {}, ())


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("one.toml", '\n[saver]\nsave = "at end"'),
        ("one.yaml", "\nsaver:\n  save: at end"),
        ("one.json", '{\n"saver": {\n"save": "at end"}}'),
    ],
)
def test_a_single_saver_needs_no_list(name, text):
    """Its table is taken as a list of one, and its places as those of the first."""
    configuration = written(text, name)
    assert configuration.savers == ({"save": "at end"},)
    assert configuration.where("saver", 0) == f"{name}, line 2: saver[0]"
    assert configuration.where("saver", 0, "save") == f"{name}, line 3: saver[0].save"


def test_of_a_pyproject_the_table_of_holdfast_counts():
    """With the lines of the whole file."""
    text = '[project]\nname = "x"\n[tool.holdfast]\nfolder = "runs/x"\n[[tool.holdfast.saver]]\nsave = "at end"\n'
    configuration = written(text, "pyproject.toml")
    assert configuration.options == {"folder": "runs/x"}
    assert configuration.where("folder") == "pyproject.toml, line 4: folder"
    assert configuration.where("saver", 0, "save") == "pyproject.toml, line 6: saver[0].save"


@pytest.mark.parametrize("text", ["", "[tool.ruff]\n", "tool = 3\n"])
def test_a_pyproject_without_that_table_is_refused(text):
    """A run would go without the configuration that its user pointed to."""
    assert refusal(text, "pyproject.toml") == "pyproject.toml: has no table [tool.holdfast]."


@pytest.mark.parametrize(
    ("path", "said"),
    [
        (("folder",), "holdfast.toml, line 1: folder"),
        (("start_from", "ema", 1), "holdfast.toml, line 2: start_from.ema[1]"),
        (("saver",), "holdfast.toml, line 4: saver"),
        (("saver", 1), "holdfast.toml, line 8: saver[1]"),
        (("saver", 1, "keep"), "holdfast.toml, line 11: saver[1].keep"),
        (("saver", 0, "name"), "holdfast.toml: saver[0].name"),
        (("saver", 2, "name"), "holdfast.toml: saver[2].name"),
        ((), "holdfast.toml"),
    ],
)
def test_where_names_file_line_and_key(path, said):
    """Without a line for what is not there."""
    assert written(TOML).where(*path) == said


def test_a_path_may_be_an_object():
    """Errors call the file by its path."""
    Path("conf").mkdir()
    path = Path("conf") / "holdfast.json"
    path.write_text('{"save": "at end"}')
    assert read_configuration(path).where("save") == f"conf{os.sep}holdfast.json, line 1: save"


@pytest.mark.parametrize(
    ("name", "text", "place"),
    [
        ("a.toml", '[[saver]]\nsave = [\n  "at end",\n  "every 200 stepz",\n]', "a.toml, line 4: saver[0].save[1]"),
        ("a.yaml", "saver:\n- save:\n  - at end\n  - every 200 stepz", "a.yaml, line 4: saver[0].save[1]"),
        ("a.json", '{"saver": [\n{"save": ["at end",\n\n"every 200 stepz"]}]}', "a.json, line 4: saver[0].save[1]"),
        ("a.toml", 'save = "every 200 stepz"', "a.toml, line 1: save"),
    ],
)
def test_a_phrase_that_is_none_is_refused_with_its_place_and_word(name, text, place):
    """The message goes on as that for a phrase in a script."""
    said = refusal(text, name)
    assert said.startswith(
        f"{place}: 'every 200 stepz' is no phrase (at word 3, 'stepz'). Did you mean \"every 200 steps\"?"
    )


def test_a_phrase_in_a_dict_is_refused_with_its_place():
    """Which is the way to it."""
    said = refusal_of({"saver": [{"save": "at end"}, {"keep": ["all", "last three"]}]})
    assert said.startswith("the configuration: saver[1].keep[1]: 'last three' is no phrase (at word 2, 'three').")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            '\nflder = "x"',
            "holdfast.toml, line 2: flder: there is no such key. Did you mean 'folder'? There are: folder,",
        ),
        ('[[savers]]\nsave = "at end"', "line 1: savers: there is no such key. Did you mean 'saver'?"),
        ('[[saver]]\n\nkep = "all"', "line 3: saver[0].kep: there is no such key. Did you mean 'keep'?"),
        ('[[saver]]\nstart_from = "x"', "line 2: saver[0].start_from: there is no such key. There are: folder, save,"),
        ('saver.saver = "x"', "line 1: saver[0].saver: there is no such key."),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest(text, said):
    """If one is near."""
    assert said in refusal(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("\nsave = 200", '.toml, line 2: save: expected a phrase in quotes, such as "every 200 steps", not 200.'),
        ('save = ["at end",\n3]', "line 2: save[1]: expected a phrase"),
        ("save = []", "line 1: save: expected a phrase in quotes, such as \"every 200 steps\", not []."),
        ("keep = 3", 'line 1: keep: expected a phrase in quotes, such as "last 3", not 3.'),
        ("keep = {last = 3}", "line 1: keep: expected a phrase"),
        ("folder = 3", "line 1: folder: folder=3: expected the path"),
        ('folder = "s3://bucket"', "line 1: folder: folder='s3://bucket': only local folders"),
        ("[[saver]]\nfolder = 2026-01-01", "line 2: saver[0].folder: folder="),
        ('items = "model"', "line 1: items: items='model': expected a list"),
        ("exclude = [1]", "line 1: exclude: exclude=[1]: expected a list"),
        ('name = "{epoch"', "line 1: name: name='{epoch': is no template"),
        ('[[saver]]\nverify = "twice"', "line 2: saver[0].verify: verify='twice': expected"),
        ("saver = 3", "line 1: saver: expected a table for each saver, not 3."),
        ('saver = [{ save = "at end" },\n"at end"]', "line 2: saver[1]: expected a table of folder, save,"),
        ("start_from = 3", "line 1: start_from: expected the path of a run folder or of a checkpoint, not 3."),
        ('start_from = ""', "line 1: start_from: expected the path"),
        ("[start_from]", "line 1: start_from: the table is empty"),
        ("[start_from]\nmodel = 3", "line 2: start_from.model: expected the path"),
        ('[start_from]\nmodel = ["x"]', "line 2: start_from.model: expected a path, or a path and the name of an item"),
        ('[start_from]\nmodel = ["x", 3]', "line 2: start_from.model: expected a path, or"),
    ],
)  # fmt: skip
def test_a_value_of_another_kind_is_refused(text, said):
    """With its place, what was expected, and what was found."""
    assert said in refusal(text)


@pytest.mark.parametrize("text", ["save: yes", "keep:\n- on", "folder: off", "start_from: no", "name: true"])
def test_a_word_that_yaml_reads_as_a_boolean_is_explained(text):
    """Its writer sees a text there."""
    assert refusal(text, "a.yaml").endswith("In YAML, yes, no, on and off are booleans unless in quotes.")


def test_phrases_in_yaml_need_no_quotes():
    """`on error` is a text to it."""
    configuration = written("save:\n- on error\n- at end\n- every 5 %\n- on best a & at most every 1 hour\n", "a.yaml")
    assert configuration.options["save"] == ["on error", "at end", "every 5 %", "on best a & at most every 1 hour"]


@pytest.mark.parametrize("values", [["at end"], "at end", 3, None])
def test_what_is_no_table_is_refused(values):
    """At the top of a file."""
    assert "expected a table of folder, start_from" in refusal(json.dumps(values), "a.json")


def test_a_long_value_does_not_flood_the_message():
    """Someone else's file may have anything in it."""
    assert len(refusal(json.dumps(["x" * 1000] * 20), "a.json")) < 400


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.toml", 'folder = "x"\nsave = at end\n', "a.toml, line 2, column 8: is no valid TOML: Invalid value."),
        ("a.toml", 'save = ["at end"', "a.toml: is no valid TOML: Unclosed array (at end of document)."),
        ("a.toml", 'save = "at end"\nsave = "at end"\n', "a.toml, line 2, column 16: is no valid TOML: Cannot"),
        ("a.json", '{"save":\n at}', "a.json, line 2, column 2: is no valid JSON: Expecting value."),
        ("a.json", "", "a.json, line 1, column 1: is no valid JSON: Expecting value."),
        ("a.yaml", "save:\n  - at end\n keep: all", "a.yaml, line 3, column 2: is no valid YAML: while parsing"),
        ("a.yaml", "save: at end\n---\nsave: at end", "a.yaml, line 2, column 1: is no valid YAML: expected a single"),
        ("a.yaml", "save: \x07", "a.yaml, line 1, column 7: is no valid YAML: special characters"),
        ("a.yaml", "save: 2026-99-99", "a.yaml, line 1, column 7: month must be in 1..12"),
        ("a.yaml", "save: =", "a.yaml, line 1, column 7: is no valid YAML: could not determine"),
    ],
)  # fmt: skip
def test_what_cannot_be_parsed_is_refused_with_line_and_column(name, text, said):
    """As far as the parser tells."""
    assert refusal(text, name).startswith(said)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.yaml", "saver:\n- save: at end\n  keep: all\n  save: on error"),
        ("a.json", '{"saver": [\n{"save": "at end",\n"keep": "all",\n"sa\\u0076e": "on error"}]}'),
    ],
)
def test_a_key_that_is_given_twice_is_refused_with_both_lines(name, text):
    """Their parsers would take the last."""
    assert refusal(text, name) == f"{name}, line 4: the key 'save' stands on line 2 already."


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: &a [x]\nb: &b [*a, *a]\nc: [*b, *b]", "line 2, column 8: aliases (*name) are not read here"),
        ("a: &a [*a]", "line 1, column 8: aliases"),
        ("saver:\n- <<: {save: at end}", "line 2, column 3: merge keys (<<) are not read here"),
        ("save: !!python/object/apply:os.getcwd []", "line 1, column 7: tags (tag:yaml.org,2002:python/object"),
        ("save: !!bool maybe", "line 1, column 7: tags"),
        ("on: at end", "line 1, column 1: the key 'on' is no text to YAML; put it in quotes."),
        ("? [a, b]\n: c", "line 1, column 3: the key '[a, b]' is no text to YAML"),
    ],
)
def test_what_a_configuration_does_not_need_of_yaml_is_refused(text, said):
    """Aliases would let a small file stand for more than any memory, tags for objects, and bare `on` is a boolean."""
    assert f"a.yaml, {said}" in refusal(text, "a.yaml")


@pytest.mark.timeout(30)
def test_a_billion_laughs_are_refused_at_the_first():
    """Nothing is expanded."""
    lines = ["a0: &a0 [lol]"] + [f"a{one}: &a{one} [{', '.join([f'*a{one - 1}'] * 9)}]" for one in range(1, 30)]
    assert "line 2, column 10: aliases" in refusal("\n".join(lines), "a.yaml")


@pytest.mark.parametrize("name", ["a.toml", "a.json", "a.yaml"])
def test_a_text_that_is_nested_too_deeply_is_refused(name):
    """Instead of ending the interpreter's stack."""
    text = "[" * 5000 + "]" * 5000
    assert "nested too deeply" in refusal(f"save = {text}" if name == "a.toml" else text, name)


@pytest.mark.parametrize("name", ["a.toml", "a.json", "a.yaml"])
def test_a_number_of_thousands_of_digits_is_refused(name):
    """Which Python does not read, in no language."""
    number = "9" * 5000
    text = {"a.toml": f"save = {number}", "a.json": f'{{"save": {number}}}', "a.yaml": f"save: {number}"}[name]
    assert "limit" in refusal(text, name)


@pytest.mark.parametrize("text", ["save = 0x{}", "save = [[0x{}]]", "folder = 0x{}", "items = [0x{}]", "saver = 0x{}"])
def test_a_number_that_python_reads_but_does_not_show_is_refused(text):
    """With its place, as any other."""
    assert refusal(text.format("f" * 5000)).startswith(f"holdfast.toml, line 1: {text.split()[0]}")


def test_yaml_without_pyyaml_says_how_to_get_it(monkeypatch):
    """Which is the only thing that needs it."""
    monkeypatch.setitem(sys.modules, "yaml", None)
    monkeypatch.delitem(sys.modules, "holdfast.run.config_yaml", raising=False)
    assert refusal("save: at end", "a.yaml") == "a.yaml: YAML is read by PyYAML: pip install 'holdfast[yaml]'"
    assert written('save = "at end"').options == {"save": "at end"}


def test_a_file_that_is_not_there_is_not_found():
    """It is also Python's own error for that."""
    with pytest.raises(NotFoundError, match=r"^holdfast\.toml: there is no such file"):
        read_configuration("holdfast.toml")


def test_a_file_that_cannot_be_read_is_refused():
    """A folder, or a path that can be none."""
    Path("folder.toml").mkdir()
    assert "folder.toml: the configuration cannot be read: " in refusal_of("folder.toml")
    assert "cannot be read: embedded null byte" in refusal_of("a\0.toml")


@pytest.mark.parametrize("given", [3, None, b"holdfast.toml", ["holdfast.toml"]])
def test_what_is_neither_path_nor_dict_is_refused(given):
    """Whatever it is."""
    assert refusal_of(given) == f"{given!r}: expected the path of a configuration, or a dict."


def test_another_ending_is_refused():
    """It tells the language."""
    assert refusal("", "holdfast.ini") == "holdfast.ini: the name of a configuration ends in .toml, .yaml, .yml, .json."


def test_a_file_that_is_no_utf8_is_refused_with_its_line():
    """The file of an old editor."""
    Path("holdfast.toml").write_bytes('folder = "x"\nname = "é"\n'.encode("latin-1"))
    assert refusal_of("holdfast.toml").startswith("holdfast.toml, line 2: is no UTF-8: ")


def test_a_file_that_is_too_large_is_refused():
    """One of the largest size is read."""
    assert written("#" * MAX_BYTES).options == {}
    assert (
        refusal("#" * (MAX_BYTES + 1))
        == "holdfast.toml: is larger than 256 KiB: it cannot be a configuration of holdfast."
    )


def test_what_yaml_does_is_told_only_of_yaml():
    """In TOML and JSON a boolean is what somebody wrote."""
    assert "YAML" not in refusal("save = true")
