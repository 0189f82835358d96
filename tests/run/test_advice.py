"""What a run says of policies that cannot do what they seem to say."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from holdfast import (
    At,
    AtEnd,
    AtMostEvery,
    Every,
    HoldfastWarning,
    KeepAll,
    KeepBest,
    KeepEvery,
    KeepLast,
    KeepWithin,
    OnBest,
    Run,
    Saver,
    checkpoints,
)
from holdfast.policies.keep import Kept, plan
from holdfast.run.clock import Clock
from holdfast.storage.local import LocalStorage
from holdfast.types import Progress
from tests.harness.small import small


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run"


def fit(folder: Path, epochs: int = 3, **options: Any) -> None:
    job = small()
    with Run(folder, job.state, **options) as run:
        job.fit(run, epochs, lambda _: run.wait())


@pytest.mark.parametrize(
    ("save", "said"),
    [
        (Every(epochs=5), "Every(epochs=5) never comes round: the run has 3 epochs"),
        (Every(batches=13) | AtEnd(), "Every(batches=13) never comes round: the run has 12 batches"),
        (At(steps=[40]), "At(steps=[40]) never comes round: the run has 12 steps"),
    ],
)
def test_an_interval_beyond_the_run_is_said(folder: Path, save: Any, said: str, capsys: Any) -> None:
    """Once, as soon as the length is known; the final save is there."""
    fit(folder, save=save)
    assert capsys.readouterr().err.count(said) == 1
    assert [one.progress.batches for one in checkpoints(folder)] == [12]


def test_an_interval_that_comes_round_is_not(folder: Path, capsys: Any) -> None:
    """Nor one of which it cannot be known."""
    fit(folder, save=Every(batches=12) | Every(epochs=3) | Every(samples=10**6) | Every(hours=5))
    assert "never comes round" not in capsys.readouterr().err


def test_the_length_of_a_loop_over_steps_is_known_at_once(folder: Path, capsys: Any) -> None:
    """It is an argument."""
    job = small()
    with Run(folder, job.state, save=Every(steps=9)) as run:
        for (inputs,) in run.steps(job.loader, 8):
            job.step(inputs)
            if run.progress.batches == 0:
                assert "Every(steps=9) never comes round: the run has 8 steps" in capsys.readouterr().err


def test_a_fraction_of_a_loop_by_hand_is_said_to_be_none(folder: Path, capsys: Any) -> None:
    """Its length is nobody's to know; the default, which also counts minutes, says nothing."""
    for name, options in (("mine", {"save": Every(fraction=0.1)}), ("default", {})):
        job = small()
        with Run(folder / name, job.state, **options) as run:
            run.resume()
            for batch, (inputs,) in enumerate(job.loader, 1):
                job.step(inputs)
                run.batch_end(epoch=0, batch=batch)
        assert capsys.readouterr().err.count("never comes round: the length") == (name == "mine")


def test_a_metric_in_a_name_that_is_never_logged_is_warned_of(folder: Path) -> None:
    """The names tell it too."""
    with pytest.warns(HoldfastWarning, match=r"name='x-\{val_loss\}': no value of 'val_loss' has been logged"):
        fit(folder, savers=[Saver(name="x-{val_loss}")])
    assert checkpoints(folder)[0].name.startswith("x-no-val_loss.")


def test_a_tensor_that_is_not_there_cannot_be_left_out(folder: Path, tmp_path: Path) -> None:
    """It is said by the first save, once, with the nearest name; a pattern that matches says nothing."""
    part = Saver(tmp_path / "part", save=Every(batches=4), exclude=["model/0.wieght", "model/*.bias"])
    with pytest.warns(HoldfastWarning) as said:
        fit(folder, savers=[Saver(), part])
    (warning,) = said
    assert "exclude='model/0.wieght': no tensor of model matches" in str(warning.message)
    assert "Did you mean '0.weight'?" in str(warning.message)


@pytest.mark.parametrize("options", [{"save": OnBest("val_loss")}, {"keep": KeepBest("val_loss") | KeepLast(1)}])
def test_a_metric_that_is_never_logged_is_warned_of_at_the_end(folder: Path, options: Any) -> None:
    """By the policy's name, with what was logged instead."""
    said = r"(OnBest|KeepBest)\('val_loss'\): no value of 'val_loss' has been logged, .* Logged are: loss"
    with pytest.warns(HoldfastWarning, match=said):
        fit(folder, **options)
    assert len(checkpoints(folder)) == 1


def test_a_misspelt_metric_is_warned_of_behind_the_first_epoch(folder: Path) -> None:
    """Not when days of training are over."""
    job = small()
    with Run(folder, job.state, save=OnBest("losss")) as run:
        epochs = iter(run.epochs(3))
        next(epochs)
        for (inputs,) in run.batches(job.loader):
            run.log(loss=job.step(inputs))
        with pytest.warns(HoldfastWarning, match=r"OnBest\('losss'\): .* so far, .* Did you mean 'loss'\?"):
            next(epochs)


