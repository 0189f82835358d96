"""Several savers: folders, items, what they share, and what a run resumes from."""

from __future__ import annotations

import os
import shutil
import signal
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from holdfast import (
    At,
    AtEnd,
    CorruptError,
    Every,
    HoldfastWarning,
    KeepAll,
    KeepBest,
    KeepLast,
    KeepSize,
    MisfitError,
    OnBest,
    OnSignal,
    OwnershipError,
    Run,
    SaveError,
    Saver,
    UsageError,
    checkpoints,
    latest,
)
from holdfast.policies.moment import Moment
from tests.harness.history import History
from tests.harness.small import Small, small, untouched


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def other(tmp_path: Path) -> Path:
    return tmp_path / "other"


def fit(folder: Path, savers: list[Saver], epochs: int = 2, job: Small | None = None, **options: Any) -> Small:
    """A run in which no save has to wait for the one before."""
    job = job or small()
    with Run(folder, job.state, savers=savers, **options) as run:
        job.fit(run, epochs, lambda _: run.wait())
    return job


def interrupted(folder: Path, savers: list[Saver], at: int) -> Small:
    """Stopped by a signal in the batch after the first ``at``."""
    job = small()

    def each(batches: int) -> None:
        run.wait()
        if batches == at:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit), Run(folder, job.state, savers=savers) as run:
        job.fit(run, 2, each)
    return job


def batches(folder: Path) -> list[int]:
    return [one.progress.batches for one in checkpoints(folder)]


def exact(job: Small, epochs: int = 2) -> bool:
    return all(map(torch.equal, job.weights, untouched(epochs).weights))


def test_each_saver_has_its_folder_its_times_and_its_items(folder: Path, other: Path) -> None:
    """A saver without a folder has the run's; what another leaves out is not in its files."""
    fit(folder, [
        Saver(save=Every(batches=3) | AtEnd(), keep=KeepAll()),
        Saver(other, save=Every(batches=4), items=["model"], keep=KeepLast(1)),
    ])  # fmt: skip
    assert (batches(folder), batches(other)) == ([3, 6, 8], [8])
    (model,) = checkpoints(other)
    assert sorted(path.name for path in model.path.iterdir()) == ["manifest.json", "model.safetensors"]
    again = small()
    model.load_into(model=again.model)
    assert exact(again)


def test_savers_that_come_at_one_boundary_share_a_snapshot(folder: Path, other: Path) -> None:
    """It is copied once, and both checkpoints of it have the same ordinal and the same bytes."""
    fit(folder, [Saver(save=Every(batches=4)), Saver(other, save=Every(batches=4))])
    mine, theirs = checkpoints(folder), checkpoints(other)
    assert [one.name for one in mine] == [one.name for one in theirs]
    for one, two in zip(mine, theirs, strict=True):
        files = [part.files for part in one.manifest.parts]
        assert files == [part.files for part in two.manifest.parts]
        two.verify(tampering=True)


def test_tensors_are_left_out_by_pattern(folder: Path, other: Path) -> None:
    """The rest loads with `strict=False`; the whole checkpoint is complete in two files."""
    job = fit(folder, [Saver(), Saver(other, save=AtEnd(), items=["model"], exclude=["model/*.bias"])])
    (part,) = checkpoints(other)
    assert list(part.manifest.items["model"].tensors) == ["0.weight"]
    with pytest.raises(MisfitError, match=r"0\.bias: missing"):
        part.load_into(model=small().model)
    again = small()
    report = part.load_into(model=again.model, strict=False)
    assert report.missing == ("model/0.bias",)
    assert torch.equal(again.weights[0], job.weights[0])
    newest = latest(folder)
    assert newest is not None
    newest.load_into(model=again.model)
    assert exact(again)


