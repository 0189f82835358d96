"""Policies in a run: what they see of it, and what survives a restart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from holdfast import (
    AtEnd,
    AtMostEvery,
    AtStart,
    Every,
    HoldfastWarning,
    KeepBest,
    KeepLast,
    OnBest,
    Run,
    SaveError,
    checkpoints,
)
from holdfast.policies.moment import Costs, Moment
from holdfast.run.costs import SaveCost
from tests.harness.history import History
from tests.harness.small import small

RARELY = Every(batches=1000)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run"


def evaluate(folder: Path, losses: list[float], **options: Any) -> list[tuple[str, ...]]:
    """One attempt: an epoch for each loss, logged behind its batches. The reasons of what is there then."""
    job = small()
    with Run(folder, job.state, **{"save": OnBest("loss"), "keep": KeepLast(100), **options}) as run:
        for epoch in run.epochs(len(losses)):
            run._session.saves.wait()  # so that the outcome of the last save is known, though it may be a failure
            for (inputs,) in run.batches(job.loader):
                job.step(inputs)
            run.log(loss=torch.tensor(losses[epoch]))
    return [one.manifest.reason for one in checkpoints(folder)]


def test_the_best_so_far_is_remembered_over_a_restart_and_a_move(folder: Path, tmp_path: Path) -> None:
    """A value that is worse than the best before the restart is not taken for the first one."""
    first = evaluate(folder, [3.0, float("nan"), 2.0])
    assert first == [("best loss (3)",), ("best loss (2)", "at end")]
    moved = folder.rename(tmp_path / "moved")
    assert evaluate(moved, [3.0, 3.0, 2.0, 2.5, 1.0])[2:] == [("best loss (1)", "at end")]


def test_the_best_that_could_not_be_saved_is_not_remembered(folder: Path, writer_fault: Any) -> None:
    """The next that is better than what is on disk is saved, though it is not the best that ever was."""
    writer_fault(action="error", function="rename", errno=28, call=2)
    with pytest.warns(HoldfastWarning, match="n0002 failed"):
        reasons = evaluate(folder, [3.0, 1.0, 2.0, 2.5])
    assert reasons == [("best loss (3)",), ("best loss (2)",), ("at end",)]


def test_a_final_save_that_fails_does_not_promise_another(folder: Path, writer_fault: Any) -> None:
    """Training does not go on."""
    writer_fault(action="error", function="rename", errno=28)
    job = small()
    run = Run(folder, job.state, save=AtEnd())
    with pytest.warns(HoldfastWarning, match="failed:") as caught:
        job.fit(run)
    with pytest.warns(HoldfastWarning, match="without a checkpoint"), pytest.raises(SaveError) as error:
        run.close()
    assert "Training goes on" not in f"{caught[0].message} {error.value}"


def test_the_best_stay_over_restarts(folder: Path) -> None:
    """Retention asks the storage, so what an earlier attempt saved is among the best all the same."""
    keep = KeepBest("loss", 2) | KeepLast(1)
    evaluate(folder, [1.0, 4.0, 2.0], save=Every(epochs=1), keep=keep)
    evaluate(folder, [1.0, 4.0, 2.0, 3.0, 5.0], save=Every(epochs=1), keep=keep)
    assert [one.metrics["loss"] for one in checkpoints(folder)] == [1.0, 2.0, 5.0]


def test_a_fraction_of_the_run_comes_so_often(folder: Path) -> None:
    """Quarters of 3 epochs of 4 batches, one of them at the end; a restart in between fires none twice."""
    job = small()
    with Run(folder, job.state, save=Every(fraction=0.25), keep=KeepLast(100)) as run:
        job.fit(run, 3, lambda batches: run.save() if batches == 7 else run.wait())
    assert [one.progress.batches for one in checkpoints(folder)] == [3, 6, 8, 9, 12]


def test_the_default_saves_twenty_times_over_the_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where saves cost next to nothing: a run of which nobody says when it saves goes by its length, not by minutes."""
    monkeypatch.setattr(SaveCost, "seen", lambda cost, batch: Costs())
    job = small(batches=20)
    with Run(folder, job.state, keep=KeepLast(100)) as run:
        job.fit(run, 2, lambda _: run.wait())
    assert [one.progress.batches for one in checkpoints(folder)] == list(range(2, 41, 2))


def test_a_save_that_the_script_asks_for_is_measured_too(folder: Path) -> None:
    """Before the loop as in it: what bounds the overhead knows what it has cost."""
    with Run(folder, small().state) as run:
        run.save()
        run.wait()
        (schedule,) = run._session.saves.schedules
    assert schedule.cost.measured
    assert min(schedule.cost.blocking, schedule.cost.persist) > 0


class Unready:
    """An item that cannot be saved at times."""

    ready = True

    def state_dict(self) -> dict[str, torch.Tensor]:
        if not self.ready:
            raise RuntimeError("not ready")
        return {"buffer": torch.zeros(2)}

    def load_state_dict(self, state: Any) -> None: ...


