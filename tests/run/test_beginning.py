"""Runs that begin from other runs' checkpoints, whole or by item, and what is recorded of it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from holdfast import (
    AtEnd,
    CorruptError,
    Every,
    HoldfastWarning,
    KeepAll,
    MisfitError,
    NotFoundError,
    Run,
    Saver,
    UsageError,
    checkpoints,
    latest,
)
from holdfast.engine.holds import held
from holdfast.engine.run_folder import read_attempts
from holdfast.storage.local import LocalStorage
from tests.harness.small import Small, small, train


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 8 batches with checkpoints at 4 and 8, and the model alone in another folder. Not to be changed."""
    place = tmp_path_factory.mktemp("pretrained")
    savers = [Saver(save=Every(batches=4), keep=KeepAll()), Saver(place / "models", save=AtEnd(), items=["model"])]
    job = small()
    with Run(place / "run", job.state, savers=savers) as run:
        run.values["note"] = "from before"
        job.fit(run, 2, lambda _: run.wait())
    return place / "run"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run"


def weights_in(path: Path) -> list[torch.Tensor]:
    """What the newest checkpoint of a run holds of its model."""
    job, newest = small(), latest(path)
    assert newest is not None
    newest.load_into(model=job.model)
    return job.weights


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(map(torch.equal, one, other))


def begun(folder: Path, start_from: Any, job: Small | None = None) -> Small:
    """The state of a run right after its beginning."""
    job = job or small(rate=0.5)
    with Run(folder, job.state, start_from=start_from) as run:
        run.save()
        assert run.progress.batches == 0
    return job


def test_all_of_another_run_is_taken_over(pretrained: Path, folder: Path) -> None:
    """Weights, optimizer with its settings, of which a warning tells, and values; it is a new run all the same."""
    job = small(rate=0.5)
    said = r"gives optimizer lr=0\.5 .*restores lr=0\.01.*only the weights: start_from=\{'model'"
    with pytest.warns(HoldfastWarning, match=said):
        run = Run(folder, job.state, start_from=pretrained)
    with run:
        assert run.progress.batches == 0
        assert run.values == {"note": "from before"}
        run.save()
    assert same(job.weights, weights_in(pretrained))
    assert job.optimizer.param_groups[0]["lr"] == small().optimizer.param_groups[0]["lr"]


def test_one_item_is_taken_over(pretrained: Path, folder: Path) -> None:
    """The others are as the script made them."""
    job = begun(folder, {"model": pretrained})
    assert same(job.weights, weights_in(pretrained))
    assert job.optimizer.param_groups[0]["lr"] == 0.5
    assert not job.optimizer.state


def test_an_item_may_have_another_name_there(pretrained: Path, folder: Path) -> None:
    """One model of the other run becomes two of this one."""
    one, two = small(), small()
    for part in (one, two):
        torch.nn.init.zeros_(part.model[0].weight)  # type: ignore[index]
    with Run(folder, {"student": one.model, "teacher": two.model}, start_from={
        "student": (pretrained, "model"), "teacher": [str(pretrained), "model"]
    }) as run:  # fmt: skip
        run.save()
    assert same(one.weights, weights_in(pretrained))
    assert same(two.weights, weights_in(pretrained))


def test_a_checkpoint_that_holds_only_the_item_is_enough(pretrained: Path, folder: Path) -> None:
    """As those are which a saver with `items=` makes; also as a copy of any name."""
    copy = shutil.copytree(checkpoints(pretrained.parent / "models")[-1].path, folder.parent / "mine")
    for number, path in enumerate((pretrained.parent / "models", copy)):
        job = begun(folder / str(number), {"model": path})
        assert same(job.weights, weights_in(pretrained))


def test_a_run_of_its_own_wins_over_where_it_began(pretrained: Path, folder: Path) -> None:
    """The same command goes on from its own checkpoint, also if the other run is gone."""
    other = shutil.copytree(pretrained, folder.parent / "other")
    first = begun(folder, {"model": other}, small())
    shutil.rmtree(other)
    job = small()
    with Run(folder, job.state, start_from={"model": other}) as run:
        assert run.resumed_from is not None
        job.fit(run, 1)
    assert not same(first.weights, job.weights)
    assert len(checkpoints(folder)) == 2


