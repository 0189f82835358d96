"""How other checkpointers fail, as far as it concerns one process: holdfast does not, one test for each."""

from __future__ import annotations

import os
import pickle
import resource
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from holdfast import (
    AtEnd,
    CorruptError,
    Every,
    ExactnessWarning,
    HoldfastWarning,
    KeepBest,
    KeepLast,
    MisfitError,
    OnBest,
    OnSignal,
    Run,
    SaveError,
    Saver,
    checkpoints,
    latest,
)
from tests.harness.history import History, assert_nothing_lost
from tests.harness.small import Small, small, train, untouched
from tests.harness.trainers import await_condition


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of 8 batches, with one checkpoint. Not to be changed."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    train(str(folder), save=AtEnd())
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def copy(trained: Path, folder: Path) -> Path:
    """A copy of the finished run, to be damaged."""
    return shutil.copytree(trained, folder)


def interrupted(folder: Path, at: int, **options: Any) -> Small:
    """A run that is stopped by a signal in the batch after the first ``at``, whose state is saved."""
    job = small()
    with pytest.raises(SystemExit), Run(folder, job.state, **options) as run:
        job.fit(run, 2, lambda batches: batches == at and os.kill(os.getpid(), signal.SIGTERM))
    return job


def resumed(folder: Path, job: Small | None = None, **options: Any) -> Small:
    job = job or small()
    with Run(folder, job.state, **options) as run:
        job.fit(run)
    return job


def refused(folder: Path, error: type[Exception], match: str, **changes: Any) -> None:
    """A run over ``folder`` is refused, and no weight is changed."""
    job = small()
    before = job.weights
    with pytest.raises(error, match=match):
        Run(folder, {**job.state, **changes})
    assert all(map(torch.equal, job.weights, before))


def same(one: Small, other: Small) -> bool:
    return all(map(torch.equal, one.weights, other.weights))


class TestNotCrashSafe:
    def test_composer_writes_straight_into_the_final_name(self, folder: Path, writer_fault: Any) -> None:
        """While a save is being written, nothing of it stands under a checkpoint's name."""
        writer_fault(action="stop", function="fsync", call=3)
        job = small()
        run = Run(folder, job.state)
        run.save()
        await_condition((folder.parent / "token.0").exists, lambda: "the writer at its third fsync")
        await_condition(lambda: _state(_writer(run)) == "T", lambda: "the writer to stop")
        assert History(folder).checkpoints == []
        assert [".partial-" in name for name in History(folder).debris] == [True]
        os.kill(_writer(run), signal.SIGCONT)
        run.close()
        assert_nothing_lost(History(folder), 3)

    def test_torch_save_truncates_in_place(self, copy: Path, writer_fault: Any) -> None:
        """A save that fails has not touched the bytes of the one before."""
        (checkpoint,) = copy.glob("step-*")
        before = {path.name: path.read_bytes() for path in checkpoint.iterdir()}
        writer_fault(action="error", function="fsync", errno=28)
        job = small()
        with pytest.warns(HoldfastWarning, match="failed"), Run(copy, job.state, save=Every(batches=2)) as run:
            job.fit(run, 3)
        assert {path.name: path.read_bytes() for path in checkpoint.iterdir()} == before

    def test_dcp_overwrites_old_bytes_under_old_metadata(self, folder: Path) -> None:
        """The same step saved again, by a later attempt too, is another checkpoint; none is ever written over."""
        for _ in range(2):
            job = small()
            with Run(folder, job.state) as run:
                job.fit(run, 1)
                run.save()
        assert len(set(History(folder).announced)) == len(History(folder).events("saved")) == 3

    def test_dcp_syncs_its_metadata_while_it_is_empty(self, folder: Path, writer_fault: Any) -> None:
        """Killed right after the manifest's fsync, the manifest in the try is complete."""
        writer_fault(action="stop", function="fsync", call=4, when="after")
        run = Run(folder, small().state)
        run.save()
        await_condition((folder.parent / "token.0").exists, lambda: "the writer at its fourth fsync")
        await_condition(lambda: _state(_writer(run)) == "T", lambda: "the writer to stop")
        manifests = list(folder.glob("*.partial-*/manifest.json"))
        sizes = [path.stat().st_size for path in manifests]
        os.kill(_writer(run), signal.SIGCONT)
        run.close()
        assert sizes == [path.stat().st_size for path in folder.glob("step-*/manifest.json")]

    def test_safetensors_renames_but_never_syncs(self, folder: Path, writer_fault: Any) -> None:
        """Every file, the manifest and the folder are synced before the rename, and the parent after it."""
        writer_fault(action="count")
        with Run(folder, small().state) as run:
            run.save()
        calls = (folder.parent / "token").read_text().split()
        calls = calls[calls.index("mkdir") :]
        rename = calls.index("rename")
        files = list(next(folder.glob("step-*")).iterdir())
        assert calls[:rename].count("fsync") == len(files) + 1
        assert calls[rename:].count("fsync") == 1

    @pytest.mark.parametrize("file", ["optimizer.safetensors", "rng.safetensors", "manifest.json"])
    def test_transformers_resumes_silently_with_fresh_state(self, copy: Path, file: str) -> None:
        """A part that is missing is an error, not a fresh optimizer or random state."""
        next(copy.glob(f"step-*/{file}")).unlink()
        with pytest.warns(HoldfastWarning, match=file):
            refused(copy, CorruptError, "none of the run.s 1 checkpoints can be loaded")


