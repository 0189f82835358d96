"""``holdfast ls``."""

import shutil

import pytest

pytest.importorskip("torch")

from holdfast import Every, OnError
from tests import damage
from tests.tiny_run import train

NAMES = [
    "step-00000006.a0001.n0003",
    "step-00000008.a0001.n0004",
    "step-00000010.a0002.n0001",
    "step-00000012.a0002.n0002",
]


def test_lists_checkpoints_oldest_first(holdfast, run_folder):
    """One line for each, with progress, reason, size and metrics; the one that a resume uses is marked."""
    done = holdfast("ls", run_folder)
    rows = [line.split() for line in done.out.splitlines() if "step-" in line]
    assert done.code == 0
    assert [next(cell for cell in row if cell.startswith("step-")) for row in rows] == NAMES
    assert [row[0] for row in rows] == [*NAMES[:3], "→"]
    assert rows[0][1:4] == ["1", "2", "6"]
    assert "every 2 steps, at end" in done.out
    assert {"loss", "bound", "nan"} <= set(done.out.split())
    assert "4 checkpoints" in done.out
    assert "2 attempts" in done.out


def test_json_is_a_list_of_objects(holdfast, run_folder):
    """Programs get every field by name, metrics as numbers, and what JSON has no number for as text."""
    done = holdfast("ls", run_folder, "--json")
    found = done.json
    assert [one["name"] for one in found] == NAMES
    assert [one["resume"] for one in found] == [False, False, False, True]
    last = found[-1]
    assert (last["progress"]["epoch"], last["progress"]["step"], last["attempt"], last["ordinal"]) == (3, 12, 2, 2)
    assert last["reason"] == ["every 2 steps", "at end"]
    assert last["created"].endswith("+00:00")
    assert isinstance(last["metrics"]["loss"], float)
    assert last["metrics"]["bound"] == "nan"
    assert last["path"] == str(run_folder / NAMES[-1])


@pytest.mark.parametrize(("harm", "kind"), damage.SEEN_AT_ONCE.items(), ids=lambda one: getattr(one, "__name__", one))
def test_a_broken_checkpoint_is_named_with_its_reason(holdfast, run_folder, newest, harm, kind, picture):
    """It is listed apart, the mark of the resume moves on, and nothing on disk changes."""
    harm(newest)
    before = picture(run_folder)
    done, found = holdfast("ls", run_folder), holdfast("ls", run_folder, "--json").json
    assert picture(run_folder) == before
    assert done.code == 0
    assert f"✗ {NAMES[3]}" in done.out
    assert f"→ {NAMES[2]}" in done.out
    (broken,) = (one for one in found if one["status"] == "broken")
    assert (broken["name"], broken["error"]["kind"]) == (NAMES[3], kind)
    assert broken["error"]["message"]
    assert broken.keys() == found[0].keys()


@pytest.mark.parametrize("command", ["ls", "verify"])
def test_a_file_in_the_place_of_a_checkpoint_is_named_by_its_whole_path(holdfast, run_folder, newest, command):
    """The path begins with its slash."""
    shutil.rmtree(newest)
    newest.write_bytes(b"")
    assert f" {newest} is a regular file; a folder was expected" in holdfast(command, run_folder).words


def test_what_a_rollback_left_behind_is_marked(holdfast, run_folder):
    """After a deliberate rollback that saved nothing yet, a resume continues where it went back to."""
    train(run_folder, epochs=1, start_from=NAMES[0])
    done, found = holdfast("ls", run_folder), holdfast("ls", run_folder, "--json").json
    assert f"→ {NAMES[0]}" in done.out
    assert f"⊘ {NAMES[1]}" in done.out
    assert "left behind by a rollback" in done.out
    assert [one["abandoned"] for one in found] == [False, True, True, True]


def test_what_another_run_wrote_is_marked_as_that(holdfast, run_folder, newest):
    """It is not called abandoned: no rollback has left it."""
    damage.rewrite(newest, run="another")
    done, found = holdfast("ls", run_folder), holdfast("ls", run_folder, "--json").json
    assert f"≠ {NAMES[3]}" in done.out
    assert "written by another run" in done.out
    assert [(one["foreign"], one["abandoned"]) for one in found] == [(False, False)] * 3 + [(True, False)]


