"""Which of several places says what an option is, and how the user hears of it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from holdfast import (
    AtEnd,
    Every,
    HoldfastWarning,
    KeepLast,
    NotFoundError,
    Run,
    Saver,
    UsageError,
    checkpoints,
)
from holdfast.cli import main
from holdfast.engine.run_folder import read_attempts
from holdfast.policies.keep import Kept
from holdfast.policies.moment import Moment
from holdfast.run.configuration import read_configuration
from holdfast.run.options import PRECEDENCE, RUN_OPTIONS, Options, Setting, environment, resolve, shown
from holdfast.run.saver import DEFAULT_KEEP, DEFAULTS
from holdfast.storage.local import LocalStorage
from tests.harness.small import small

DOCUMENT = Path(__file__).parents[2] / "docs" / "savers.md"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run"


def options(
    arguments: dict[str, Any] | None = None, configuration: Any = None, variables: dict[str, str] | None = None
) -> Options:
    read = None if configuration is None else read_configuration(configuration)
    return Options(arguments or {}, read, variables or {})


@pytest.mark.parametrize("places", [one for n in (1, 2, 3) for one in itertools.combinations(PRECEDENCE, n)])
def test_the_first_place_in_the_order_counts(places: tuple[str, ...]) -> None:
    """For any of them, in whatever order they are found."""
    for order in itertools.permutations(places):
        found = [Setting(place, place, place) for place in order]
        assert resolve(found).place == next(one for one in PRECEDENCE if one in places)


@pytest.mark.parametrize(
    ("arguments", "configuration", "variables", "given", "value", "source"),
    [
        ({}, None, {}, None, DEFAULTS["save"], "default"),
        ({}, None, {"HOLDFAST_SAVE": "every 5 steps; at end"}, None, Every(steps=5) | AtEnd(), "HOLDFAST_SAVE"),
        ({}, {"save": "every 4 steps"}, {"HOLDFAST_SAVE": "every 5 steps"}, None, Every(steps=4),
         "the configuration: save"),
        ({}, {"save": "every 4 steps", "saver": [{"save": "every 3 steps"}]}, {}, None, Every(steps=3),
         "the configuration: saver[0].save"),
        ({"save": Every(steps=2)}, {"saver": [{"save": "every 3 steps"}]}, {}, None, Every(steps=2), "Run(save=)"),
        ({"save": Every(steps=2)}, {"save": "every 3 steps"}, {}, [Saver(save=Every(steps=1))], Every(steps=1),
         "savers[0]"),
        ({"save": Every(steps=2)}, None, {}, [Saver(keep=KeepLast(1))], Every(steps=2), "Run(save=)"),
    ],
)  # fmt: skip
def test_a_more_particular_place_counts_before_a_more_general_one(
    arguments: Any, configuration: Any, variables: Any, given: Any, value: Any, source: str
) -> None:
    """Saver, argument, a saver's table, the top of the configuration, the environment, the default."""
    found = options(arguments, configuration, variables)
    (saver,) = found.savers(given)
    assert saver.save == value
    assert found.used["saver[0].save"] == Setting(value, found.used["saver[0].save"].place, source)


def test_savers_in_the_script_take_the_place_of_those_in_a_file() -> None:
    """Not one by one: who makes savers says what they are."""
    tables = {"saver": [{"folder": "a"}, {"folder": "b"}], "keep": "last 7"}
    assert [one.folder for one in options({}, tables).savers(None)] == ["a", "b"]
    (saver,) = options({}, tables).savers([Saver("c")])
    assert (saver.folder, saver.keep) == ("c", KeepLast(7))


