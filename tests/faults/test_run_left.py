"""A loop is left before its end: what the last checkpoint holds, whatever the script does with its objects then."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from holdfast import Every, HoldfastWarning, OnError, OnSignal, Run, UsageError, checkpoints, latest
from holdfast.state.torch.tensor import TensorSource
from tests.harness.history import History
from tests.harness.small import Small, small, train, untouched

RARELY = Every(batches=100)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run"


def leave(run: Run, job: Small, batches: int) -> None:
    """Trains so many batches, and leaves both loops."""
    for _ in run.epochs(2):
        for (inputs,) in run.batches(job.loader):
            job.step(inputs)
            if run.progress.batches == batches - 1:
                return


def spoil(job: Small) -> None:
    """What a script does that brings back its best weights, or averages them."""
    with torch.no_grad():
        for one in job.model.parameters():
            one.zero_()


def saved(folder: Path) -> list[torch.Tensor]:
    """The weights in the newest checkpoint."""
    job = small()
    checkpoint = latest(folder)
    assert checkpoint is not None
    checkpoint.load_into(model=job.model)
    return job.weights


def equal(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(map(torch.equal, one, other))


def resumed(folder: Path) -> Small:
    """The run gone on with, to its end."""
    return train(str(folder), save=RARELY)


def test_weights_changed_after_a_break_do_not_cost_the_final_save(folder: Path) -> None:
    """The state is copied where the loop is left; what comes behind it is not in the checkpoint."""
    job = small()
    with Run(folder, job.state, save=RARELY) as run:
        leave(run, job, 3)
        left = job.weights
        spoil(job)
    assert equal(saved(folder), left)
    assert equal(resumed(folder).weights, untouched().weights)


def test_weights_changed_at_the_end_of_the_last_epoch_are_saved(folder: Path) -> None:
    """Best weights brought back inside of the epoch's body, before the `break`, are what the run ended with."""
    job = small()
    with Run(folder, job.state, save=RARELY) as run:
        for _ in run.epochs(5):
            for (inputs,) in run.batches(job.loader):
                job.step(inputs)
            spoil(job)
            break
    assert equal(saved(folder), job.weights)
    (checkpoint,) = checkpoints(folder)
    assert (checkpoint.progress.epoch, checkpoint.progress.batch, checkpoint.manifest.reason) == (1, 0, ("at end",))


