"""Runs that save into several folders, at the shell."""

import shutil

import pytest

torch = pytest.importorskip("torch")

from holdfast import AtEnd, Every, KeepAll, Run, Saver, checkpoints  # noqa: E402  torch may be missing
from tests.harness.small import small  # noqa: E402


@pytest.fixture
def place(tmp_path):
    """A run whose own folder has an old whole checkpoint, and another one newer ones."""
    place = tmp_path / "all"
    savers = [
        Saver(save=Every(batches=5), keep=KeepAll()),
        Saver(place / "often", save=Every(batches=2), keep=KeepAll()),
        Saver(place / "model", save=AtEnd(), items=["model"]),
    ]
    job = small()
    with Run(place / "run", job.state, savers=savers) as run:
        job.fit(run, 2, lambda _: run.wait())
    shutil.rmtree(max(place.glob("run/step-*")))  # its final save
    return place


def arrows(done):
    return [line for line in done.out.splitlines() if line.startswith("→")]


def test_a_newer_one_in_another_folder_is_where_a_resume_continues(holdfast, place):
    """No checkpoint of the own folder bears the arrow; a line says which one it is, and where."""
    newest = checkpoints(place / "often")[-1].name
    line = f"→ a resume continues from {newest} in {place / 'often'}"
    for folder in ("run", "model"):
        done = holdfast("ls", place / folder)
        assert arrows(done) == [line]
        assert not any(one["resume"] for one in holdfast("ls", place / folder, "--json").json)
    assert f"resume continues from {newest} in {place / 'often'}" in holdfast("show", place / "run").words
    found = holdfast("show", place / "run", "--json").json
    assert found["resume_elsewhere"] == {"name": newest, "folder": str(place / "often")}


def test_the_folder_that_has_it_bears_the_arrow(holdfast, place):
    """As if it were the run's own, and reached by whatever path."""
    (place / "link").symlink_to(place / "often")
    for folder in ("often", "link"):
        assert arrows(holdfast("ls", place / folder))[0].split()[1] == checkpoints(place / "often")[-1].name


def test_folders_that_were_moved_together_are_found(holdfast, place):
    """From the run's own folder: what it knows of the others is where they are from there."""
    moved = place.rename(place.with_name("moved"))
    assert arrows(holdfast("ls", moved / "run"))[0].endswith(str(moved / "often"))


@pytest.mark.parametrize("lose", [shutil.rmtree, lambda path: (path / "holdfast.json").unlink()])
def test_a_folder_that_is_gone_or_another_runs_does_not_count(holdfast, place, lose):
    """The arrow is at the newest of what is left."""
    lose(place / "often")
    assert arrows(holdfast("ls", place / "run"))[0].split()[1] == checkpoints(place / "run")[-1].name


def test_an_own_folder_without_checkpoints_says_where_they_are(holdfast, tmp_path):
    """Its savers save elsewhere."""
    job = small()
    with (
        pytest.warns(UserWarning, match="gets the run's records and no checkpoint"),
        Run(tmp_path / "run", job.state, savers=[Saver(tmp_path / "there", save=AtEnd())]) as run,
    ):
        job.fit(run, 1)
    (name,) = (one.name for one in checkpoints(tmp_path / "there"))
    assert arrows(holdfast("ls", tmp_path / "run")) == [f"→ a resume continues from {name} in {tmp_path / 'there'}"]