def test_a_run_resumes_from_the_newest_whole_checkpoint_in_any_folder(folder: Path, other: Path) -> None:
    """One that holds only parts is passed over, though it is newer."""
    savers = [
        Saver(save=Every(batches=100)),
        Saver(other, save=Every(batches=5) | OnSignal()),
        Saver(save=Every(batches=3), items=["model"]),
    ]
    interrupted(folder, savers, at=6)
    for place in (folder, other):
        shutil.rmtree(next(iter(place.glob("step-00000007.*"))))
    assert batches(folder)[-1] == 6
    job = small()
    with Run(folder, job.state, savers=savers) as run:
        assert run.resumed_from is not None
        assert run.resumed_from.startswith("step-00000005")
        job.fit(run)
    assert exact(job)


def test_a_lost_disk_costs_only_what_the_other_folder_does_not_hold(folder: Path, other: Path) -> None:
    """A run whose own folder is gone goes on from its other one, under the same id, as the next attempt."""
    savers = [Saver(save=Every(batches=1)), Saver(other, save=Every(batches=3))]
    interrupted(folder, [*savers[:1], Saver(other, save=Every(batches=3) | OnSignal())], at=4)
    before = checkpoints(other)[-1]
    shutil.rmtree(folder)
    job = small()
    with Run(folder, job.state, savers=savers) as run:
        assert (run.id, run.resumed_from) == (before.manifest.run, before.name)
        job.fit(run)
    assert exact(job)
    assert {one.attempt for one in checkpoints(folder)} == {2}


def test_a_damaged_checkpoint_is_taken_from_the_other_folder(folder: Path, other: Path) -> None:
    """The same snapshot lies in two places: the second one is tried before an older one."""
    savers = [Saver(save=Every(batches=2)), Saver(other, save=Every(batches=2))]
    fit(folder, savers, epochs=1)
    shard = checkpoints(folder)[-1].path / "model.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1] + b"\0")
    job = small()
    with pytest.warns(HoldfastWarning, match="not the ones that were committed"):
        run = Run(folder, job.state, savers=savers)
    assert run.resumed_from == checkpoints(other)[-1].name
    with run:
        job.fit(run)
    assert exact(job)


def test_a_folder_of_another_run_is_refused(folder: Path, other: Path) -> None:
    """Two runs in one folder would delete each other's checkpoints."""
    fit(other, [Saver()])
    with pytest.raises(OwnershipError, match=r"belongs to another run"):
        Run(folder, small().state, savers=[Saver(), Saver(other)])
    assert not list(folder.glob("attempts/*"))
    fit(folder, [Saver()])
    with pytest.raises(OwnershipError, match=r"copy .*holdfast\.json"):
        Run(folder, small().state, savers=[Saver(), Saver(other)])


def test_another_folder_of_a_run_is_no_run(folder: Path, other: Path, tmp_path: Path) -> None:
    """Attempts counted in two places would give two checkpoints one number; another run may begin from it."""
    fit(folder, [Saver(), Saver(other)])
    before = batches(other)
    with pytest.raises(OwnershipError, match=rf"is a folder that the run in {folder} saves into.*start_from="):
        Run(other, small().state)
    assert (batches(other), list(other.glob("attempts/*"))) == (before, [])
    with Run(tmp_path / "new", small().state, start_from=other) as run:
        assert run.resumed_from is None


def test_what_is_broken_among_parts_does_not_hold_up_a_run(folder: Path, other: Path) -> None:
    """None of it could be resumed from: the run begins, and says what it has found."""
    (other / "step-00000003.a0001.n0001").mkdir(parents=True)
    with pytest.warns(HoldfastWarning, match="It is skipped"):
        run = Run(folder, small().state, savers=[Saver(), Saver(other, items=["model"])])
    run.close()
    with pytest.warns(HoldfastWarning), pytest.raises(CorruptError, match=r"none of the run's 1 checkpoints"):
        Run(folder, small().state, savers=[Saver(), Saver(other)])