def test_a_disagreement_that_somebody_may_not_expect_is_warned_of() -> None:
    """Within the script, and with a variable; what the top of a file says is there to be overruled."""
    found = options({"keep": KeepLast(2)}, {"keep": "last 3"}, {"HOLDFAST_KEEP": "last 4"})
    found.savers([Saver(keep=KeepLast(1))])
    counts = "keep: savers[0] says KeepLast(count=1), and that counts; "
    assert found.remarks == [
        f"{counts}Run(keep=) says KeepLast(count=2), which is not used",
        f"{counts}HOLDFAST_KEEP says KeepLast(count=4), which is not used",
    ]
    tables = options({"keep": KeepLast(2)}, {"saver": [{"keep": "last 3"}]})
    tables.savers(None)
    assert tables.remarks == [
        "keep: Run(keep=) says KeepLast(count=2), and that counts; the configuration: saver[0].keep says "
        "KeepLast(count=3), which is not used"
    ]
    same = options({"keep": KeepLast(1)}, None, {"HOLDFAST_KEEP": "last 1"})
    same.savers([Saver(keep=KeepLast(1))])
    assert same.remarks == []


def test_a_saver_used_again_has_forgotten_the_run_before() -> None:
    """What a run gives it is not what it was given, and not what another run's copy of it has."""
    saver = Saver(save=Every(steps=3))
    (first,) = options({"keep": KeepLast(9)}).savers([saver])
    (second,) = options({"keep": KeepLast(8)}).savers([saver])
    assert (first.keep, second.keep, saver.keep) == (KeepLast(9), KeepLast(8), DEFAULT_KEEP)
    assert first.save == second.save == Every(steps=3)


def test_every_option_can_be_set_in_the_environment() -> None:
    """Phrases are separated by semicolons, names by commas."""
    variables = {
        "HOLDFAST_FOLDER": "runs/x", "HOLDFAST_START_FROM": "runs/y", "HOLDFAST_SAVE": "at steps 1, 2; at end",
        "HOLDFAST_KEEP": "last 2; best loss", "HOLDFAST_ITEMS": "model, ema", "HOLDFAST_EXCLUDE": "model/head.*",
        "HOLDFAST_NAME": "epoch-{epoch}", "HOLDFAST_VERIFY": "readback",
    }  # fmt: skip
    found = options(variables=variables)
    assert (found.folder(), found.start_from()) == ("runs/x", "runs/y")
    (saver,) = found.savers(None)
    assert (saver.items, saver.exclude, saver.verify) == (("model", "ema"), ("model/head.*",), "readback")
    assert saver.name is not None
    assert saver.name.text == "epoch-{epoch}"
    assert found.remarks == []


def test_a_size_in_a_variable_may_be_bytes() -> None:
    """All that the environment holds is text."""
    assert options(variables={"HOLDFAST_ARENA": "17500000"}).arena() == 17_500_000
    with pytest.raises(UsageError, match=r"HOLDFAST_ARENA.* GiB or TiB, as in"):
        options(variables={"HOLDFAST_ARENA": "8M"}).arena()


def test_a_variable_that_means_nothing_is_named() -> None:
    """With the one that was meant, if it is near; it would otherwise be accepted and ignored."""
    found = options(variables={"HOLDFAST_SAVES": "at end", "HOLDFAST_MACHINE": "x"})
    found.savers(None)
    other, saves = found.remarks
    assert saves == "HOLDFAST_SAVES in the environment means nothing to holdfast. Did you mean 'HOLDFAST_SAVE'?"
    assert other.startswith("HOLDFAST_MACHINE in the environment means nothing to holdfast. There are HOLDFAST_ARENA")


@pytest.mark.parametrize(
    ("arguments", "configuration", "variables", "said"),
    [
        ({"save": "every 2 stepz"}, None, {}, r"save: 'every 2 stepz' is no phrase"),
        ({}, None, {"HOLDFAST_KEEP": "last three"}, r"HOLDFAST_KEEP: keep: 'last three' is no phrase"),
        ({}, None, {"HOLDFAST_VERIFY": "no"}, r"HOLDFAST_VERIFY: verify='no': expected"),
        ({}, None, {"HOLDFAST_SAVE": "at most every 5 steps"}, "no reason to save"),
    ],
)
def test_what_means_nothing_is_refused_with_its_source(
    arguments: Any, configuration: Any, variables: Any, said: str
) -> None:
    """An argument by its name, a variable by its own."""
    with pytest.raises(UsageError, match=said):
        options(arguments, configuration, variables).savers(None)


