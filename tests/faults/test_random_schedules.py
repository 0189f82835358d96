"""Saves, changes of the state by any way and SIGKILLs, in any order and at any moment."""

from __future__ import annotations

import contextlib
import random
import signal
import time
from pathlib import Path

import pytest

from tests.harness.history import History, assert_nothing_lost, assert_same_bits
from tests.harness.schedules import BATCHES, KEPT
from tests.harness.trainers import Trainer, await_condition, start

MODULE = "tests.harness.schedules"
KILLS = 3


def strike(trainer: Trainer, chance: random.Random) -> None:
    """SIGKILL, somewhere in a batch or in what the boundary behind it does, unless the training ends before."""
    batches, delay = chance.randint(1, BATCHES), chance.random() * 0.02
    await_condition(
        lambda: trainer.text.count("batch ") >= batches or "ended" in trainer.text, lambda: f"batches: {trainer.text}"
    )
    time.sleep(delay)
    with contextlib.suppress(ProcessLookupError):
        trainer.kill()


def run_schedule(place: Path, seed: int, rows: int = 20_000, arena: str | None = None) -> History:
    """Ends with the bits of the twin, and loses nothing that was announced."""
    twin = start(f"{MODULE}:twin", place / "twin.out", seed=seed, rows=rows, result=str(place / "twin"))
    chance, history = random.Random(seed), History(place / "run")
    for attempt in range(KILLS + 1):
        trainer = start(
            f"{MODULE}:train", place / f"{attempt}.out", seed=seed, rows=rows,
            folder=str(place / "run"), result=str(place / "result"), arena=arena,
        )  # fmt: skip
        if attempt < KILLS:
            strike(trainer, chance)
        if (code := trainer.wait()) == 0:
            break
        assert code == -signal.SIGKILL, trainer.text
    assert twin.wait() == trainer.wait() == 0, twin.text + trainer.text
    assert_same_bits(place / "result", place / "twin")
    assert_nothing_lost(history, KEPT)
    assert history.debris == []
    assert not history.events("replay_differs")
    return history


@pytest.mark.parametrize("seed", [pytest.param(one, marks=[pytest.mark.slow] if one > 5 else []) for one in range(20)])
def test_any_schedule_ends_with_the_bits_of_its_twin(tmp_path: Path, seed: int) -> None:
    """However often it is killed, whatever had changed the state by then, and whatever was being saved."""
    run_schedule(tmp_path, seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20, 30))
def test_any_schedule_that_streams_ends_with_the_bits_of_its_twin(tmp_path: Path, seed: int) -> None:
    """The same with an arena that is smaller than the state."""
    history = run_schedule(tmp_path, seed, rows=60_000, arena="17 MiB")
    assert history.events("streams")