def test_savers_may_change_places(folder: Path) -> None:
    """Each is known by what it says: its memory and its checkpoints stay its own, in whatever order they are given."""
    often = {"save": Every(batches=2), "keep": KeepLast(1)}
    best = {"save": OnBest("loss"), "keep": KeepBest("loss"), "items": ["model"]}
    for losses, order in (([3.0, 1.0], [often, best]), ([3.0, 1.0, 2.0], [best, often])):
        job = small()
        with Run(folder, job.state, savers=[Saver(**one) for one in order]) as run:
            for epoch in run.epochs(len(losses)):
                for (inputs,) in run.batches(job.loader):
                    job.step(inputs)
                    run.wait()
                run.log(loss=losses[epoch])
    first, second = checkpoints(folder)
    assert (first.metrics["loss"], "best loss (1)" in first.reason) == (1.0, True)
    assert (second.metrics["loss"], second.reason) == (2.0, ("every 2 batches", "at end"))


def test_what_is_left_out_takes_no_room(folder: Path, other: Path) -> None:
    """`KeepSize` counts a checkpoint that is coming as large as it will be, not as large as the state."""
    part = Saver(other, save=Every(batches=2), exclude=["optimizer", "model/0.weight"], keep=KeepSize("300 KB"))
    fit(folder, [Saver(), part], job=small(width=20_000))
    sizes = [one.size for one in checkpoints(other)]
    assert len(sizes) == 3
    assert 240_000 < sum(sizes) < 300_000


