"""What a run says and refuses when it is opened: names that are not there, ways back, parts of a state."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from holdfast import (
    AtEnd,
    Every,
    HoldfastWarning,
    KeepAll,
    KeepLast,
    NotFoundError,
    Run,
    Saver,
    UsageError,
    checkpoints,
)
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


def test_another_run_that_is_gone_does_not_keep_a_run_from_its_own(folder: Path) -> None:
    """A path is where the state came from at first; the run goes on without it."""
    run = Run(folder, small().state, start_from="runs/gone")
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
    said = r"Odd\.should_keep\(\) names 'nobody'" if how == "override" else "keep=odd names 'nobody'"
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