class TestSilentSuccess:
    def test_dcp_says_ok_under_a_file_size_limit(self, folder: Path) -> None:
        """A shard that was cut short is a failed save, and whoever waits for it gets the error."""
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
        try:
            run = Run(folder, small(4096).state)
            run.save()
            with pytest.warns(HoldfastWarning, match="file-size limit"), pytest.raises(SaveError, match="ulimit -f"):
                run.wait()
            with pytest.raises(SaveError):
                run.close()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert History(folder).checkpoints == []

    def test_a_flipped_bit_loads(self, copy: Path) -> None:
        """The block digests see it before any weight is touched."""
        shard = next(copy.glob("step-*/model.safetensors"))
        data = bytearray(shard.read_bytes())
        data[-1] ^= 1
        shard.write_bytes(data)
        with pytest.warns(HoldfastWarning, match="not the ones that were committed"):
            refused(copy, CorruptError, "can be loaded")

    def test_loading_casts_dtypes_silently(self, trained: Path) -> None:
        """A half-precision model does not take the single-precision checkpoint, where 70000 would become inf."""
        job = small()
        job.model.half()
        with pytest.raises(MisfitError, match="float16"):
            Run(trained, job.state)

    def test_extra_keys_are_ignored(self, trained: Path) -> None:
        """What the checkpoint has and the model lacks is named."""
        refused(trained, MisfitError, r"0\.bias", model=nn.Sequential(nn.Linear(2, 8, bias=False), nn.Dropout()))

    def test_a_missing_middle_shard_leaves_stale_values(self, copy: Path) -> None:
        """Without a shard, nothing is loaded at all."""
        next(copy.glob("step-*/model.safetensors")).unlink()
        with pytest.warns(HoldfastWarning, match="is missing"):
            refused(copy, CorruptError, "can be loaded")

    def test_keras_skips_the_optimizer_with_a_mere_warning(self, trained: Path) -> None:
        """Another kind of optimizer is refused."""
        job = small()
        with pytest.raises(MisfitError, match="optimizer"):
            Run(trained, {"model": job.model, "optimizer": torch.optim.SGD(job.model.parameters(), 0.1, momentum=0.9)})

    def test_tensorflow_restores_nothing_for_a_wrong_root(self, trained: Path) -> None:
        """An item of another name is named from both sides."""
        job = small()
        with pytest.raises(MisfitError) as caught:
            Run(trained, {"net": job.model, "optimizer": job.optimizer})
        assert "model: is in the checkpoint but not in state=" in str(caught.value)
        assert "net: is in state= but not in the checkpoint" in str(caught.value)


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("exploded",)