@pytest.mark.parametrize("fails", [False, True])
def test_a_hash_that_is_not_known_yet_is_never_shown_as_a_field(folder: Path, fails: bool, writer_fault: Any) -> None:
    """What is told of a save before its end, or of one that fails, has a word in its place; a longest name has room."""
    if fails:
        writer_fault(action="error", function="rename", errno=28)
    name = "e" * 70 + "-{hash}-{batches:066d}"
    job, said = small(), list[str]()
    run = Run(folder, job.state, savers=[Saver(save=Every(batches=4), name=name)])
    run.on_event = lambda event: said.append(f"{event.kind} {event.message} {event.data}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HoldfastWarning)
        with run:
            job.fit(run, 2)
    journal = (folder / "journal" / "0001.jsonl").read_text()
    assert "{hash}" not in "".join([*said, journal])
    assert any(text.startswith("snapshot") and "hash-pending" in text for text in said)
    assert any(text.startswith("save_failed") and "hash-pending" in text for text in said) == fails
    assert len(checkpoints(folder)) == 2 - fails
    assert all("hash" not in one.name for one in checkpoints(folder))


def test_an_old_failure_is_not_that_of_a_later_save(folder: Path, other: Path) -> None:
    """Whoever waits hears of the last snapshot; who ends the run hears of what any folder lacks."""
    job = small()
    savers = [Saver(save=Every(batches=2)), Saver(other, save=At(batches=[2]), items=["model"])]
    run = Run(folder, job.state, savers=savers)
    shutil.rmtree(other)
    failed = list[bool]()

    def each(batches: int) -> None:
        try:
            run.wait()
        except SaveError:
            failed.append(batches < 4)

    with pytest.warns(HoldfastWarning, match="is gone"):
        job.fit(run, 2, each)
    assert failed
    assert all(failed)
    run.wait()
    with pytest.raises(SaveError, match="is gone"):
        run.close()


def test_a_folder_that_fails_costs_the_others_nothing(folder: Path, other: Path) -> None:
    """Its failure is told, and whoever waits gets the error; the other folder has its checkpoint."""
    job = small()
    savers = [Saver(save=Every(batches=4)), Saver(other, save=Every(batches=4))]
    with pytest.warns(HoldfastWarning, match="is gone"), pytest.raises(SaveError, match="is gone"):
        fit_and_remove(folder, other, savers, job)
    assert batches(folder) == [4, 8]
    assert exact(job)


def fit_and_remove(folder: Path, other: Path, savers: list[Saver], job: Small) -> None:
    with Run(folder, job.state, savers=savers) as run:
        job.fit(run, 2, lambda batches: shutil.rmtree(other) if batches == 5 else None)


def test_what_one_folder_lost_with_the_run_is_saved_again(folder: Path, other: Path, writer_fault: Any) -> None:
    """The crossing of a threshold is not forgotten because its save failed in one folder: the restart makes it up."""
    writer_fault(action="error", function="rename", errno=28, call=2)
    savers = [Saver(save=Every(batches=3)), Saver(other, save=Every(batches=3), items=["model"])]
    job = small()
    run = Run(folder, job.state, savers=savers)
    with pytest.warns(HoldfastWarning, match="failed"):
        die_in_the_fourth_batch(run, job)
    assert (batches(folder), batches(other)) == ([3], [])
    job, found = small(), list[list[int]]()
    with Run(folder, job.state, savers=savers) as run:
        job.fit(run, 2, lambda done: run.wait() if done > 3 else found.append(wait_for(run, other)))
    assert found == [[3]]
    assert exact(job)


def wait_for(run: Run, folder: Path) -> list[int]:
    """What is there before the first batch after the restart."""
    run.wait()
    return batches(folder)


def die_in_the_fourth_batch(run: Run, job: Small) -> None:
    """As a process whose writer is done: nothing more is saved."""
    for (inputs,) in run.batches(job.loader):
        job.step(inputs)
        if run.progress.batches == 3:
            break
    run._session.saves.wait()
    run._session.in_loop = run._session._left = False
    run._close()


def test_the_best_of_each_saver_is_its_own(folder: Path, other: Path) -> None:
    """Two savers with the same policy remember apart, also over a restart."""
    savers = [Saver(save=OnBest("loss")), Saver(other, save=OnBest("loss"), items=["model"], keep=KeepAll())]
    for epochs, losses in ((2, [3.0, 2.0]), (4, [3.0, 2.0, 2.5, 1.0])):
        job = small()
        with Run(folder, job.state, savers=savers) as run:
            for epoch in run.epochs(epochs):
                for (inputs,) in run.batches(job.loader):
                    job.step(inputs)
                run.log(loss=losses[epoch])
    assert [one.metrics["loss"] for one in checkpoints(other)] == [3.0, 2.0, 1.0]


def test_a_link_to_the_runs_folder_is_that_folder(folder: Path, tmp_path: Path) -> None:
    """Two savers in it share one commit."""
    folder.mkdir()
    (tmp_path / "link").symlink_to(folder)
    fit(folder, [Saver(save=Every(batches=4)), Saver(tmp_path / "link", save=Every(batches=4), items=["model"])])
    assert batches(folder) == [4, 8]
    assert [len(one.reason) for one in checkpoints(folder)] == [1, 2]


def test_savers_that_leave_out_the_runs_folder_are_named(folder: Path, other: Path) -> None:
    """Explicit savers win, and a warning has both folders."""
    with pytest.warns(HoldfastWarning, match=rf"the savers save in {other} .* Run\(folder=\) says {folder}"):
        fit(folder, [Saver(other, save=AtEnd())])
    assert (History(folder).checkpoints, batches(other)) == ([], [8])
    with pytest.warns(HoldfastWarning, match="no checkpoint"):
        run = Run(folder, small().state, savers=[Saver(other)])
    assert run.resumed_from is not None
    run.close()


def test_savers_of_parts_alone_are_warned_of(folder: Path) -> None:
    """Such a run cannot be resumed; its end is saved all the same."""
    with pytest.warns(HoldfastWarning, match="cannot be resumed"):
        fit(folder, [Saver(save=Every(batches=3), items=["model"])])
    assert batches(folder) == [3, 6, 8]
    with (
        pytest.warns(HoldfastWarning, match="cannot be resumed"),
        pytest.warns(HoldfastWarning, match="none of the run's 3 checkpoints holds all of the state .* the beginning"),
    ):
        run = Run(folder, small().state, savers=[Saver(items=["model"])])
    assert run.resumed_from is None
    run.close()


def test_a_saver_may_override_what_it_likes(folder: Path) -> None:
    """When it saves, and what it keeps."""

    class Odd(Saver):
        def should_save(self, moment: Moment) -> str | None:
            return "odd" if moment.progress.batches % 2 and moment.event == "boundary" else None

        def should_keep(self, checkpoints: Any) -> dict[str, str]:
            return {one.name: "third" for one in checkpoints if one.progress.batches == 3}

    fit(folder, [Odd()])
    assert batches(folder) == [3, 8]


@pytest.mark.parametrize("rule", [lambda checkpoints: ["nobody"], lambda checkpoints: 1 / 0])
def test_a_keep_policy_that_fails_costs_neither_a_save_nor_a_checkpoint(folder: Path, rule: Any) -> None:
    """Nothing is deleted, and a warning says why; training goes on."""
    with pytest.warns(HoldfastWarning, match="nothing is deleted this time"):
        fit(folder, [Saver(save=Every(batches=2), keep=rule)])
    assert batches(folder) == [2, 4, 6, 8]


def test_a_folder_that_cannot_be_listed_costs_the_others_nothing(
    folder: Path, other: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network file system that is away: what is in it stays as it is."""
    original = os.listdir

    def listdir(path: Any) -> list[str]:
        if str(path) == str(other) and (other / "away").exists():
            raise OSError(5, "Input/output error", str(path))
        return original(path)

    monkeypatch.setattr(os, "listdir", listdir)
    job = small()
    savers = [Saver(save=Every(batches=2), keep=KeepAll()), Saver(other, save=Every(batches=2), keep=KeepLast(1))]
    with (
        pytest.warns(HoldfastWarning, match="nothing is deleted this time"),
        Run(folder, job.state, savers=savers) as run,
    ):
        job.fit(run, 2, lambda done: (run.wait(), (other / "away").touch() if done == 4 else None))
    (other / "away").unlink()
    assert (batches(folder), batches(other)) == ([2, 4, 6, 8], [4, 6, 8])


def test_a_default_saver_is_made_only_where_none_is_given(folder: Path) -> None:
    """Every 20th of the run or 10 minutes within 1 % overhead, at the end, on signals and errors; the last 3."""
    with Run(folder, small().state) as run:
        (target,) = run._session.saves.targets
        (schedule,) = target.schedules
    assert schedule.saver.save == Saver().save
    assert (schedule.saver.keep, schedule.extent.whole) == (KeepLast(3), True)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Saver(folder="s3://bucket"), "only local folders"),
        (lambda: Saver(folder=5), "folder=5"),
        (lambda: Saver(items=[]), "items="),
        (lambda: Saver(items="model"), "items='model'"),
        (lambda: Saver(exclude=[""]), "exclude="),
        (lambda: Saver(verify="always"), "verify='always'"),
        (lambda: Saver(save=5), "save=5"),
        (lambda: Saver(keep="last 0"), "keep"),
        (lambda: Saver(name="a/b"), "name="),
    ],
)
def test_an_option_that_means_nothing_is_refused_when_constructed(make: Any, said: str) -> None:
    """By its name."""
    with pytest.raises(UsageError, match=said):
        make()


@pytest.mark.parametrize("savers", [[], "saver", [1], Saver()])
def test_savers_have_to_be_a_list_of_savers(folder: Path, savers: Any) -> None:
    """At least one; nothing is made on disk."""
    with pytest.raises(UsageError, match="expected a list of Saver objects"):
        Run(folder, small().state, savers=savers)
    assert not folder.exists()


def test_one_saver_twice_is_refused(folder: Path) -> None:
    """It has one folder and one memory."""
    saver = Saver()
    with pytest.raises(UsageError, match="twice"):
        Run(folder, small().state, savers=[saver, saver])


def test_an_item_that_is_not_there_is_refused(folder: Path) -> None:
    """With the saver's place and the nearest name."""
    with pytest.raises(UsageError, match=r"savers\[1\]: items: 'modle' .* Did you mean 'model'"):
        Run(folder, small().state, savers=[Saver(), Saver(items=["modle"])])
