"""What a run says and refuses when it is opened: names that are not there, ways back, parts of a state."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from holdfast import (
    AtEnd,
    Checkpoint,
    Every,
    HoldfastWarning,
    KeepAll,
    KeepBest,
    KeepLast,
    NotFoundError,
    OwnershipError,
    Run,
    Saver,
    UsageError,
    best,
    checkpoints,
    latest,
)
from holdfast.storage.local import LocalStorage
from tests.harness.small import small


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run of 8 batches with checkpoints at 2, 4, 6 and 8."""
    folder = tmp_path / "run"
    job = small()
    with Run(folder, job.state, save=Every(batches=2), keep=KeepAll()) as run:
        job.fit(run, 2, lambda _: run.wait())
    return folder


def test_the_name_of_a_checkpoint_that_is_not_there_is_refused(folder: Path) -> None:
    """Resuming from the newest instead would ignore what was asked for; those that are there are named."""
    newest = checkpoints(folder)[-1].name
    missing = newest.replace("step-00000008", "step-00000007")
    with pytest.raises(NotFoundError, match=f"no checkpoint of that name.* Did you mean '{newest}'"):
        Run(folder, small().state, start_from=missing)
    assert len(checkpoints(folder)) == 4


@pytest.mark.parametrize("in_folder", [False, True])
def test_an_abbreviated_name_to_go_back_to_is_refused(folder: Path, in_folder: bool) -> None:
    """Not taken for another run's path that is not there: the newest would go on from it in silence."""
    first = checkpoints(folder)[0].name
    name = first.partition(".")[0]
    with pytest.raises(NotFoundError, match=rf"no checkpoint of that name.*There are:\n  {first}"):
        Run(folder, small().state, start_from=str(folder / name) if in_folder else name)


def test_another_run_that_is_gone_does_not_keep_a_run_from_its_own(folder: Path, capsys: Any) -> None:
    """A path is where the state came from at first; the run goes on without it."""
    run = Run(folder, small().state, start_from="runs/gone")
    assert "start_from='runs/gone': is not there, and is not used" in capsys.readouterr().err
    assert run.resumed_from == checkpoints(folder)[-1].name
    run.close()


def test_going_back_says_how_many_are_abandoned(folder: Path, capsys: Any) -> None:
    """Once; the same script started again goes on from there, also when that one is gone."""
    back = checkpoints(folder)[1]
    Run(folder, small().state, start_from=back.name).close()
    assert f"2 newer checkpoints are abandoned by going back to {back.name}" in capsys.readouterr().err
    shutil.rmtree(back.path)
    run = Run(folder, small().state, start_from=back.name)
    said = capsys.readouterr().err
    assert "went back to it in attempt 2" in said
    assert "abandoned" not in said
    assert run.resumed_from == checkpoints(folder)[0].name
    run.close()


def test_parts_of_the_state_alone_are_no_silent_start_from_nothing(folder: Path) -> None:
    """Where all whole checkpoints are gone, also with a record of earlier attempts or without one."""
    parts = [Saver(folder.parent / "models", save=AtEnd(), items=["model"]), Saver()]
    job = small()
    with Run(folder, job.state, savers=parts) as run:
        job.fit(run, 3)
    for one in checkpoints(folder):
        shutil.rmtree(one.path)
    with pytest.warns(HoldfastWarning, match=r"none of the run's 1 checkpoints holds all of the state.*the beginning"):
        Run(folder, small().state, savers=parts).close()


def test_a_copy_of_the_newest_in_another_folder_is_older_than_nothing(folder: Path) -> None:
    """A damaged one is replaced by the same one elsewhere, and it is said so."""
    other = folder.parent / "other"
    savers = [Saver(save=AtEnd(), keep=KeepAll()), Saver(other, save=AtEnd())]
    job = small()
    with Run(folder, job.state, savers=savers) as run:
        job.fit(run, 3)
    newest = checkpoints(folder)[-1]
    shard = newest.path / "model.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1] + b"\1")
    with pytest.warns(HoldfastWarning, match=f"Falling back to the same one in .*{other}"):
        run = Run(folder, small().state, savers=savers)
    assert run.resumed_from == newest.name
    run.close()


