"""What a run finds when it starts again is not what it left: it says so, falls back, or refuses and changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from holdfast import CorruptError, DataOrderError, Every, HoldfastWarning, KeepLast, MisfitError, Run
from tests.harness.history import History, assert_nothing_lost
from tests.harness.small import Small, small, train, untouched


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run that ended in the midst of its second epoch, with checkpoints after 2, 4 and 6 batches."""
    folder = tmp_path / "run"
    job = small()

    def each(batches: int) -> None:
        run.wait()
        if batches == 7:
            raise RuntimeError("the user's bug")

    with pytest.raises(RuntimeError), Run(folder, job.state, save=Every(batches=2), config={"rate": 1e-2}) as run:
        job.fit(run, 2, each)
    return folder


@pytest.fixture
def picture(folder: Path) -> Callable[[], dict[Path, bytes]]:
    """All bytes of the folder but the locks' records."""
    return lambda: {
        path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and not path.name.endswith(".lock")
    }


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def remove(path: Path) -> None:
    path.unlink()


DAMAGES = [
    (damage, file)
    for damage in (flip, cut, remove)
    for file in ("manifest.json", "model.safetensors", "optimizer.safetensors")
]


@pytest.mark.parametrize(("damage", "file"), DAMAGES)
def test_the_newest_is_corrupt(folder: Path, damage: Any, file: str) -> None:
    """It is named and skipped, the one before is used, the journal says so, and the end is exact all the same."""
    newest = History(folder).checkpoints[-1]
    damage(folder / newest / file)
    with pytest.warns(HoldfastWarning, match=newest):
        job = train(str(folder))
    history = History(folder)
    assert history.attempts[1]["resumed_from"] == "step-00000004.a0001.n0002"
    assert [line["name"] for line in history.events("skipped")] == [newest]
    assert all(map(torch.equal, job.weights, untouched().weights))


def test_a_corrupt_checkpoint_counts_for_nothing(folder: Path) -> None:
    """Retention neither counts nor removes it: it pushes out no good one, and stays as evidence."""
    *_, good, corrupt = History(folder).checkpoints
    flip(folder / corrupt / "model.safetensors")
    job = small()
    with pytest.warns(HoldfastWarning), Run(folder, job.state, save=Every(batches=100), keep=KeepLast(2)) as run:
        job.fit(run)
    assert History(folder).checkpoints == [good, corrupt, "step-00000008.a0002.n0001"]


def test_all_are_corrupt(folder: Path, picture: Any) -> None:
    """A typed error instead of a silent start from nothing; nothing in the folder and no weight is changed."""
    for name in History(folder).checkpoints:
        flip(folder / name / "model.safetensors")
    job = small()
    before, weights = picture(), job.weights
    with (
        pytest.warns(HoldfastWarning),
        pytest.raises(CorruptError, match="none of the run's 3 checkpoints can be loaded"),
    ):
        Run(folder, job.state)
    assert picture() == before
    assert all(map(torch.equal, job.weights, weights))


def other(change: Callable[[Small], object]) -> Small:
    job = small()
    change(job)
    return job


MISFITS: dict[str, tuple[Callable[[Small], object], str]] = {
    "reshaped": (lambda job: setattr(job.model[0], "weight", torch.nn.Parameter(torch.ones(9, 2))), "0.weight"),
    "missing": (lambda job: delattr(job.model, "0"), "0.bias"),
    "additional": (lambda job: job.model.append(torch.nn.Linear(1, 1)), "2.weight"),
    "another dtype": (lambda job: job.model.double(), "0.weight"),
}


@pytest.mark.parametrize("kind", MISFITS)
def test_the_model_does_not_fit(folder: Path, picture: Any, kind: str) -> None:
    """Every leaf that differs is named; no weight and nothing in the folder is changed, no attempt is counted."""
    change, leaf = MISFITS[kind]
    job = other(change)
    before, weights = picture(), job.weights
    with pytest.raises(MisfitError, match=leaf):
        Run(folder, job.state)
    assert all(map(torch.equal, job.weights, weights))
    assert picture() == before
    assert_nothing_lost(History(folder), 3)


def test_a_changed_config_is_named(folder: Path, capfd: Any) -> None:
    """With its value before and now."""
    with Run(folder, small().state, config={"rate": 5e-3, "layers": 2}):
        pass
    assert "layers: '(absent)' -> 2; rate: 0.01 -> 0.005" in capfd.readouterr().err


def test_an_edited_learning_rate_that_is_overridden_is_named(folder: Path) -> None:
    """The optimizer's restored rate wins over the script's, which must not go unnoticed."""
    with pytest.warns(HoldfastWarning, match=r"now gives optimizer lr=0\.5 \(before: 0\.01\), but .* lr=0\.01"):
        Run(folder, small(rate=0.5).state).close()


def test_a_loader_of_another_length_is_refused(folder: Path) -> None:
    """The position in the epoch means nothing in other data; nothing is saved over what is there."""
    job = small(batches=5)
    before = History(folder).checkpoints
    with pytest.raises(DataOrderError, match=r"4.*5|5.*4"), Run(folder, job.state) as run:
        job.fit(run)
    assert History(folder).checkpoints == before