def test_a_metric_that_appears_late_is_waited_for(folder: Path) -> None:
    """An evaluation every other epoch, the first of which gives NaN, is no mistake."""
    job = small()
    values = [None, float("nan"), None, 0.5]
    with Run(folder, job.state, save=OnBest("val_loss"), keep=KeepBest("val_loss") | KeepLast(1)) as run:
        for epoch in run.epochs(4):
            for (inputs,) in run.batches(job.loader):
                run.log(loss=job.step(inputs))
            if values[epoch] is not None:
                run.log(val_loss=values[epoch])
    assert [one.reason for one in checkpoints(folder)] == [("best val_loss (0.5)", "at end")]


def test_a_disk_too_small_for_what_is_to_be_kept_is_said_before_it_is_full(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the first save, with how many more there is room for; `KeepLast(2)` has room enough."""
    fit(folder / "first", save=AtEnd())
    free = 3 * checkpoints(folder / "first")[0].size
    monkeypatch.setattr(LocalStorage, "free", lambda storage: free)
    with pytest.warns(HoldfastWarning, match=r"keep= asks for will need .* more than now after \d more saves"):
        fit(folder / "all", save=Every(batches=2), keep=KeepAll())
    fit(folder / "two", save=Every(batches=2), keep=KeepLast(2))


def test_a_clock_that_is_set_back_moves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Times of checkpoints go on, so those kept within a time or at marks of it are the same; the jump is said."""
    original, jump = time.time, [0.0]
    monkeypatch.setattr(time, "time", lambda: original() + jump[0])
    job = small()
    with Run(folder, job.state, save=Every(batches=2), keep=KeepWithin(minutes=5)) as run:
        run._session.saves.clock.wall = lambda: original() + jump[0]

        def each(batches: int) -> None:
            run.wait()
            jump[0] = -86400.0 if batches >= 4 else 0.0
            run._session.saves._listened = 0.0

        with pytest.warns(HoldfastWarning, match=r"was set back by 1 d since the start"):
            job.fit(run, 3, each)
    created = [one.created for one in checkpoints(folder)]
    assert len(created) == 6
    assert created == sorted(created)
    assert (created[-1] - created[0]).total_seconds() < 60


def test_a_clock_goes_on_from_where_it_started() -> None:
    """Whatever is set meanwhile, forwards or backwards, by more than clocks are set by themselves."""
    now = {"wall": 1000.0, "steady": 50.0}
    clock = Clock(lambda: now["wall"], lambda: now["steady"])
    now.update(wall=1010.0, steady=60.0)
    assert (clock.created().timestamp(), clock.jump()) == (1010.0, 0.0)
    now.update(wall=5000.0, steady=61.0)
    assert (clock.created().timestamp(), clock.jump(), clock.now()) == (1011.0, 3989.0, 5000.0)
    now.update(wall=900.0)
    assert clock.jump() == -111.0


def test_checkpoints_of_a_clock_that_was_wrong_do_not_outlive_all_others() -> None:
    """One from the far future, by an attempt whose machine had the wrong time, is as old as the one behind it."""
    ones = [
        Kept(name=name, progress=Progress(step=step), created=created)
        for step, (name, created) in enumerate([("a", 100.0), ("future", 9e9), ("b", 4000.0), ("c", 4100.0)])
    ]
    kept = [name for name, why in plan(KeepWithin(minutes=5), ones, {}).items() if why]
    assert kept == ["future", "b", "c"]
    later = [*ones, Kept(name="d", progress=Progress(step=9), created=5000.0)]
    assert [name for name, why in plan(KeepWithin(minutes=5), later, {}).items() if why] == ["d"]
    assert plan(KeepEvery(hours=1), later, {})["d"] is None


def test_tokens_that_nobody_counts_are_said_at_the_end(folder: Path, capsys: Any) -> None:
    """Such an interval never comes round, and nothing else would tell."""
    fit(folder, save=Every(tokens=100) | Every(batches=4))
    assert capsys.readouterr().err.count("Every(tokens=100) never comes round: no tokens are counted") == 1


def test_a_saver_that_never_saved_is_said_at_the_end(folder: Path) -> None:
    """A limit that is longer than the run holds the best ones back, and nothing would tell."""
    best = Saver(f"{folder}-best", save=OnBest("loss") & AtMostEvery(hours=1), items=["model"])
    job = small()
    run = Run(folder, job.state, savers=[Saver(), best])
    job.fit(run)
    with pytest.warns(HoldfastWarning, match=r"run-best: no checkpoint was saved there, because OnBest.* never came"):
        run.close()
