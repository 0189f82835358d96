"""``holdfast prune``, ``pin``, ``unpin`` and ``save-now``."""

import shutil
import threading

import pytest
import torch

from holdfast import Every, HoldfastWarning, KeepLast, Run, Saver, checkpoints, wording
from holdfast.engine import holds
from tests import damage
from tests.harness.small import small, train


@pytest.fixture
def run_folder(tmp_path):
    """A run with checkpoints behind batches 2, 4, 6 and 8."""
    job = small()
    with Run(tmp_path / "run", job.state, save=Every(batches=2), keep=KeepLast(9)) as run:
        job.fit(run, 2, lambda batches: run.wait())
    return tmp_path / "run"


def steps(folder):
    return [one.progress.step for one in checkpoints(folder)]


def test_a_dry_run_says_what_would_go_and_why_the_rest_stays(holdfast, run_folder):
    """Nothing is deleted."""
    done = holdfast("prune", run_folder, "--keep", "last 1", "--keep", "every 4 steps", "--dry-run")
    assert done.code == 0
    assert "step-00000002.a0001.n0001 goes: no phrase keeps it" in done.words
    assert "step-00000004.a0001.n0002 every 4 steps" in done.words
    size = sum(one.size for one in checkpoints(run_folder) if one.progress.step in (2, 6))
    assert f"2 checkpoints would be deleted, 2 kept; {wording.size(size)} would be freed" in done.words
    assert steps(run_folder) == [2, 4, 6, 8]


def test_broken_ones_are_left_alone_and_counted(holdfast, run_folder):
    """Nobody knows what a phrase would say of them."""
    broken = run_folder / checkpoints(run_folder)[0].name
    (broken / "manifest.json").write_text("{}")
    done = holdfast("prune", run_folder, "--keep", "last 1")
    assert "1 broken one left alone: holdfast ls names what is wrong" in done.words
    assert broken.is_dir()


def test_what_no_phrase_keeps_is_deleted(holdfast, run_folder):
    """JSON holds the reasons."""
    done = holdfast("prune", run_folder, "--keep", "every 4 steps", "--json")
    assert [(one["kept"], one["reason"]) for one in done.json] == [
        (False, "no phrase keeps it"), (True, "every 4 steps"), (False, "no phrase keeps it"), (True, "every 4 steps")
    ]  # fmt: skip
    assert steps(run_folder) == [4, 8]


def test_the_one_that_a_resume_needs_stays(holdfast, run_folder):
    """Whatever the phrases say: a run that cannot go on is no run."""
    holdfast("prune", run_folder, "--keep", "every 100 steps")
    assert steps(run_folder) == [8]
    train(str(run_folder), 2)


@pytest.mark.parametrize("more", [[], ["--dry-run"], ["--keep", "last 1"]])
def test_a_metric_that_no_checkpoint_has_deletes_nothing(holdfast, run_folder, more):
    """The error names the one that may be meant and those that there are."""
    done = holdfast("prune", run_folder, "--keep", "best los 2", *more)
    assert (done.code, done.out) == (2, "")
    assert "no checkpoint has a metric 'los'" in done.err
    assert "Did you mean 'loss'? There are: loss." in done.err
    assert steps(run_folder) == [2, 4, 6, 8]


@pytest.fixture
def gone_back(run_folder):
    """The run went back to batch 2 and saved behind batch 4 of another line: 4, 6 and 8 of the first are abandoned."""
    job = small()
    back = checkpoints(run_folder)[0].name
    with Run(run_folder, job.state, save=Every(batches=2), keep=KeepLast(9), start_from=back) as run:
        job.fit(run, 1, lambda batches: run.wait())
    assert steps(run_folder) == [2, 4, 6, 8, 4]
    return run_folder


def test_what_a_rollback_left_behind_stays_and_is_called_that(holdfast, gone_back):
    """Phrases neither count nor delete it."""
    done = holdfast("prune", gone_back, "--keep", "last 1", "--json")
    left = "left behind by a rollback, --abandoned deletes it"
    assert [one["reason"] for one in done.json] == ["no phrase keeps it", left, left, left, "last 1"]
    assert steps(gone_back) == [4, 6, 8, 4]


def test_what_a_rollback_left_behind_goes_when_asked(holdfast, gone_back):
    """But pinned and held ones; without a phrase all others stay, and a dry run only says it."""
    names = [one.name for one in checkpoints(gone_back)]
    holdfast("pin", gone_back, names[1])
    with checkpoints(gone_back)[2].hold():
        said = holdfast("prune", gone_back, "--abandoned", "--dry-run", "--json").json
        assert steps(gone_back) == [2, 4, 6, 8, 4]
        done = holdfast("prune", gone_back, "--abandoned")
    assert [one["kept"] for one in said] == [True, True, True, False, True]
    assert said[1]["reason"] == "left behind by a rollback, pinned"
    assert said[2]["reason"].startswith("left behind by a rollback, held by pid")
    assert f"{names[3]} deleted: left behind by a rollback" in done.words
    assert steps(gone_back) == [2, 4, 6, 4]


def test_what_another_run_wrote_is_never_deleted(holdfast, run_folder):
    """Not even with what a rollback left behind."""
    damage.rewrite(run_folder / checkpoints(run_folder)[1].name, run="another")
    done = holdfast("prune", run_folder, "--keep", "last 1", "--abandoned", "--json")
    assert next(one["reason"] for one in done.json if one["kept"]) == "written by another run"
    assert steps(run_folder) == [4, 8]


@pytest.mark.parametrize("arguments", [[], ["--keep", "newest 3"]])
def test_pruning_by_nothing_is_a_wrong_call(holdfast, run_folder, arguments):
    """Without a phrase, or with one that is none, nothing is deleted."""
    assert holdfast("prune", run_folder, *arguments).code == 2
    assert steps(run_folder) == [2, 4, 6, 8]