def test_a_run_without_a_folder_is_refused() -> None:
    """With the three places where it can be given."""
    with pytest.raises(UsageError, match=r"in the configuration, to Run.from_config\(\), or as HOLDFAST_FOLDER"):
        Run.from_config({}, small().state)
    with pytest.raises(UsageError, match="folder=None: expected the path of a folder"):
        Run(None, small().state)  # type: ignore[arg-type]


def test_a_run_from_a_file(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folder, savers, policies; what is given to the call counts before the file."""
    file = tmp_path / "holdfast.toml"
    file.write_text(f'''
folder = "{folder}"
save = ["every 100 steps"]

[[saver]]
save = ["every 3 batches", "at end"]
keep = ["last 2"]

[[saver]]
folder = "{tmp_path}/models"
save = "every 1 epochs"
items = ["model"]
name = "epoch-{{epoch:02d}}"
''')
    monkeypatch.setenv("HOLDFAST_KEEP", "last 1")
    job = small()
    with pytest.warns(HoldfastWarning, match="HOLDFAST_KEEP says .* not used"):
        run = Run.from_config(file, state=job.state)
    with run:
        job.fit(run, 2, lambda _: run.wait())
    assert [one.progress.batches for one in checkpoints(folder)] == [6, 8]
    assert [one.name.split(".")[0] for one in checkpoints(tmp_path / "models")] == ["epoch-02"]
    monkeypatch.delenv("HOLDFAST_KEEP")
    job = small()
    second = folder.parent / "second"
    with pytest.warns(HoldfastWarning, match=r"gives 1, and that counts; the 2 of the configuration \(.*line 5"):
        run = Run.from_config(str(file), state=job.state, folder=second, keep="all", savers=[Saver()])
    with run:
        job.fit(run, 1, lambda _: run.wait())
    assert [one.progress.batches for one in checkpoints(second)] == [4]


def test_a_missing_or_wrong_file_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    """With line and word."""
    with pytest.raises(NotFoundError, match=r"nowhere\.toml"):
        Run.from_config(tmp_path / "nowhere.toml", state=small().state)
    file = tmp_path / "holdfast.toml"
    file.write_text(f'folder = "{tmp_path}/run"\n\n[[saver]]\nsave = [\n  "at end",\n  "every 200 stepz",\n]\n')
    said = r"holdfast\.toml, line 6: saver\[0\]\.save\[1\]: 'every 200 stepz' is no phrase \(at word 3, 'stepz'\)"
    with pytest.raises(UsageError, match=said):
        Run.from_config(file, state=small().state)
    assert not (tmp_path / "run").exists()


def test_every_option_is_shown_with_its_source(folder: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """`holdfast show --config` prints what the newest start was given, and by whom."""
    monkeypatch.setenv("HOLDFAST_KEEP", "last 4")
    with Run(folder, small().state, savers=[Saver(save=Every(steps=7)), Saver(folder / "x", items=["model"])]) as run:
        run.save()
    capsys.readouterr()
    assert main(["show", str(folder), "--config"]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    for line in (
        f"folder {str(folder)!r} Run(folder=)",
        "saver[0].save Every(steps=7) savers[0]",
        "saver[0].keep KeepLast(count=4) HOLDFAST_KEEP",
        "saver[0].verify 'digests' default",
        "saver[1].items ('model',) savers[1]",
    ):
        assert line in lines, lines
    assert main(["show", str(folder), "--config", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["attempt"] == 1
    assert found["options"]["saver[0].keep"] == {"value": "KeepLast(count=4)", "source": "HOLDFAST_KEEP"}


class Own(Saver):
    def should_save(self, moment: Moment) -> str | None:
        return super().should_save(moment)

    def should_keep(self, checkpoints: Sequence[Kept]) -> Mapping[str, str]:
        return {checkpoints[-1].name: "the last"}


def test_a_method_that_takes_the_place_of_a_policy_is_shown_in_its_place(folder: Path) -> None:
    """With where it is, and with the policy only if it was given one: the default is not what decides."""
    with Run(folder, small().state, savers=[Own(save=Every(steps=5)), Saver()]):
        pass
    (attempt,) = read_attempts(LocalStorage(folder))
    lines = [getattr(Own, one).__code__.co_firstlineno for one in ("should_save", "should_keep")]
    assert attempt.options["saver[0].save"] == {
        "value": f"Own.should_save (test_options.py:{lines[0]}), which may ask Every(steps=5)", "source": "savers[0]"
    }  # fmt: skip
    assert attempt.options["saver[0].keep"] == {
        "value": f"Own.should_keep (test_options.py:{lines[1]})", "source": "savers[0]"
    }  # fmt: skip
    assert attempt.options["saver[1].keep"] == {"value": "KeepLast(count=3)", "source": "default"}


def test_a_disagreement_is_said_when_the_run_starts(folder: Path) -> None:
    """As a warning, with both values and their sources."""
    with pytest.warns(HoldfastWarning, match=r"keep: savers\[0\] says .* Run\(keep=\) says KeepLast\(count=2\)"):
        run = Run(folder, small().state, savers=[Saver(keep=KeepLast(5))], keep=KeepLast(2))
    run.close()


def test_the_order_in_the_documents_is_that_of_the_code() -> None:
    """The table of precedence names the same places in the same order, and every option."""
    text = DOCUMENT.read_text()
    table = text[text.index("| option |") :].split("\n\n")[0]
    header, _, *rows = table.splitlines()
    words = {"Saver": "`Saver`", "argument": "argument of `Run`", "configuration": "configuration",
             "environment": "environment", "default": "default"}  # fmt: skip
    assert [one.strip() for one in header.strip("|").split("|")][1:] == [words[place] for place in PRECEDENCE]
    named = {row.strip("|").split("|")[0].strip().strip("`") for row in rows}
    assert named == {*RUN_OPTIONS, *(f"saver.{one}" if one == "folder" else one for one in DEFAULTS)}
    for row in rows:
        option = row.strip("|").split("|")[0].strip().strip("`").removeprefix("saver.")
        assert (f"HOLDFAST_{option.upper()}" in row) == (not row.startswith("| `saver.")), row


def test_only_variables_of_holdfast_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others are nobody's business here: they may hold secrets."""
    monkeypatch.setenv("HOLDFAST_KEEP", "all")
    assert environment() == {"HOLDFAST_KEEP": "all"}
    assert shown(Saver(name="a-{epoch}").name) == "'a-{epoch}'"


@pytest.mark.parametrize("place", ["environment", "configuration"])
def test_a_start_that_is_not_there_is_told_with_its_source(tmp_path: Path, monkeypatch: Any, place: str) -> None:
    """The script says nothing of it."""
    described = {"folder": str(tmp_path / "run")}
    if place == "environment":
        monkeypatch.setenv("HOLDFAST_START_FROM", "runs/gone")
    else:
        described["start_from"] = "runs/gone"
    source = "HOLDFAST_START_FROM" if place == "environment" else "start_from"
    with pytest.raises(NotFoundError, match=f"^.*{source}.*: start_from='runs/gone'"):
        Run.from_config(described, state={"model": torch.nn.Linear(1, 1)})


def test_parts_alone_are_told_with_the_variable_that_says_so(tmp_path: Path, monkeypatch: Any) -> None:
    """The script has neither items= nor exclude=."""
    monkeypatch.setenv("HOLDFAST_EXCLUDE", "model")
    with pytest.warns(HoldfastWarning, match=r"cannot be resumed: .* in one \(HOLDFAST_EXCLUDE\)"):
        Run(tmp_path / "run", state={"model": torch.nn.Linear(1, 1), "n": {"n": 1}}).close()