def test_what_begins_from_another_run_is_a_fresh_start(pretrained: Path, folder: Path) -> None:
    """A loop by hand begins at its first batch, whether all of the state comes from there or an item of it."""
    for number, start_from in enumerate((pretrained, {"model": pretrained})):
        job = small()
        with Run(folder / str(number), job.state, start_from=start_from) as run:
            assert run.resumed_from is None
            assert run.resume() is None
            assert same(job.weights, weights_in(pretrained))


def test_a_run_goes_back_once(folder: Path, capfd: Any) -> None:
    """The same script, killed and started again, goes on from there; to go back elsewhere is another wish."""
    train(str(folder), keep=KeepAll())
    first, second = (one.name for one in checkpoints(folder)[:2])

    def again(start_from: str) -> str | None:
        job = small()
        run = Run(folder, job.state, save=Every(batches=1), keep=KeepAll(), start_from=start_from)
        for (inputs,) in run.batches(job.loader):
            job.step(inputs)
            break
        run.close()
        return run.resumed_from

    assert again(first) == first
    ahead = checkpoints(folder)[-1].name
    assert again(first) == ahead
    assert f"start_from='{first}': the run went back to it in attempt 2" in capfd.readouterr().err
    assert (again(second), again(first)) == (second, first)


def test_where_it_came_from_is_in_every_checkpoint(pretrained: Path, folder: Path) -> None:
    """Run, checkpoint, digest and items, also after a restart."""
    begun(folder, {"model": pretrained}, small())
    train(str(folder), start_from={"model": str(pretrained)})
    source = latest(pretrained)
    assert source is not None
    for one in checkpoints(folder):
        (origin,) = one.manifest.origins
        assert (origin.run, origin.name, origin.digest) == (
            source.manifest.run, source.name, source.manifest.digest
        )  # fmt: skip
        assert (origin.items, origin.folder) == (("model",), str(pretrained))
    first, second = read_attempts(LocalStorage(folder))
    assert (len(first.origins), len(second.origins)) == (1, 0)


def test_while_it_is_not_loaded_yet_the_other_run_does_not_delete_it(pretrained: Path, folder: Path) -> None:
    """A live run may prune between the beginning and the first batch."""
    other = shutil.copytree(pretrained, folder.parent / "other")
    storage, newest = LocalStorage(other), checkpoints(other)[-1].name
    job = small()
    with Run(folder, job.state, start_from=other) as run:
        assert set(held(storage)) == {newest}
        job.fit(run, 1, lambda _: None if not held(storage) else pytest.fail("still held"))
    run = Run(folder / "again", small().state, start_from=other)
    run.close()
    assert held(storage) == {}


@pytest.mark.parametrize(
    ("start_from", "error", "said"),
    [
        ({}, UsageError, "start_from={}: name an item"),
        (
            {"modle": "x"},
            UsageError,
            r"start_from\['modle'\]='x': is no item of state=. Did you mean 'model'\? There are: model, optimizer",
        ),
        ({"model": 5}, UsageError, r"start_from\['model'\]=5: expected the path"),
        ({"model": ("x",)}, UsageError, "expected a path, or a path and the name"),
        (5, UsageError, "start_from=5: expected the path"),
        ("nowhere", NotFoundError, "start_from='nowhere'"),
        ({"model": "nowhere"}, NotFoundError, r"start_from\['model'\]='nowhere'"),
    ],
)
def test_a_beginning_that_means_nothing_is_refused(folder: Path, start_from: Any, error: Any, said: str) -> None:
    """By its name, before an attempt is claimed."""
    with pytest.raises(error, match=said):
        Run(folder, small().state, start_from=start_from)
    assert not list(folder.glob("attempts/*"))


