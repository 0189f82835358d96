"""Looking for what stands around a loop must not hold the loop."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast import Every, Run
from tests.harness.small import small


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("attempt", range(2))
def test_a_break_is_noticed_without_the_garbage_collector(tmp_path: Path, attempt: int) -> None:
    """The loop's generator sits in no reference cycle, so it ends where the user's loop does."""
    job = small()
    with Run(tmp_path / "run", job.state, save=Every(batches=100)) as run:
        for _ in run.epochs(1):
            for (inputs,) in run.batches(job.loader):
                job.step(inputs)
                break
            assert run._session.snapshots._left is not None
            break