def test_a_copy_that_fails_halfway_spoils_what_was_held(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The snapshot of the loop that was left first is half overwritten by that of the second: it is not saved."""
    state = {"parts": {"first": torch.zeros(1), "second": torch.zeros(1)}}
    copy = TensorSource.copy_into

    def fail(self: TensorSource, destination: memoryview, begin: int = 0) -> None:
        if self._tensor is state["parts"]["second"]:
            raise RuntimeError("the device is gone")
        copy(self, destination, begin)

    with Run(folder, state, save=RARELY) as run:
        for number in (1, 2):
            for one in state["parts"].values():
                one.fill_(number)
            for _ in run.epochs(3):
                if number == 1:
                    next(iter(run.batches([0, 0])))
                else:
                    monkeypatch.setattr(TensorSource, "copy_into", fail)
                break
        monkeypatch.setattr(TensorSource, "copy_into", copy)
    (checkpoint,) = checkpoints(folder)
    found = {"first": torch.zeros(1), "second": torch.zeros(1)}
    checkpoint.load_into(parts=found)
    assert found["first"] == found["second"]


def test_an_epoch_left_in_its_tail_runs_its_tail_again(folder: Path) -> None:
    """Where nothing but small state has changed since the last batch, the checkpoint is that of the batch."""
    job = small()
    with Run(folder, job.state, save=RARELY) as run:
        for _ in run.epochs(2):
            for (inputs,) in run.batches(job.loader):
                job.step(inputs)
            torch.randn(3)
            break
    (checkpoint,) = checkpoints(folder)
    assert (checkpoint.progress.epoch, checkpoint.progress.batch) == (0, 4)
    assert equal(resumed(folder).weights, untouched().weights)


@pytest.mark.parametrize("asked", [False, True])
def test_a_save_after_a_break_is_taken_at_once(folder: Path, asked: bool) -> None:
    """The loop is over, so there is no boundary to wait for; closing the run does not save the same again."""
    job = small()
    with Run(folder, job.state, save=RARELY) as run:
        leave(run, job, 3)
        spoil(job)
        if asked:
            run.save()
            run.wait()
            assert equal(saved(folder), job.weights)
    assert len(checkpoints(folder)) == 1
    assert equal(saved(folder), job.weights) is asked


def test_a_save_by_hand_after_the_last_batch_is_kept_at_the_end(folder: Path) -> None:
    """A loop by hand has no end that can be seen: a save that was asked for holds what there is when the run ends."""
    job = small()
    with Run(folder, job.state, save=RARELY) as run:
        run.resume()
        by_hand(run, job)
        spoil(job)
        run.save()
    assert equal(saved(folder), job.weights)


def test_weights_changed_after_a_loop_by_hand_are_said_to_be_lost(folder: Path) -> None:
    """Without a request the last boundary would have been saved, and it is gone: nothing wrong is written."""
    job = small()
    run = Run(folder, job.state, save=RARELY | Every(batches=3))
    run.resume()
    by_hand(run, job)
    spoil(job)
    with pytest.warns(HoldfastWarning, match=r"or call run\.save\(\) before it"):
        run.close()
    assert [one.progress.batches for one in checkpoints(folder)] == [3]


def by_hand(run: Run, job: Small) -> None:
    for index, (inputs,) in enumerate(job.loader):
        job.step(inputs)
        run.batch_end(epoch=0, batch=index + 1)


def test_a_loop_that_a_variable_holds_is_left_all_the_same(folder: Path) -> None:
    """Its generators are alive when the run is closed, and have not noticed that nobody goes on with them."""
    job = small()
    with Run(folder, job.state, save=RARELY) as run:
        loops: list[Iterator[Any]] = [iter(run.epochs(2))]
        next(loops[0])
        loops.append(iter(run.batches(job.loader)))
        for _ in range(3):
            job.step(next(loops[1])[0])
    assert equal(resumed(folder).weights, untouched().weights)
    assert checkpoints(folder)[0].progress.batches == 3


def test_steps_left_early_are_saved_as_they_were(folder: Path) -> None:
    """The same for the loop over steps, and for batches in no loop over epochs."""
    for name, loop in (("steps", lambda run, job: run.steps(job.loader, 9)), ("batches", in_no_epochs)):
        job = small()
        with Run(folder / name, job.state, save=RARELY) as run:
            for (inputs,) in loop(run, job):
                job.step(inputs)
                if run.progress.batches == 5 - 3 * (name == "batches"):
                    break
            left = job.weights
            spoil(job)
        assert equal(saved(folder / name), left)


def in_no_epochs(run: Run, job: Small) -> Any:
    return run.batches(job.loader)


def test_a_signal_after_a_break_stops_at_once(folder: Path) -> None:
    """No boundary will come that could be waited for; the state that was left is saved on the way out."""
    job = small()
    run = Run(folder, job.state, save=RARELY | OnSignal())
    leave(run, job, 3)
    left = job.weights
    spoil(job)
    with pytest.raises(SystemExit) as stopped:
        os.kill(os.getpid(), signal.SIGTERM)
    assert stopped.value.code == 128 + signal.SIGTERM
    run.close()
    assert equal(saved(folder), left)


@pytest.mark.parametrize("again", [lambda run, job: job.fit(run), lambda run, job: leave(run, job, 7)])
def test_a_loop_gone_on_with_after_a_break_is_exact(folder: Path, again: Callable[[Run, Small], None]) -> None:
    """Leaving is no end: the same run may begin another loop, and what was copied for its end is forgotten."""
    twin = small()
    for _ in range(2):
        for number, (inputs,) in enumerate(twin.loader):
            twin.step(inputs)
            if number == 2:
                break
    job = small()
    with Run(folder, job.state, save=RARELY) as run:
        leave(run, job, 3)
        leave(run, job, 6)
        assert equal(job.weights, twin.weights)
        again(run, job)
        last = job.weights
    assert equal(saved(folder), last)


def test_an_error_behind_a_loop_that_was_left_saves_no_half_batch(folder: Path) -> None:
    """After an exception only the last boundary is worth saving; what was copied for a final save is not it."""
    job = small()

    def each(batches: int) -> None:
        if batches == 3:
            job.step(torch.ones(4, 2))
            raise RuntimeError("late")

    said = pytest.warns(HoldfastWarning, match="no save on error")
    with said, pytest.raises(RuntimeError), Run(folder, job.state, save=Every(batches=2) | OnError()) as run:
        job.fit(run, 2, each)
    assert [one.progress.batches for one in checkpoints(folder)] == [2]


class Interrupted(torch.optim.SGD):
    """Fails in the middle of its third step."""

    def step(self, closure: Any = None) -> Any:
        first = self.param_groups[0]["params"][0]
        self.steps = getattr(self, "steps", 0) + 1
        if self.steps == 3:
            with torch.no_grad():
                first.add_(1)
            raise RuntimeError("out of memory")
        return super().step(closure)


def test_an_error_in_a_step_that_is_caught_saves_no_half_step(folder: Path) -> None:
    """Caught outside of the loop it looks like a `break`, but the weights are of two steps."""
    job = small()
    job.optimizer = Interrupted(job.model.parameters(), 0.1)
    run = Run(folder, job.state, save=Every(batches=2))
    with contextlib.suppress(RuntimeError):
        job.fit(run)
    with pytest.warns(HoldfastWarning, match="the step of an optimizer was interrupted halfway"):
        run.close()
    assert [one.progress.batches for one in checkpoints(folder)] == [2]


def test_an_interrupted_batch_is_not_saved_as_it_was_left(folder: Path) -> None:
    """Ctrl-C without the policy for it: what the batch had done by then is not all that it does."""
    job = small()

    def each(batches: int) -> None:
        if batches == 3:
            job.step(torch.ones(4, 2))
            raise KeyboardInterrupt

    said = pytest.warns(HoldfastWarning, match="an optimizer has stepped since")
    with said, pytest.raises(KeyboardInterrupt), Run(folder, job.state, save=Every(batches=2)) as run:
        job.fit(run, 2, each)
    assert [one.progress.batches for one in checkpoints(folder)] == [2]
    assert equal(resumed(folder).weights, untouched().weights)


def test_a_save_before_the_loop_does_not_hide_the_checkpoint(folder: Path) -> None:
    """On a restart the state is not restored yet: saved as it is, it would take the place of what was learnt."""
    run_partly(folder)
    job = small()
    with Run(folder, job.state, save=RARELY) as run:
        run.save()
        assert len(History(folder).checkpoints) == 1
        job.fit(run)
    assert equal(job.weights, untouched().weights)


def test_a_save_before_the_loop_holds_the_weights_started_from(folder: Path, tmp_path: Path) -> None:
    """With another run's checkpoint to start from, those are the state of this moment."""
    first = run_partly(folder)
    job = small()
    with Run(tmp_path / "second", job.state, save=RARELY, start_from=folder) as run:
        run.save()
        run.wait()
        assert equal(saved(tmp_path / "second"), first.weights)


def run_partly(folder: Path) -> Small:
    job = small()
    with Run(folder, job.state, save=RARELY) as run:
        leave(run, job, 3)
    return job


def test_behind_a_loop_that_came_to_its_end_saves_are_taken_at_once(folder: Path) -> None:
    """Batches in no loop over epochs: nobody says that no more will come, and no boundary may ever be passed again."""
    job = small()
    with Run(folder, job.state, save=RARELY) as run:
        for (inputs,) in run.batches(job.loader):
            job.step(inputs)
        spoil(job)
        run.save()
        run.wait()
        assert equal(saved(folder), job.weights)


def test_the_end_of_such_a_loop_is_saved_whatever_comes_behind(folder: Path) -> None:
    """The final save holds what its last batch left."""
    job = small()
    with Run(folder, job.state, save=RARELY) as run:
        for (inputs,) in run.batches(job.loader):
            job.step(inputs)
        left = job.weights
        spoil(job)
    assert equal(saved(folder), left)


def test_a_batch_that_was_left_is_counted(folder: Path) -> None:
    """Handed out is handed out: `break` in each epoch does not lose a batch of the counts."""
    job = small()
    with Run(folder, job.state, save=RARELY) as run:
        for _ in run.epochs(3):
            for index, (inputs,) in run.batches(job.loader, enumerate=True):
                job.step(inputs)
                if index == 2:
                    break
    counts = run.progress
    assert (counts.epoch, counts.batches, counts.step, counts.samples) == (3, 9, 9, 36)


def test_an_iterator_kept_in_a_variable_does_not_hide_other_loops_in_silence(folder: Path, capfd: Any) -> None:
    """It looks as if the other loop stood in its body; closing it, or a later epoch, ends that."""
    job = small()
    with Run(folder, job.state, save=RARELY) as run:
        for epoch in run.epochs(2):
            warm_up = iter(run.batches(job.loader))
            job.step(next(warm_up)[0])
            if epoch:
                warm_up.close()  # type: ignore[attr-defined]  # a generator
            else:
                kept = warm_up
            for (inputs,) in run.batches(job.loader):
                job.step(inputs)
        with pytest.raises(UsageError, match="its epoch ended"):
            next(kept)
    assert "close() it first" in capfd.readouterr().err
    assert run.progress.batches == 1 + 4
