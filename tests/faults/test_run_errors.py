"""An exception ends the loop, or is caught in it; a run ends without a save that was due, or was finished before."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from holdfast import AtEnd, AtMostEvery, Every, HoldfastWarning, KeepAll, OnError, Run, checkpoints
from holdfast.run.loop_state import LoopState
from tests.harness.history import History, assert_nothing_lost
from tests.harness.small import BATCHES, Small, small, train, untouched
from tests.harness.trainers import start

RARELY = Every(batches=100)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run"


def failing(at: int) -> Callable[[int], None]:
    def each(batches: int) -> None:
        if batches == at:
            raise RuntimeError("the user's bug")

    return each


def run_failing(folder: Path, at: int, **options: Any) -> Run:
    """One attempt, with `with`, that fails in the batch after the first ``at``."""
    job = small()
    with pytest.raises(RuntimeError, match="the user's bug"):  # noqa: SIM117  # the run is looked at afterwards
        with Run(folder, job.state, **{"save": RARELY | OnError(), **options}) as run:
            job.fit(run, 2, failing(at))
    return run


def finish(folder: Path) -> tuple[Run, Small]:
    job = small()
    with Run(folder, job.state, save=RARELY) as run:
        job.fit(run)
    return run, job


def test_an_exception_in_with_saves_the_last_boundary(folder: Path, capsys: Any) -> None:
    """The original exception comes through, the checkpoint says why it is there, and a restart goes on from it."""
    run_failing(folder, at=3)
    (checkpoint,) = checkpoints(folder)
    said = f"RuntimeError ended the loop; the boundary before it is saved as {checkpoint.name}"
    assert said in capsys.readouterr().err
    assert checkpoint.progress.batches == 3
    assert checkpoint.manifest.reason == ("on error",)
    run, job = finish(folder)
    assert run.resumed_from == checkpoint.name
    assert all(map(torch.equal, job.weights, untouched().weights))


def test_an_exception_in_a_bare_loop_saves_the_last_boundary(folder: Path) -> None:
    """Nobody wrote `with`: the uncaught exception is seen on its way out, and is printed as ever."""
    trainer = start("tests.harness.small:fail", folder.parent / "out", folder=str(folder), at=3, genuine_exit=True)
    assert trainer.wait() == 1
    assert trainer.text.rstrip().endswith("RuntimeError: the user's bug")
    assert trainer.text.count("Traceback") == 1
    (checkpoint,) = checkpoints(folder)
    assert checkpoint.progress.batches == 3
    assert checkpoint.manifest.reason == ("on error",)


def test_what_goes_wrong_at_the_end_does_not_hide_the_exception(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An uncaught exception is printed, also if closing the run fails in its turn."""
    shown: list[object] = []
    monkeypatch.setattr(sys, "excepthook", lambda kind, error, trace: shown.append(error))
    run = Run(folder, small().state)
    error = RuntimeError("the user's bug")
    with monkeypatch.context() as patch:
        patch.setattr(run._session, "close", lambda failed: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            sys.excepthook(RuntimeError, error, None)
    assert shown == [error]


def test_an_exception_does_not_lose_the_save_under_way(folder: Path) -> None:
    """The snapshot taken at the boundary before the exception is committed before the process ends."""
    run_failing(folder, at=2, save=Every(batches=2))
    assert [one.progress.batches for one in checkpoints(folder)] == [2]


def test_an_exception_without_the_policy_saves_nothing(folder: Path) -> None:
    """Without `OnError` an error is no reason to save; that nothing was saved is said."""
    with pytest.warns(HoldfastWarning, match="without a checkpoint"):
        run_failing(folder, at=3, save=RARELY)
    assert History(folder).checkpoints == []


def test_an_error_after_a_step_says_that_it_cannot_save(folder: Path) -> None:
    """The last boundary is gone once the optimizer has stepped: nothing wrong is written, and it is said."""
    job = small()

    def each(batches: int) -> None:
        if batches == 3:
            job.step(torch.ones(4, 2))
            raise RuntimeError("late")

    said = pytest.warns(HoldfastWarning, match="an optimizer has stepped since")
    with said, pytest.raises(RuntimeError), Run(folder, job.state, save=Every(batches=2) | OnError()) as run:
        job.fit(run, 1, each)
    assert [one.progress.batches for one in checkpoints(folder)] == [2]


def test_a_batch_retried_after_out_of_memory_counts_once(folder: Path) -> None:
    """The usual recovery, one smaller half after the other, is one batch and one step of progress."""
    job = small()
    with Run(folder, job.state, save=Every(batches=2)) as run:
        for _ in run.epochs(2):
            for (inputs,) in run.batches(job.loader):
                try:
                    if run.progress.batches in (1, 5):
                        raise torch.OutOfMemoryError("out of memory")
                    job.step(inputs)
                except torch.OutOfMemoryError:
                    job.optimizer.zero_grad()
                    job.step(inputs)
    assert (run.progress.batches, run.progress.step, run.progress.samples) == (8, 8, 32)


def test_a_batch_retried_by_hand_counts_once(folder: Path) -> None:
    """The same boundary reported twice, as a loop does that retries the whole batch, is one boundary."""
    job = small()
    with Run(folder, job.state, save=Every(batches=2)) as run:
        run.resume()
        for batch, (inputs,) in enumerate(job.loader, 1):
            for _ in range(2 if batch == 2 else 1):
                job.step(inputs)
                run.batch_end(epoch=0, batch=batch, step=batch)
    assert (run.progress.batches, run.progress.step) == (4, 4)


def test_a_failure_that_repeats_falls_back_past_its_checkpoint(folder: Path) -> None:
    """What was saved on an error may hold its cause: when the error comes again, an older checkpoint is used."""
    policy = Every(batches=2) | OnError()
    assert run_failing(folder, at=3, save=policy).resumed_from is None
    on_error = checkpoints(folder)[-1]
    assert on_error.manifest.reason == ("on error",)
    assert run_failing(folder, at=3, save=policy).resumed_from == on_error.name
    with pytest.warns(HoldfastWarning, match=f"{on_error.name} was saved on an error that came again"):
        run, job = finish(folder)
    assert run.resumed_from == "step-00000002.a0001.n0001"
    assert all(map(torch.equal, job.weights, untouched().weights))
    assert [line["name"] for line in History(folder).events("skipped")] == [on_error.name]


def test_a_failure_that_repeats_with_nothing_to_fall_back_to_costs_nothing(folder: Path) -> None:
    """Crash, look, crash again, mend the script: what was saved on the error is all there is, and it is used."""
    run_failing(folder, at=3)
    run_failing(folder, at=3)
    (on_error,) = checkpoints(folder)
    run, job = finish(folder)
    assert run.resumed_from == on_error.name
    assert all(map(torch.equal, job.weights, untouched().weights))


def test_an_error_is_told_from_other_reasons_whatever_the_policy_calls_it(folder: Path) -> None:
    """Joined to a limit, its reason is longer: all the same, it pushes out nothing and is gone back past."""
    policy = Every(batches=2) | OnError() & AtMostEvery(batches=1)
    run_failing(folder, at=3, save=policy)
    on_error = checkpoints(folder)[-1]
    assert "on error" in on_error.manifest.reason
    assert on_error.manifest.on_error
    assert run_failing(folder, at=3, save=policy).resumed_from == on_error.name
    with pytest.warns(HoldfastWarning, match=f"{on_error.name} was saved on an error that came again"):
        run, _ = finish(folder)
    assert run.resumed_from == "step-00000002.a0001.n0001"


def test_another_error_at_the_same_batch_is_not_the_same_failure(folder: Path) -> None:
    """A mistake made while mending the first one says nothing against the checkpoint."""
    run_failing(folder, at=3, save=Every(batches=2) | OnError())
    on_error = checkpoints(folder)[-1].name
    job = small()

    def each(batches: int) -> None:
        raise NameError("a typing mistake")

    with pytest.raises(NameError), Run(folder, job.state, save=RARELY) as run:
        job.fit(run, 2, each)
    run, _ = finish(folder)
    assert run.resumed_from == on_error


def test_a_resume_behind_the_last_batch_says_that_none_is_left(folder: Path, capfd: Any) -> None:
    """Code behind the loop that uses a variable of its body would fail without a word of why."""
    job = small()
    with pytest.raises(RuntimeError), Run(folder, job.state, save=RARELY | OnError()) as run:  # noqa: PT012
        for _ in run.epochs(1):
            for (inputs,) in run.batches(job.loader):
                job.step(inputs)
            raise RuntimeError("in the tail")
    finish(folder)
    assert "hands out nothing more" in capfd.readouterr().err


def test_what_is_left_is_the_length_of_a_loop(folder: Path) -> None:
    """A progress bar over it comes to its end after a resume too."""
    job = small()
    with pytest.raises(RuntimeError, match="bug"), Run(folder, job.state, save=RARELY | OnError()) as run:
        job.fit(run, 2, failing(6))
    again = small()
    with Run(folder, again.state, save=RARELY) as run:
        epochs = run.epochs(3)
        assert len(epochs) == 2
        lengths = []
        for _ in epochs:
            batches = run.batches(again.loader)
            lengths.append((len(batches), sum(1 for (inputs,) in batches if again.step(inputs) is not None)))
        assert lengths == [(2, 2), (4, 4)]


def test_a_failure_elsewhere_does_not_discredit_a_checkpoint(folder: Path) -> None:
    """Another error, at a later batch, says nothing against the checkpoint that was saved on the first one."""
    run_failing(folder, at=3)
    on_error = checkpoints(folder)[-1].name
    job = small()
    with pytest.raises(RuntimeError, match="the user's bug"), Run(folder, job.state, save=RARELY) as run:
        job.fit(run, 2, failing(5))
    run, job = finish(folder)
    assert run.resumed_from == on_error
    assert all(map(torch.equal, job.weights, untouched().weights))


def test_error_checkpoints_do_not_push_out_good_ones(folder: Path) -> None:
    """They come on top of the last three and go once newer good ones are there."""
    for at in (3, 5, 7):
        run_failing(folder, at=at, save=Every(batches=2) | OnError())
    regular = [one for one in checkpoints(folder) if one.manifest.reason != ("on error",)]
    assert [one.progress.batches for one in regular] == [2, 4, 6]


def test_a_run_whose_interval_never_came_saves_at_its_end(folder: Path) -> None:
    """The final state is durable when the loop is over, whatever the policy."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        job = train(str(folder), save=Every(minutes=60))
    (checkpoint,) = checkpoints(folder)
    assert checkpoint.progress.batches == 8
    again = small()
    checkpoint.load_into(model=again.model)
    assert all(map(torch.equal, again.weights, job.weights))


def test_a_run_without_close_saves_at_its_end(folder: Path) -> None:
    """The bare loop of the README: neither `with` nor `close`."""
    trainer = start("tests.harness.small:end_by_itself", folder.parent / "out", folder=str(folder), genuine_exit=True)
    assert trainer.wait() == 0, trainer.text
    assert trainer.text == ""
    assert [one.progress.batches for one in checkpoints(folder)] == [8]


def test_a_finished_run_started_again_says_so(folder: Path, capfd: Any) -> None:
    """Its batches are not run again, its state is the final one, nothing is saved twice; more epochs continue."""
    first = train(str(folder))
    before = History(folder).checkpoints
    capfd.readouterr()
    again = small()
    with Run(folder, again.state, save=Every(batches=2)) as run:
        again.fit(run, 2, lambda _: pytest.fail("a batch of a finished run"))
    said = capfd.readouterr().err
    assert "finished at epoch 2; raise the number of epochs to go on, or choose another folder" in said
    assert all(map(torch.equal, again.weights, first.weights))
    assert History(folder).checkpoints == before
    assert all(map(torch.equal, train(str(folder), epochs=3).weights, untouched(3).weights))
    assert_nothing_lost(History(folder), 3)


def test_an_unchanged_boundary_is_not_saved_twice(folder: Path) -> None:
    """A save at the last batch by `steps` is the final save too."""
    job = small()
    with Run(folder, job.state, save=Every(batches=4) | AtEnd()) as run:
        for (inputs,) in run.steps(job.loader, 8):
            run.wait()
            job.step(inputs)
    assert [one.progress.batches for one in checkpoints(folder)] == [4, 8]


def test_a_save_whose_position_is_lost_has_failed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said and tried again like any other, and not dropped as if it had not been due."""
    stored = LoopState.stored
    monkeypatch.setattr(LoopState, "stored", lambda self, one: None if one.progress.batches == 2 else stored(self, one))
    job, failed = small(), []
    run = Run(folder, job.state, save=Every(batches=2), keep=KeepAll())
    run.on_event = lambda event: failed.append(event) if event.kind == "save_failed" else None
    with run, pytest.warns(HoldfastWarning, match=r"failed: the loader keeps its own position"):
        job.fit(run, 1)
    assert len(failed) == 1
    assert [one.progress.batches for one in checkpoints(folder)] == [4]


class Mute:
    """A loader that fails to say where it stands."""

    def __iter__(self) -> Iterator[torch.Tensor]:
        return iter(torch.ones(BATCHES, 1, 2))

    def __len__(self) -> int:
        return BATCHES

    def state_dict(self) -> Any:
        raise ValueError("nowhere")

    def load_state_dict(self, state: Any) -> None:
        """Never called."""


@pytest.mark.parametrize("leave_at", [None, 3])
def test_a_loader_that_fails_to_say_where_it_stands_does_not_end_the_training(
    folder: Path, leave_at: int | None
) -> None:
    """Only what needs its place is not saved: what lies between two passes is, and that the loop was left as well."""
    job = small()

    def fit() -> None:
        with Run(folder, job.state, save=Every(batches=2), keep=KeepAll()) as run:
            for _ in run.epochs(2):
                for inputs in run.batches(Mute()):
                    job.step(inputs)
                    if run.progress.batches == leave_at:
                        break

    with pytest.warns(HoldfastWarning, match=r"failed: ValueError: nowhere"):
        fit()
    assert [one.progress.batch for one in checkpoints(folder)] == [0, 0]
    assert checkpoints(folder)[-1].progress.epoch == 2