def test_a_run_that_is_refused_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Items that are not there are found before anything is made, and the place that names them is told."""
    with pytest.raises(UsageError, match=r"savers\[0\]: items: 'modle' is no item"):
        Run(tmp_path / "run", small().state, savers=[Saver(items=["modle"])])
    monkeypatch.setenv("HOLDFAST_EXCLUDE", "optimiser")
    with pytest.raises(UsageError, match=r"HOLDFAST_EXCLUDE: exclude: 'optimiser' is no item .* mean 'optimizer'"):
        Run(tmp_path / "run", small().state)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("how", ["callable", "override"])
def test_a_keep_policy_that_names_what_is_not_there_is_named(tmp_path: Path, how: str) -> None:
    """By its own name, with the line where it failed if it did."""

    class Odd(Saver):
        def should_keep(self, checkpoints: Any) -> dict[str, str]:
            return {"nobody": "why not"}

    def odd(checkpoints: Any) -> list[str]:
        return ["nobody"]

    saver = Odd(save=Every(batches=2)) if how == "override" else Saver(save=Every(batches=2), keep=odd)
    said = (
        r"Odd\.should_keep\(\) names 'nobody'"
        if how == "override"
        else r"the keep policy odd \(.*test_opening\.py:\d+\) names"
    )
    job = small()
    with pytest.warns(HoldfastWarning, match=said), Run(tmp_path / "run", job.state, savers=[saver]) as run:
        job.fit(run, 1, lambda _: run.wait())


def test_a_keep_policy_that_fails_is_shown_with_its_line(tmp_path: Path) -> None:
    """Its traceback is not shown, because training goes on."""

    def broken(checkpoints: Any) -> list[str]:
        raise KeyError("loss")

    job = small()
    said = rf"KeyError\('loss'\) at {__file__}:\d+"
    with (
        pytest.warns(HoldfastWarning, match=said),
        Run(tmp_path / "run", job.state, save=Every(batches=2), keep=broken) as run,
    ):
        job.fit(run, 1, lambda _: run.wait())


def test_nothing_is_said_of_metrics_where_nothing_was_trained(folder: Path) -> None:
    """A finished run that is started once more logs none."""
    job = small()
    with Run(folder, job.state, save="on best val_loss", keep=KeepLast(1)) as run:
        job.fit(run, 2)


def test_the_path_of_an_own_checkpoint_is_as_good_as_its_name(folder: Path) -> None:
    """Going back by path, as the shell completes it."""
    back = checkpoints(folder)[1]
    with Run(folder, small().state, start_from=back.path) as run:
        assert run.resumed_from == back.name


def test_one_folder_by_two_paths_is_one_run(folder: Path) -> None:
    """A notebook cell that is run again replaces its run, also through a link."""
    first = Run(folder, small().state)
    (folder.parent / "link").symlink_to(folder)
    Run(folder.parent / "link", small().state).close()
    with pytest.raises(UsageError, match="another Run has taken its place"):
        first.save()


def test_the_home_of_the_user_is_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No folder of the name ~ is made in whatever folder the script was started in."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with Run("~/runs/a", small().state, savers=[Saver(), Saver("~/models", save=AtEnd())]) as run:
        run.save()
    assert list((tmp_path / "here").iterdir()) == []
    assert sorted(one.name for one in (tmp_path / "home").iterdir()) == ["models", "runs"]


def test_a_corrupt_checkpoint_counts_for_nothing_in_later_attempts(tmp_path: Path, capsys: Any) -> None:
    """The run makes it once more, with the same loss: the corrupt one of both must not be the one that is kept."""
    from holdfast.cli import main

    folder = tmp_path / "run"

    def attempt(epochs: int) -> None:
        job = small()
        with Run(folder, job.state, save=Every(batches=4), keep=KeepBest("score") | KeepLast(2)) as run:
            for epoch in run.epochs(epochs):
                for (inputs,) in run.batches(job.loader):
                    job.step(inputs)
                run.log(score=abs(epoch - 2))
                run.wait()

    attempt(3)
    corrupt = checkpoints(folder)[-1]
    shard = corrupt.path / "model.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1] + b"\1")
    with pytest.warns(HoldfastWarning, match=f"{corrupt.name}.*Falling back"):
        attempt(4)
    attempt(6)
    assert main(["prune", str(folder), "--keep", "best score"]) == 0
    assert f"{corrupt.name}  found to be corrupt by a resume" in capsys.readouterr().out
    kept = best(folder, "score")
    assert kept is not None
    assert kept.progress.batches == corrupt.progress.batches
    assert kept.name != corrupt.name
    kept.verify()
    assert corrupt.path.exists()


def found_corrupt(folder: Path) -> tuple[Checkpoint, Path, bytes]:
    """The newest checkpoint, which a resume has found to be corrupt, and the file and bytes that would repair it."""
    newest = checkpoints(folder)[-1]
    shard = newest.path / "model.safetensors"
    good = shard.read_bytes()
    shard.write_bytes(good[:-1] + b"\1")
    with pytest.warns(HoldfastWarning):
        Run(folder, small().state).close()
    return newest, shard, good


def test_a_corrupt_checkpoint_that_was_repaired_counts_again(folder: Path) -> None:
    """As soon as a run has resumed from it."""
    newest, shard, good = found_corrupt(folder)
    assert latest(folder) == checkpoints(folder)[-2]
    shard.write_bytes(good)
    with Run(folder, small().state) as run:
        assert run.resumed_from == newest.name
    assert latest(folder) == newest


def test_a_repaired_checkpoint_that_is_gone_back_to_counts_at_once(folder: Path) -> None:
    """For what the policies keep: it would stay for ever beside the last two."""
    newest, shard, good = found_corrupt(folder)
    shard.write_bytes(good)
    job = small()
    with Run(folder, job.state, start_from=newest.name, save=Every(batches=1), keep=KeepLast(2)) as run:
        job.fit(run, 4, lambda _: run.wait())
    assert newest.name not in {one.name for one in checkpoints(folder)}


@pytest.mark.parametrize("reason", ["on error", "surrogate \udcff", 5])
def test_a_reason_of_somebodys_own_is_a_text_like_others(tmp_path: Path, reason: Any) -> None:
    """It may not claim an error that was none, for which retention and a resume have rules of their own."""

    def own(moment: Any) -> Any:
        return reason if moment.event == "boundary" else None

    job = small()
    with Run(tmp_path / "run", job.state, save=own, keep=KeepLast(2)) as run:
        job.fit(run, 1, lambda _: run.wait())
    assert len(checkpoints(tmp_path / "run")) == 2
    assert not any(one.manifest.on_error for one in checkpoints(tmp_path / "run"))


def test_two_runs_that_begin_with_one_new_folder_do_not_share_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one comes between the look and the record: one of them is refused, and the folder is the other's."""
    create, other = LocalStorage.create, tmp_path / "other"

    def late(self: LocalStorage, path: str, data: bytes) -> None:
        if path == "holdfast.json" and Path(self.root) == other and not other.joinpath(path).exists():
            create(self, path, b'{"format": 1, "run": "another", "created": "", "home": "/elsewhere"}')
        create(self, path, data)

    monkeypatch.setattr(LocalStorage, "create", late)
    with pytest.raises(OwnershipError, match="belongs to another run"):
        Run(tmp_path / "run", small().state, savers=[Saver(), Saver(other)])
    assert b"another" in (other / "holdfast.json").read_bytes()


def test_an_interval_that_nobody_goes_by_is_not_told(tmp_path: Path) -> None:
    """A saver that decides by itself does not ask the policy that it was not given."""

    class Own(Saver):
        def should_save(self, moment: Any) -> str | None:
            return "own" if moment.event == "epoch_end" else None

    said: list[str] = []
    job = small()
    with Run(tmp_path / "run", job.state, savers=[Own()]) as run:
        run.on_event = lambda event: said.append(event.kind)
        job.fit(run, 2, lambda _: run.wait())
    assert "saved" in said
    assert "interval" not in said