def test_a_snapshot_that_cannot_be_taken_is_a_save_that_failed(folder: Path) -> None:
    """It is not tried again at every batch: limits hold, and it has cost what it has stopped the training for."""
    job, item, failed = small(), Unready(), list[int]()
    run = Run(folder, {**job.state, "item": item}, save=Every(batches=1) & AtMostEvery(batches=3))
    run.on_event = lambda event: failed.append(run.progress.batches) if event.kind == "save_failed" else None

    def each(batches: int) -> None:
        item.ready = batches in (0, 7)
        if batches == 7:
            (schedule,) = run._session.saves.schedules
            assert (schedule.failed, schedule.cost.measured) == (True, True)
            assert schedule.cost.blocking > 0

    with pytest.warns(HoldfastWarning, match="not ready"), run:
        job.fit(run, 2, each)
    assert failed == [3, 6]
    assert [one.progress.batches for one in checkpoints(folder)] == [8]


def test_what_was_logged_before_a_restart_still_tells_of_the_next_checkpoint(folder: Path) -> None:
    """An evaluation every few epochs: until the next one, its value is that of the one before."""
    evaluate(folder, [0.5], save=Every(epochs=1))
    job = small()
    with Run(folder, job.state, save=Every(epochs=1), keep=KeepBest("loss") | KeepLast(1)) as run:
        for _ in run.epochs(2):
            for (inputs,) in run.batches(job.loader):
                job.step(inputs)
    assert [one.metrics["loss"] for one in checkpoints(folder)] == [0.5, 0.5]


def test_the_start_is_saved_once(folder: Path) -> None:
    """Before the first batch of a fresh run, and not again when it goes on."""
    evaluate(folder, [1.0], save=AtStart())
    evaluate(folder, [1.0, 1.0], save=AtStart())
    assert [(one.progress.batches, one.manifest.reason) for one in checkpoints(folder)] == [
        (0, ("at start",)), (4, ("at end",)), (8, ("at end",))
    ]  # fmt: skip


def test_saving_when_an_evaluation_improves_by_a_hundredth(folder: Path) -> None:
    """What is not there is a callable of five lines."""
    best = [float("inf")]

    def improved(moment: Moment) -> bool:
        loss = moment.logged.get("loss", float("inf"))
        better = loss < 0.99 * best[0]
        best[0] = loss if better else best[0]
        return better

    assert evaluate(folder, [1.0, 0.995, 0.98], save=improved) == [("improved",), ("improved", "at end")]


def test_saves_that_exclude_each_other_never_come_but_the_last(folder: Path) -> None:
    """`&` of what cannot meet saves nothing; the final save is there all the same."""
    with pytest.warns(HoldfastWarning, match=r"OnBest\('other'\): no value of 'other' has been logged"):
        reasons = evaluate(folder, [1.0, 2.0], save=Every(steps=3) & OnBest("loss") & OnBest("other"))
    assert reasons == [("at end",)]
    assert History(folder).checkpoints


@pytest.mark.parametrize(
    ("batches", "accumulate", "save"),
    [(12, 1, Every(steps=1000)), (398, 1, Every(steps=200)), (22, 4, Every(batches=5))],
    ids=[
        "interval longer than the run",
        "the last interval is cut short",
        "accumulation not aligned with the interval",
    ],
)
def test_the_final_update_is_on_disk(folder: Path, batches: int, accumulate: int, save: Any) -> None:
    """However interval, accumulation and length go together, also if the last update is made behind the last batch."""
    job = small(batches=batches)
    with Run(folder, job.state, save=save) as run:
        for _ in run.epochs(1):
            for index, (inputs,) in run.batches(job.loader, enumerate=True):
                job.model(inputs).square().mean().backward()
                if (index + 1) % accumulate == 0:
                    update(job)
            if batches % accumulate:
                update(job)
    newest = checkpoints(folder)[-1]
    again = small(batches=batches)
    newest.load_into(model=again.model)
    assert all(map(torch.equal, again.weights, job.weights))
    assert newest.progress.step == -(-batches // accumulate)


@pytest.mark.slow
def test_the_final_update_of_39998_steps_with_an_interval_of_20000(folder: Path) -> None:
    """As minimind counts them: 20,000 and the end, with the weights of the last update."""
    job = small(batches=39_998)
    with Run(folder, job.state, save=Every(steps=20_000)) as run:
        job.fit(run, 1)
    found = checkpoints(folder)
    assert [one.progress.step for one in found] == [20_000, 39_998]
    again = small()
    found[-1].load_into(model=again.model)
    assert all(map(torch.equal, again.weights, job.weights))


def update(job: Any) -> None:
    job.optimizer.step()
    job.optimizer.zero_grad()