class TestCodeExecution:
    def test_dcp_metadata_is_a_pickle(self, copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A pickle in the place of any file is a typed error, and does not run."""
        monkeypatch.chdir(copy.parent)
        for path in next(copy.glob("step-*")).iterdir():
            path.write_bytes(pickle.dumps(Bomb()))
        with pytest.warns(HoldfastWarning, match="skipped"):
            refused(copy, CorruptError, "can be loaded")
        assert not Path("exploded").exists()

    def test_composer_evaluates_what_the_checkpoint_says(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Text that reads like code comes back as that text."""
        monkeypatch.chdir(folder.parent)
        code = "__import__('os').mkdir('exploded')"
        with Run(folder, small().state, config={"algorithm": code}) as run:
            run.values["algorithm"] = code
            run.save()
        with Run(folder, small().state, config={"algorithm": code}) as run:
            run.resume()
            assert run.values["algorithm"] == code
        newest = latest(folder)
        assert newest is not None
        assert newest.config == {"algorithm": code}
        assert not Path("exploded").exists()


class TestWrongCounting:
    def test_lightning_counts_two_optimizers_twice(self, folder: Path) -> None:
        """A batch in which both step is one step."""
        models = [nn.Linear(2, 2) for _ in range(2)]
        optimizers = [torch.optim.SGD(model.parameters(), 0.1) for model in models]
        state = dict(zip(("model0", "model1", "optimizer0", "optimizer1"), (*models, *optimizers), strict=True))
        with Run(folder, state) as run:
            for _ in run.epochs(1):
                for batch in run.batches([torch.ones(1, 2)] * 6):
                    for model, optimizer in zip(models, optimizers, strict=True):
                        optimizer.zero_grad()
                        model(batch).sum().backward()
                        optimizer.step()
        assert (run.progress.step, run.progress.batches) == (6, 6)

    def test_lightning_never_saves_under_manual_optimisation(self, folder: Path) -> None:
        """Whoever calls the raw optimizer, wherever in the batch: its steps count and saves come."""
        job = small()
        raw_step = type(job.optimizer).step
        with Run(folder, job.state, save=Every(steps=2)) as run:
            for _ in run.epochs(1):
                for (inputs,) in run.batches(job.loader):
                    run.wait()
                    job.model(inputs).sum().backward()
                    raw_step(job.optimizer)
                    job.optimizer.zero_grad()
        assert [one.progress.step for one in checkpoints(folder)] == [2, 4]

    def test_lightning_ignores_a_time_interval(self, folder: Path) -> None:
        """Minutes count in a loop of one's own too."""
        job = small()
        with Run(folder, job.state, save=Every(minutes=1e-9), keep=KeepLast(10)) as run:
            run.resume()
            for batch, (inputs,) in enumerate(job.loader, 1):
                job.step(inputs)
                run.batch_end(epoch=0, batch=batch)
                run.wait()
        assert [one.progress.batches for one in checkpoints(folder)] == [1, 2, 3, 4]

    def test_lightning_triggers_exclude_each_other(self, folder: Path) -> None:
        """Several reasons at one boundary make one checkpoint, which names them all."""
        train(str(folder), save=Every(batches=2) | Every(steps=2) | Every(epochs=2) | AtEnd(), keep=KeepLast(10))
        found = checkpoints(folder)
        assert len({one.progress.batches for one in found}) == len(found)
        reasons = set(", ".join(found[-1].manifest.reason).split(", "))
        assert reasons >= {"every 2 batches", "every 2 steps", "every 2 epochs"}


class TestNothingAtTheEnd:
    def test_lightning_keeps_5_and_10_of_12_steps(self, folder: Path) -> None:
        """The twelfth is there."""
        job = small()
        with Run(folder, job.state, save=Every(steps=5)) as run:
            for (inputs,) in run.steps(job.loader, 12):
                job.step(inputs)
        newest = latest(folder)
        assert newest is not None
        assert newest.progress.step == 12

    def test_minimind_updates_after_its_save(self, folder: Path) -> None:
        """The update behind the inner loop is in the last checkpoint, and in the weights that it holds."""
        job = small()
        with Run(folder, job.state, save=Every(epochs=1)) as run:
            for _ in run.epochs(2):
                for batch, (inputs,) in run.batches(job.loader, enumerate=True):
                    job.model(inputs).sum().backward()
                    if batch == 2:
                        job.optimizer.step()
                        job.optimizer.zero_grad()
                job.optimizer.step()
                job.optimizer.zero_grad()
        newest = latest(folder)
        assert newest is not None
        assert newest.progress.step == 4
        loaded = small()
        newest.load_into(model=loaded.model)
        assert same(loaded, job)

    def test_minimind_resumes_from_half_precision(self, trained: Path) -> None:
        """The file holds the dtype of the model, bit for bit."""
        from safetensors.torch import load_file

        weights = load_file(next(trained.glob("step-*/model.safetensors")))
        for name, tensor in untouched().model.state_dict().items():
            assert weights[name].dtype == torch.float32
            assert torch.equal(weights[name], tensor)

    def test_composer_has_no_save_on_a_signal(self, folder: Path) -> None:
        """The boundary after the signal is in a checkpoint, and the restart goes on from it."""
        interrupted(folder, at=3)
        newest = latest(folder)
        assert newest is not None
        assert newest.progress.batches == 4
        assert same(resumed(folder), untouched())


class Counting(Dataset[torch.Tensor]):
    """Tells which samples were really loaded."""

    def __init__(self) -> None:
        self.loaded: list[int] = []

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> torch.Tensor:
        self.loaded.append(index)
        return torch.full((1, 2), float(index))


class TestNotExact:
    def test_lightning_saves_no_random_state(self, folder: Path) -> None:
        """Dropout goes on with the numbers it would have had."""
        interrupted(folder, at=2)
        assert same(resumed(folder), untouched())

    def epoch(self, folder: Path, stop_at: int | None, workers: int = 0) -> tuple[list[int], list[int]]:
        """The samples that were trained on and that were loaded."""
        torch.manual_seed(1)
        data, model, seen = Counting(), nn.Linear(2, 2), []
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        run = Run(folder, {"model": model, "optimizer": optimizer})
        try:
            for _ in run.epochs(1):
                for batch in run.batches(DataLoader(data, batch_size=2, shuffle=True, num_workers=workers)):
                    seen += [int(one) for one in batch[:, 0, 0]]
                    model(batch).sum().backward()
                    optimizer.step()
                    optimizer.zero_grad()
                    if run.progress.batches == stop_at:
                        os.kill(os.getpid(), signal.SIGTERM)
        except SystemExit:
            pass
        run.close()
        return seen, data.loaded

    def test_lightning_replays_the_first_batches_of_the_epoch(self, folder: Path) -> None:
        """Before and after the stop, every sample is seen exactly once."""
        first, _ = self.epoch(folder, stop_at=2)
        second, _ = self.epoch(folder, stop_at=None)
        assert len(first) == 6
        assert sorted(first + second) == list(range(12))

    def test_composer_really_loads_every_skipped_batch(self, folder: Path) -> None:
        """A resume asks the dataset for nothing but what is left."""
        first, _ = self.epoch(folder, stop_at=2)
        second, loaded = self.epoch(folder, stop_at=None)
        assert loaded == second
        assert not set(loaded) & set(first)

    def test_stateful_dataloader_needs_the_same_number_of_workers(self, folder: Path) -> None:
        """With another number, the samples that are left come, each once."""
        first, _ = self.epoch(folder, stop_at=2)
        with pytest.warns(ExactnessWarning, match="this loader has workers"):
            second, _ = self.epoch(folder, stop_at=None, workers=1)
        assert sorted(first + second) == list(range(12))


class TestRetention:
    def test_books_in_memory_leak_old_files_after_a_resume(self, folder: Path) -> None:
        """What earlier attempts left is counted and removed."""
        for at in (1, 3, 5):
            interrupted(folder, at=at, save=Every(batches=1) | OnSignal(), keep=KeepLast(2))
        resumed(folder, save=Every(batches=1), keep=KeepLast(2))
        assert len(History(folder).checkpoints) == 2

    def test_a_moved_folder_forgets_what_it_held(self, folder: Path) -> None:
        """Retention asks the storage."""
        interrupted(folder, at=4, save=Every(batches=1) | OnSignal(), keep=KeepLast(2))
        moved = Path(shutil.move(folder, folder.parent / "moved"))
        resumed(moved, save=Every(batches=1), keep=KeepLast(2))
        assert len(History(moved).checkpoints) == 2

    def test_a_moved_folder_forgets_the_best(self, folder: Path) -> None:
        """What was best before is neither deleted for something worse, nor saved again."""
        losses = [3.0, 1.0, 2.0, 4.0]
        for place, epochs in ((folder, 2), (folder.parent / "moved", 4)):
            if epochs == 4:
                shutil.move(folder, place)
            job = small()
            with Run(place, job.state, save=OnBest("loss"), keep=KeepBest("loss") | KeepLast(1)) as run:
                for epoch in run.epochs(epochs):
                    for (inputs,) in run.batches(job.loader):
                        job.step(inputs)
                    run.log(loss=losses[epoch])
        assert [one.metrics["loss"] for one in checkpoints(folder.parent / "moved")] == [1.0, 4.0]

    def test_failed_saves_push_out_good_ones(self, folder: Path, writer_fault: Any) -> None:
        """However many fail, what was committed before stays."""
        train(str(folder), keep=KeepLast(2))
        before = History(folder).checkpoints
        writer_fault(action="error", function="rename", errno=28, times=100)
        job = small()
        run = Run(folder, job.state, save=Every(batches=1), keep=KeepLast(2))
        with pytest.warns(HoldfastWarning, match="failed"):
            job.fit(run, 4, lambda _: run._session.saves.wait())
        with pytest.raises(SaveError):
            run.close()
        assert History(folder).checkpoints == before

    def test_a_second_folder_of_the_users_own_is_left_alone(self, folder: Path) -> None:
        """Also one that a saver is given and that has other files in it."""
        other = folder.parent / "other"
        other.mkdir()
        mine = [other / name for name in ("notes.txt", "my.partial-notes", "step-1")]
        for path in mine:
            path.write_text("mine")
        train(str(folder), savers=[Saver(), Saver(other, save=Every(batches=1), keep=KeepLast(1))], save=None)
        assert [path.read_text() for path in mine] == ["mine"] * 3

    def test_accelerate_deletes_the_oldest_before_writing(self, copy: Path, writer_fault: Any) -> None:
        """With room for one only, a save that fails leaves the old one."""
        before = History(copy).checkpoints
        writer_fault(action="error", function="rename", errno=28, times=10)
        job = small()
        run = Run(copy, job.state, keep=KeepLast(1))
        with pytest.warns(HoldfastWarning, match="failed"):
            job.fit(run, 3)
        with pytest.raises(SaveError):
            run.close()
        assert History(copy).checkpoints == before
        assert_nothing_lost(History(copy), 1)

    def test_torchtitan_counts_directories(self, copy: Path) -> None:
        """Empty, partial and foreign ones push out no good checkpoint."""
        (good,) = History(copy).checkpoints
        for number in (2, 3, 4):
            (copy / f"step-0000001{number}.a0001.n000{number}").mkdir()
        job = small()
        with pytest.warns(HoldfastWarning, match="never committed"), Run(copy, job.state, keep=KeepLast(2)) as run:
            job.fit(run, 3)
        assert good in History(copy).checkpoints

    def test_transformers_rotates_by_modification_time(self, folder: Path) -> None:
        """Times that a copy has turned around change neither what is resumed nor what is removed."""
        interrupted(folder, at=5, save=Every(batches=2) | OnSignal(), keep=KeepLast(3))
        names = History(folder).checkpoints
        for age, name in enumerate(names):
            os.utime(folder / name, (1e9 - age, 1e9 - age))
        job = small()
        with Run(folder, job.state, keep=KeepLast(2)) as run:
            assert run.resumed_from == names[-1]
            job.fit(run)
        assert History(folder).checkpoints == [names[-1], History(folder).checkpoints[-1]]

    def test_backup_and_restore_removes_the_users_own_files(self, folder: Path) -> None:
        """Also if they look like debris."""
        folder.mkdir()
        mine = [folder / name for name in ("notes.txt", "my.partial-notes", ".deleting-later", "step-1")]
        for path in mine:
            path.write_text("mine")
        train(str(folder), keep=KeepLast(1))
        train(str(folder), epochs=3, keep=KeepLast(1))
        assert [path.read_text() for path in mine] == ["mine"] * 4


class TestBooksBeforeBytes:
    def test_a_checkpoint_is_announced_before_it_is_there(self, folder: Path) -> None:
        """When `on_event` hears of it, it can be read in full."""
        heard: list[str] = []

        def listen(event: Any) -> None:
            if event.kind == "saved":
                next(one for one in checkpoints(folder) if one.name == event.data["name"]).verify()
                heard.append(event.data["name"])

        job = small()
        with Run(folder, job.state, save=Every(batches=2)) as run:
            run.on_event = listen
            job.fit(run, each=lambda _: run.wait())
        assert len(heard) == 4

    def test_a_latest_pointer_is_published_before_the_bytes(self, folder: Path) -> None:
        """There is no pointer: a planted one is not followed."""
        train(str(folder))
        newest = History(folder).checkpoints[-1]
        (folder / "latest").symlink_to(History(folder).checkpoints[0])
        with Run(folder, small().state) as run:
            assert run.resumed_from == newest


class TestSignals:
    def test_lightning_saves_inside_the_signal_handler(self, folder: Path) -> None:
        """The handler only takes a note: no snapshot is taken in the midst of a batch."""
        job = small()

        def each(batches: int) -> None:
            if batches == 3:
                os.kill(os.getpid(), signal.SIGTERM)
                assert History(folder).events("snapshot") == []

        with pytest.raises(SystemExit), Run(folder, job.state) as run:
            job.fit(run, 2, each)
        assert [one.progress.batches for one in checkpoints(folder)] == [4]

    def test_lightning_never_prunes_what_signals_saved(self, folder: Path) -> None:
        """They count like any other."""
        for at in range(5):
            interrupted(folder, at=at, save=OnSignal(), keep=KeepLast(2))
        assert [one.progress.batches for one in checkpoints(folder)] == [4, 5]


class TestSideEffects:
    def test_getting_the_state_runs_an_optimizer_step(self, folder: Path) -> None:
        """A save before the first batch leaves optimizer, weights and random state as they are."""
        job = small()
        weights, random = job.weights, torch.get_rng_state()
        with Run(folder, job.state) as run:
            run.save()
            run.wait()
            assert job.optimizer.state_dict()["state"] == {}
            assert all(map(torch.equal, job.weights, weights))
            assert torch.equal(torch.get_rng_state(), random)


class TestConflicts:
    def test_composer_drops_save_arguments_when_a_saver_is_given(self, folder: Path) -> None:
        """The saver counts, a warning names both values and who says so, and what it leaves open is the argument's."""
        saver = Saver(save=Every(batches=3))
        said = r"save: savers\[0\] says Every\(batches=3\), and that counts; Run\(save=\) says Every\(batches=1\)"
        job = small()
        with pytest.warns(HoldfastWarning, match=said):
            run = Run(folder, job.state, savers=[saver], save=Every(batches=1), keep=KeepLast(2))
        with run:
            job.fit(run, 3, lambda _: run.wait())
        assert [one.progress.batches for one in checkpoints(folder)] == [9, 12]

    def test_two_savers_overwrite_each_other(self, folder: Path) -> None:
        """Two in one folder that save at one boundary make one checkpoint, and each keeps its own."""
        job = small()
        savers = [
            Saver(save=Every(batches=2), keep=KeepLast(1)),
            Saver(save=Every(batches=4), keep=KeepLast(2), items=["model"]),
        ]
        with Run(folder, job.state, savers=savers) as run:
            job.fit(run, 3, lambda _: run.wait())
        found = checkpoints(folder)
        assert [one.progress.batches for one in found] == [8, 12]
        assert found[-1].items == ("model", "optimizer")
        assert "every 2 batches" in found[-1].reason
        assert "every 4 batches" in found[-1].reason

    def test_overwrite_against_autoresume_loops_for_ever(self, folder: Path) -> None:
        """The same command works the first time, after every stop, and when all is done."""
        for at in (1, 2, 5):
            interrupted(folder, at=at)
        for _ in range(2):
            assert same(resumed(folder), untouched())


def _writer(run: Run) -> int:
    return run._session.saves.checkpointer.writer.pid


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
