"""A medium that gives back other bytes than it was given: found out before the commit, where that was asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from holdfast import Every, HoldfastWarning, Run, SaveError, Saver, checkpoints
from tests.harness.history import History
from tests.harness.small import small


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run"


def spoilt(writer_fault: Any, **options: Any) -> None:
    writer_fault(action="spoil", function="preadv", when="after", **options)


def fit(folder: Path, verify: str) -> None:
    job = small()
    with Run(folder, job.state, savers=[Saver(save=Every(batches=4), verify=verify)]) as run:
        job.fit(run, 2, lambda _: run._session.saves.wait())


def test_what_differs_once_is_written_once_more(folder: Path, writer_fault: Any) -> None:
    """To fresh files, and the warning says so: a bad block is not used again while its file is there."""
    spoilt(writer_fault)
    with pytest.warns(HoldfastWarning, match=r"read back from the medium, bytes 0 to .* Writing it once more"):
        fit(folder, "readback")
    assert [one.progress.batches for one in checkpoints(folder)] == [4, 8]
    History(folder).verify_all()


def test_what_differs_again_is_not_committed(folder: Path, writer_fault: Any) -> None:
    """The save fails whole, the earlier checkpoint is untouched, and whoever waits hears of it."""
    fit(folder, "readback")
    before = History(folder).checkpoints
    spoilt(writer_fault, times=50)
    job = small()
    saver = Saver(save=Every(batches=4), verify="readback")
    with (
        pytest.warns(HoldfastWarning, match="are not the ones that were written"),
        pytest.raises(SaveError, match="check it, and save somewhere else"),
        Run(folder, job.state, savers=[saver]) as run,
    ):
        job.fit(run, 3)
    assert History(folder).checkpoints == before
    assert History(folder).debris == []


def test_without_being_asked_to_the_medium_is_not_read(folder: Path, writer_fault: Any) -> None:
    """Digests are of the bytes that were handed over; reading them back takes as long as writing."""
    spoilt(writer_fault, times=50)
    fit(folder, "digests")
    assert [one.progress.batches for one in checkpoints(folder)] == [4, 8]