def test_pinned_ones_are_marked(holdfast, run_folder):
    """By a word in their line, where there are any, and for programs."""
    assert "stays" not in holdfast("ls", run_folder).out
    holdfast("pin", run_folder, NAMES[1])
    done, found = holdfast("ls", run_folder), holdfast("ls", run_folder, "--json").json
    assert [NAMES.index(line.split()[0]) for line in done.out.splitlines()[3:] if "pinned" in line] == [1]
    assert [one["pinned"] for one in found] == [False, True, False, False]


def test_an_error_that_came_again_is_passed_over(holdfast, tmp_path):
    """A checkpoint saved on an error that came again after a resume from it is not where the next one continues."""
    for _ in range(2):
        with pytest.raises(RuntimeError, match="the same failure"):
            train(tmp_path / "failing", epochs=2, fail_at=3, save=Every(steps=2) | OnError())
    done = holdfast("ls", tmp_path / "failing")
    assert "→ step-00000002.a0001.n0001" in done.out
    assert "↺ step-00000003.a0001.n0002" in done.out
    assert "its error came again after a resume" in done.out


def test_narrow_terminals_lose_the_least_important_columns(holdfast, run_folder):
    """In 60 columns names and epochs are whole, and what had no room is told."""
    done = holdfast("ls", run_folder, columns=60)
    assert max(map(len, done.out.splitlines())) <= 60 or str(run_folder) in done.out
    assert all(name in done.out for name in NAMES)
    assert "…" not in done.out
    assert "No room for" in done.words
    assert "bound" in done.words.partition("No room for")[2]


def test_many_metrics_are_counted_instead_of_named(holdfast, run_folder, newest):
    """A hundred metrics neither break the table nor fill the screen with their names."""
    damage.rewrite(newest, metrics={f"metric_{index}": index / 7 for index in range(100)})
    done = holdfast("ls", run_folder, columns=100)
    assert "metric_0" in done.out
    assert " more: widen the terminal, or use --json." in done.words
    assert len(done.out.splitlines()) < 15


def test_a_pipe_gets_every_column(holdfast, run_folder, newest):
    """Where nothing needs to fit a screen, nothing is left out, and no line has blanks at its end."""
    damage.rewrite(newest, metrics={f"metric_{index}": index / 7 for index in range(100)})
    done = holdfast("ls", run_folder)
    assert "metric_99" in done.out
    assert all(line == line.rstrip() for line in done.out.splitlines())
    assert "\x1b" not in done.out


def test_a_run_without_checkpoints_has_an_empty_list(holdfast, run_folder):
    """A run that has just begun is no error."""
    for path in run_folder.glob("step-*"):
        shutil.rmtree(path)
    done = holdfast("ls", run_folder)
    assert (done.code, done.words) == (0, f"{run_folder} no checkpoint · 2 attempts ")
    assert holdfast("ls", run_folder, "--json").json == []


def test_one_checkpoint_can_be_listed(holdfast, run_folder):
    """The path of a checkpoint lists it alone, with the mark that it has in its run."""
    (found,) = holdfast("ls", run_folder / NAMES[0], "--json").json
    assert (found["name"], found["resume"]) == (NAMES[0], False)


def test_a_copy_under_another_name_is_listed_alone_with_its_own_size(holdfast, run_folder, newest, tmp_path):
    """It shares nothing with what else lies in the folder."""
    copied = shutil.copytree(newest, tmp_path / "best")
    done = holdfast("ls", copied)
    assert done.code == 0
    assert "1 checkpoint" in done.words
    assert "on disk" not in done.words


def test_control_characters_of_a_checkpoint_do_not_reach_the_terminal(holdfast, run_folder, newest):
    """A hostile name can neither move the cursor nor be taken for markup."""
    damage.rewrite(newest, metrics={"\x1b[2Jloss": 1.0, "[red]x": 2.0}, reason=["\x1b]0;title\x07"])
    done = holdfast("ls", run_folder)
    assert "\x1b" not in done.out
    assert "\x07" not in done.out
    assert r"\x1b[2Jloss" in done.out
    assert "[red]x" in done.out
