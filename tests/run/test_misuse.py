"""Calls that cannot mean anything are refused before they do harm."""

from __future__ import annotations

import argparse

import pytest
import torch

import holdfast
from holdfast.errors import ExactnessWarning, UnsafeValueError, UsageError


@pytest.fixture
def model():
    return torch.nn.Linear(2, 1)


def one_epoch(run):
    for _ in run.epochs(1):
        for _ in run.batches([torch.zeros(1, 2)]):
            pass


@pytest.mark.parametrize(
    "call",
    [one_epoch, lambda run: run.save(), lambda run: run.log(loss=1.0), lambda run: run.resume(),
     lambda run: run.batch_end(epoch=0, batch=1)],
)  # fmt: skip
def test_a_closed_run_refuses_to_be_used(tmp_path, model, call):
    """A cell run again after `close()` would otherwise train without a single save."""
    run = holdfast.Run(tmp_path / "run", state={"model": model})
    one_epoch(run)
    run.close()
    with pytest.raises(UsageError, match="closed"):
        call(run)
    assert run.progress.batches == 1


def test_a_loop_whose_run_was_replaced_ends_with_an_error(tmp_path, model):
    """Another run over the same folder in the same process takes the folder, and the older loop says so."""
    first = holdfast.Run(tmp_path / "run", state={"model": model})
    batches = iter(first.batches([torch.zeros(1, 2)] * 3))
    next(batches)
    with holdfast.Run(tmp_path / "run", state={"model": model}), pytest.raises(UsageError, match="taken its place"):
        next(batches)


def test_a_folder_that_no_system_takes_for_a_path_is_refused(tmp_path, model):
    """A NUL character ends a path: for the run's own folder, a saver's, and where the state is to come from."""
    with pytest.raises(UsageError, match="NUL"):
        holdfast.Run("a\0b", state={"model": model})
    with pytest.raises(UsageError, match="NUL"):
        holdfast.Saver("a\0b")
    with pytest.raises(UsageError, match="NUL"):
        holdfast.Run(tmp_path / "run", state={"model": model}, start_from="a\0b")


def test_arguments_of_argparse_are_not_a_config(tmp_path, model):
    """The error says how to make them one."""
    with pytest.raises(UsageError, match=r"vars\(args\)"):
        holdfast.Run(tmp_path / "run", state={"model": model}, config=argparse.Namespace(lr=0.1))
    assert not (tmp_path / "run").exists()


def test_a_restart_without_a_checkpoint_says_that_it_starts_anew(tmp_path, model, capfd):
    """Killed before its first save, a run begins again, and not in silence."""
    run = holdfast.Run(tmp_path / "run", state={"model": model})
    run.close()
    holdfast.Run(tmp_path / "run", state={"model": model}).close()
    assert "no checkpoint was committed by 1 earlier attempt" in capfd.readouterr().err


@pytest.mark.parametrize("state", [{}, None, [1], {"model": 3}, {"best": 0.5}, {"rng": {}}, {"a/b": {}}, {3: {}}])
def test_state_that_cannot_be_kept_is_refused(tmp_path, state):
    """Empty, unnamed, immutable or reserved: before anything is made on disk."""
    with pytest.raises(UsageError):
        holdfast.Run(tmp_path / "run", state=state)
    assert not (tmp_path / "run").exists()


def test_a_number_in_the_state_is_pointed_to_values(tmp_path, model):
    """It could not be given back in place."""
    with pytest.raises(UsageError, match=r"run\.values\['best'\]"):
        holdfast.Run(tmp_path / "run", state={"model": model, "best": 0.5})


@pytest.mark.parametrize("total", [0, -1, 1.5, True, None])
def test_a_loop_of_no_length_is_refused(tmp_path, model, total):
    """`run.epochs(0)` is a mistake, not an empty training."""
    with holdfast.Run(tmp_path / "run", state={"model": model}) as run:
        with pytest.raises(UsageError):
            run.epochs(total)
        with pytest.raises(UsageError):
            run.steps([1], total)
        with pytest.raises(UsageError):
            run.batches()


@pytest.mark.parametrize("count", ["epoch", "batch", "step", "samples", "tokens"])
@pytest.mark.parametrize("value", [-5, True, 2**70, 2**63, 0.5, "1"])
def test_a_count_that_no_checkpoint_can_hold_is_refused_when_it_is_reported(tmp_path, model, count, value):
    """Not by a later save; the error names the argument, and what was counted stays as it was."""
    with holdfast.Run(tmp_path / "run", state={"model": model}) as run:
        run.batch_end(epoch=0, batch=1, samples=7)
        with pytest.raises(UsageError, match=f"^{count}={value!r}: expected a whole number"):
            run.batch_end(**({"epoch": 0, "batch": 2} | {count: value}))
        assert (run.progress.batches, run.progress.samples) == (1, 7)
    assert holdfast.latest(tmp_path / "run").progress.samples == 7


def test_a_count_of_a_batch_below_zero_is_refused(tmp_path, model):
    """A callable that counts samples or tokens is a user's code too."""
    with (
        pytest.raises(UsageError, match=r"^tokens=-1: expected a whole number from 0"),
        holdfast.Run(tmp_path / "run", state={"model": model}) as run,
    ):
        list(run.batches([torch.zeros(1, 2)], tokens=lambda batch: -1))


def test_a_value_that_cannot_be_stored_is_refused_at_the_first_batch(tmp_path, model):
    """Not by the first save, which may come after hours."""
    run = holdfast.Run(tmp_path / "run", state={"model": model}, save=holdfast.Every(batches=100))
    batches = iter(run.batches([torch.zeros(1, 2)] * 3))
    next(batches)
    run.values["best"] = print
    with pytest.raises(UnsafeValueError, match="values/best"):
        next(batches)
    assert run.progress.batches == 1
    run.values.clear()
    run.close()


def test_a_warning_points_at_the_line_of_the_user(tmp_path, model):
    """Not into holdfast, where nobody has to change anything."""
    run = holdfast.Run(tmp_path / "run", state={"model": model})
    with pytest.warns(ExactnessWarning) as said:
        list(enumerate(run.batches([torch.zeros(1, 2)])))
    assert said[0].filename == __file__
    run.close()


def test_a_shorter_loop_than_what_is_done_says_both_numbers(tmp_path, model, capfd):
    """Three epochs are done and two are asked for: nothing to do, and not called finished at two."""
    for total in (3, 2):
        with holdfast.Run(tmp_path / "run", state={"model": model}) as run:
            for _ in run.epochs(total):
                pass
    assert "finished at epoch 3, and 2 are asked for; raise the number of epochs" in capfd.readouterr().err


def test_a_number_in_place_of_a_policy_is_pointed_to_one_of_its_kind(tmp_path, model):
    """`keep=3` is a natural thing to try."""
    with pytest.raises(UsageError, match=r"KeepPolicy such as KeepLast\(3\)"):
        holdfast.Run(tmp_path / "run", state={"model": model}, keep=3)


def test_a_folder_that_no_record_can_name_is_refused(tmp_path, model):
    """A name that is not UTF-8 is legal on Linux; it would end the training at the first save."""
    with pytest.raises(UsageError, match="is not UTF-8"):
        holdfast.Run(tmp_path / "caf\udce9", state={"model": model})
    assert list(tmp_path.iterdir()) == []