def test_an_item_that_is_not_there_is_refused(pretrained: Path, folder: Path) -> None:
    """With those that are."""
    with pytest.raises(NotFoundError, match=r"has no item 'ema'. It has: model, optimizer"):
        Run(folder, small().state, start_from={"model": (pretrained, "ema")})


def test_what_does_not_fit_changes_nothing(pretrained: Path, folder: Path) -> None:
    """Neither in the item that does not fit, nor in those that would."""
    job, wide = small(), small(width=9)
    torch.nn.init.zeros_(job.model[0].weight)  # type: ignore[index]
    before = job.weights
    sources = {"model": pretrained, "wide": (pretrained, "model")}
    with pytest.raises(MisfitError, match=r"0\.weight: shape \[8, 2\] in the checkpoint, \[9, 2\] here"):
        Run(folder, {"model": job.model, "wide": wide.model}, start_from=sources)
    assert same(job.weights, before)


def test_another_model_is_told_how_to_take_a_part(pretrained: Path, folder: Path) -> None:
    """By item, or before the loop what of an item fits: not what somebody has to hear whose run is resumed."""
    with pytest.raises(MisfitError, match=r"name them: start_from=.*strict=False") as refused:
        Run(folder, small(width=9).state, start_from=pretrained)
    assert "of the run, under the same names" not in str(refused.value)


@pytest.mark.parametrize("damage", [lambda data: data[:-1] + b"\1", lambda data: data[:-1]])
@pytest.mark.parametrize("whole", [True, False])
def test_a_damaged_newest_is_named_and_an_older_one_stands_in(
    pretrained: Path, folder: Path, damage: Any, whole: bool
) -> None:
    """As on a resume, whether the size tells or the bytes; one that was asked for by name has no substitute."""
    other = shutil.copytree(pretrained, folder.parent / "other")
    older, newest = checkpoints(other)
    shard = newest.path / "model.safetensors"
    shard.write_bytes(damage(shard.read_bytes()))
    with pytest.warns(HoldfastWarning, match=f"start_from=: {newest.name}.* It is skipped"):
        run = Run(folder, (job := small()).state, start_from=other if whole else {"model": other})
    with run:
        run.save()
    wanted = small()
    older.load_into(model=wanted.model)
    assert same(job.weights, wanted.weights)
    with pytest.raises(CorruptError):
        Run(folder.parent / "named", small().state, start_from=newest.path)
    shutil.rmtree(older.path)
    with pytest.warns(HoldfastWarning), pytest.raises(CorruptError, match="none of this folder's checkpoints"):
        Run(folder.parent / "none", small().state, start_from=other)


def test_the_line_is_followed_into_the_other_run(pretrained: Path, folder: Path, capsys: Any) -> None:
    """`holdfast show --lineage` names every attempt, and what each began from or resumed from."""
    from holdfast.cli import main

    begun(folder, {"model": pretrained}, small())
    train(str(folder), start_from={"model": str(pretrained)})
    capsys.readouterr()
    assert main(["show", str(folder), "--lineage"]) == 0
    words = " ".join(capsys.readouterr().out.split())
    newest, first = checkpoints(folder)[-1].name, checkpoints(folder)[0].name
    assert words.startswith(f"{folder} run ")
    assert f"{newest} ← attempt 2, started" in words
    assert f"resumed from {first}" in words
    assert f"← model from {checkpoints(pretrained)[-1].name} of run" in words
    assert f"{pretrained} run" in words
    assert words.endswith("began afresh")


def test_the_line_ends_where_the_other_run_is_gone(pretrained: Path, folder: Path, capsys: Any) -> None:
    """What is known of it is in the manifest; as JSON for programs."""
    import json

    from holdfast.cli import main

    other = shutil.copytree(pretrained, folder.parent / "other")
    begun(folder, other, small())
    shutil.rmtree(other)
    capsys.readouterr()
    assert main(["show", str(folder), "--lineage", "--json"]) == 0
    (link,) = json.loads(capsys.readouterr().out)
    assert link["attempt"] == 1
    assert link["origins"][0]["folder"] == str(other)
    assert link["origins"][0]["items"] == ["model", "optimizer"]