def test_a_pinned_checkpoint_stays_until_it_is_unpinned(holdfast, run_folder):
    """Pruning and the run's own policy pass it over."""
    first = checkpoints(run_folder)[0].name
    assert holdfast("pin", run_folder, first).code == holdfast("pin", run_folder / first).code == 0
    holdfast("prune", run_folder, "--keep", "last 1")
    assert steps(run_folder) == [2, 8]
    job = small()
    with Run(run_folder, job.state, save=Every(batches=2), keep=KeepLast(1)) as run:
        job.fit(run, 3)
    assert steps(run_folder) == [2, 12]
    assert holdfast("unpin", run_folder, first, "--json").json == {"unpinned": first}
    holdfast("prune", run_folder, "--keep", "last 1")
    assert steps(run_folder) == [12]


def test_a_checkpoint_that_is_not_there_cannot_be_pinned(holdfast, run_folder):
    """The error lists those that are."""
    done = holdfast("pin", run_folder, "step-00000099.a0001.n0009")
    assert done.code == 3
    assert "step-00000002.a0001.n0001" in done.err
    assert holdfast("pin", run_folder).code == 2


@pytest.mark.parametrize("lose", [shutil.rmtree, lambda path: (path / "manifest.json").unlink()])
@pytest.mark.parametrize("in_one", [False, True])
def test_a_pin_outlives_its_checkpoint_no_longer_than_it_is_wanted(holdfast, run_folder, lose, in_one):
    """One whose checkpoint was removed by hand, or is broken, can be unpinned, once, by either way to name it."""
    first = checkpoints(run_folder)[0].name
    named = [run_folder / first] if in_one else [run_folder, first]
    holdfast("pin", *named)
    lose(run_folder / first)
    assert holdfast("unpin", *named, "--json").json == {"unpinned": first}
    assert list((run_folder / "pins").iterdir()) == []
    assert holdfast("unpin", *named).code != 0
    assert holdfast("pin", *named).code != 0


@pytest.mark.parametrize("command", [("prune", "--keep", "all"), ("save-now",)])
def test_a_command_for_runs_says_which_run_a_checkpoint_is_of(holdfast, run_folder, command):
    """The advice is for the shell: the path of the run folder, no call of Python."""
    done = holdfast(command[0], run_folder / checkpoints(run_folder)[0].name, *command[1:])
    assert done.code == 3
    assert f"is a checkpoint, not a run folder; give the one it is in: {run_folder}\n" in done.err


def test_what_somebody_else_deletes_meanwhile_is_not_counted(holdfast, run_folder, monkeypatch):
    """Of two prunes at once each tells what it has deleted itself."""
    delete = holds.delete_unless_held
    first = checkpoints(run_folder)[0].name

    def late(storage, name, **options):
        shutil.rmtree(run_folder / first, ignore_errors=True)
        return delete(storage, name, **options)

    monkeypatch.setattr(holds, "delete_unless_held", late)
    done = holdfast("prune", run_folder, "--keep", "last 2")
    assert done.code == 0
    assert f"{first} gone: somebody else deleted it meanwhile" in done.words
    assert "1 checkpoint deleted, 2 kept" in done.words


def asked(holdfast, run):
    """What save-now answers, asked from outside while the run trains on."""
    over, answer = threading.Event(), {}

    def ask():
        answer["done"] = holdfast("save-now", run.folder, "--wait", "30", "--json")
        over.set()

    thread = threading.Thread(target=ask)
    with run:
        for index, _ in run.batches(endless(), enumerate=True):
            if index == 3:
                thread.start()
            if over.wait(0.02):
                break
        thread.join()
    return answer["done"].json


def test_a_live_run_saves_when_it_is_asked(holdfast, tmp_path):
    """The command waits for the checkpoint and names it."""
    folder = tmp_path / "run"
    answer = asked(holdfast, Run(folder, {"model": torch.nn.Linear(2, 1)}, save=Every(batches=10**9)))
    first = checkpoints(folder)[0]
    assert answer == {"asked": True, "checkpoint": first.name}
    assert first.reason == ("on request",)


def test_a_live_run_that_saves_elsewhere_is_asked_in_its_own_folder(holdfast, tmp_path):
    """No checkpoint comes there: the run's journal tells which came in the folder of its saver."""
    model, folder = torch.nn.Linear(2, 1), tmp_path / "run"
    with pytest.warns(HoldfastWarning, match="the savers save in"):
        run = Run(folder, {"model": model}, savers=[Saver(tmp_path / "other", save=Every(batches=10**9))])
    answer = asked(holdfast, run)
    first = checkpoints(tmp_path / "other")[0]
    assert answer == {"asked": True, "checkpoint": first.name}
    assert checkpoints(folder) == []


def endless():
    while True:
        yield torch.zeros(1, 2)


def test_nobody_is_asked_where_nobody_trains(holdfast, run_folder):
    """A killed trainer's record does not count, and no request is left behind for a later one."""
    done = holdfast("save-now", run_folder)
    assert (done.code, "no trainer is running" in done.err) == (3, True)
    assert not (run_folder / "requests").exists()


def test_a_request_that_takes_too_long_is_said(holdfast, tmp_path):
    """It stands: the run fulfils it when it comes to a boundary."""
    with Run(tmp_path / "run", {"model": torch.nn.Linear(2, 1)}) as run:
        done = holdfast("save-now", tmp_path / "run", "--wait", "0.3")
        assert done.code != 0
        assert "The request stands" in done.err
        run._session.saves.poll()
        assert run._session.saves.due == ["on request"]
