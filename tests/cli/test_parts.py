"""Checkpoints that hold only parts of the state, and what a run chose by itself, at the shell."""

import pytest

torch = pytest.importorskip("torch")

from holdfast import (  # noqa: E402  torch may be missing
    AtEnd,
    Every,
    HoldfastWarning,
    KeepAll,
    Overhead,
    Run,
    Saver,
    checkpoints,
    follow,
    latest,
)
from tests import damage  # noqa: E402


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """A run of 6 batches: whole at 2 and 4, the model alone behind each, in the same folder. Not to be changed."""
    folder, model = tmp_path_factory.mktemp("mixed") / "run", torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    savers = [
        Saver(save=Every(batches=2), keep=KeepAll()),
        Saver(save=Every(batches=1), keep=KeepAll(), items=["model"], name="model-{batches}"),
    ]
    with Run(folder, {"model": model, "optimizer": optimizer}, savers=savers) as run:
        for batch in run.steps([torch.ones(1, 2)] * 6, 6):
            run.wait()
            model(batch).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
            if run.progress.batches == 5:
                run._session.saves.main[0].saver.save = AtEnd()
                run._session.in_loop = False
                break
        run._session._left = False
    return folder


def test_what_holds_only_parts_is_listed_with_what_it_holds(holdfast, mixed):
    """And the arrow is at the newest that a resume can go on from."""
    done = holdfast("ls", mixed)
    assert "holds" in done.out.splitlines()[3]
    whole = [one for one in checkpoints(mixed) if len(one.items) == 2]
    arrow = next(line for line in done.out.splitlines() if line.startswith("→"))
    assert arrow.split()[1] == whole[-1].name
    assert checkpoints(mixed)[-1].items == ("model",)
    found = holdfast("ls", mixed, "--json").json
    assert [one["whole"] for one in found] == [len(one.items) == 2 for one in checkpoints(mixed)]


def test_what_holds_only_parts_says_that_no_run_can_resume_from_it(holdfast, mixed):
    """By a sign in the list that is explained below it, and in words where it is shown by itself."""
    alone, done = checkpoints(mixed)[-1].name, holdfast("ls", mixed)
    words = "holds only parts of the state: to load from, not to resume from"
    assert f"◐ {alone}" in done.out
    assert f"◐ {words}" in done.out
    assert holdfast("show", mixed, alone).words.startswith(f"{alone} ◐ {words}")


def test_prune_leaves_what_a_resume_needs(holdfast, mixed):
    """However many newer ones there are that hold only parts."""
    whole = [one.name for one in checkpoints(mixed) if len(one.items) == 2]
    done = holdfast("prune", mixed, "--keep", "last 1", "--dry-run", "--json").json
    kept = {one["name"]: one["reason"] for one in done if one["kept"]}
    assert kept == {whole[-1]: "a resume tries this one first", checkpoints(mixed)[-1].name: "last 1"}


def test_an_interval_that_was_chosen_is_shown_with_why(holdfast, tmp_path):
    """From the journal, as it was when the checkpoint was saved."""
    with Run(tmp_path / "run", {"model": torch.nn.Linear(2, 1)}, save=Overhead(0.5)) as run:
        for _ in run.epochs(1):
            for _ in run.batches([torch.ones(1, 2)] * 40):
                run.wait()
    words = holdfast("show", tmp_path / "run").words
    assert "intervals every" in words
    assert "chosen by Overhead(fraction=0.5)" in words
    assert "which has to be at most 50 % of the time" in words or "to write a save" in words
    (interval,) = holdfast("show", tmp_path / "run", "--json").json["intervals"]
    assert interval["seconds"] > 0
    assert interval["because"]


def test_a_long_interval_reads_like_a_time_and_its_reason_has_the_whole_width(holdfast, run_folder, newest):
    """Not like a number of seconds, and not in half a column."""
    because = "a save stops training for 2 s, which has to be at most 1 % of the time"
    policy = "(Every(fraction=0.05) | Every(minutes=10)) & Overhead(fraction=0.01) | AtEnd()"
    damage.rewrite(newest, intervals=[{"policy": policy, "seconds": 200.0, "because": because}])
    lines = holdfast("show", run_folder, columns=80).out.splitlines()
    place = lines.index("intervals")
    assert " ".join(lines[place + 1 : place + 3]) == f"every 3 min 20 s: {because}"
    assert " ".join(lines[place + 3 : place + 5]) == f"chosen by {policy}"


def test_another_folder_of_a_run_knows_the_runs_attempts(holdfast, tmp_path):
    """Options, lineage, what a rollback left behind, and the end of the run: all that is in the run's own folder."""
    folder, other = tmp_path / "run", tmp_path / "other"

    def train(epochs, **options):
        savers = [Saver(save=Every(batches=2), keep=KeepAll()), Saver(other, save=Every(batches=2), items=["model"])]
        with Run(folder, {"model": torch.nn.Linear(2, 1), "n": {"n": 0}}, savers=savers, **options) as run:
            for _ in run.epochs(epochs):
                for _ in run.batches([torch.ones(1, 2)] * 4):
                    run.wait()

    train(1)
    train(1, start_from=checkpoints(folder)[0].name)
    assert holdfast("show", other, "--config", "--json").json["attempt"] == 2
    assert "went back to" in holdfast("show", other, "--lineage").words
    marks = {one["name"]: one["abandoned"] for one in holdfast("ls", other, "--json").json}
    assert list(marks.values()) == [False, True, False]
    assert [one.attempt for one in follow(other)] == [1, 2]
    assert latest(other).attempt == 2


def test_a_copy_of_what_a_resume_found_corrupt_is_where_it_goes_on(holdfast, tmp_path):
    """`ls` goes by what is recorded, as `show` and `latest` do."""
    folder, other = tmp_path / "run", tmp_path / "other"

    def train(epochs):
        with Run(folder, {"n": {"n": torch.ones(1)}}, savers=[Saver(save=Every(batches=2)), Saver(other)]) as run:
            for _ in run.epochs(epochs):
                for _ in run.batches([torch.ones(1, 2)] * 4):
                    run.wait()

    train(1)
    newest = checkpoints(folder)[-1]
    shard = newest.path / "n.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1] + b"\1")
    with pytest.warns(HoldfastWarning, match="Falling back to the same one"):
        train(1)
    assert f"a resume continues from {newest.name} in {other}" in holdfast("ls", folder, columns=300).words
