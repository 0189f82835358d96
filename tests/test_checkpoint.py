"""Checkpoints from the outside: `checkpoints`, `latest`, `Checkpoint` and what loading from one promises."""

import math
import shutil
import signal
from datetime import timedelta

import pytest

torch = pytest.importorskip("torch")

from holdfast import (  # noqa: E402  torch may be missing
    Checkpoint,
    CorruptError,
    HoldfastError,
    HoldfastWarning,
    MisfitError,
    NotFoundError,
    Run,
    UsageError,
    best,
    checkpoints,
    follow,
    latest,
)
from holdfast.state.torch.module import ModuleRestore  # noqa: E402
from holdfast.storage.local import LocalStorage  # noqa: E402
from tests import damage  # noqa: E402
from tests.tiny_run import CONFIG, Tiny, train  # noqa: E402

NAMES = [
    "step-00000006.a0001.n0003",
    "step-00000008.a0001.n0004",
    "step-00000010.a0002.n0001",
    "step-00000012.a0002.n0002",
]
SEEN_AT_ONCE = damage.SEEN_AT_ONCE.items()
by_name = {"ids": lambda one: getattr(one, "__name__", one)}


def bits(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(first, second):
    return all(torch.equal(first[name], second[name]) for name in first | second)


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """Model and optimizer of a run like the finished one, as they were at its end."""
    return train(tmp_path_factory.mktemp("trained") / "run", epochs=3)


# What a folder holds.


def test_checkpoints_are_listed_oldest_first(run_folder):
    """Attempts and their saves in the order in which they were made."""
    assert [one.name for one in checkpoints(run_folder)] == NAMES


def test_latest_is_the_newest(run_folder):
    """It equals the last of all, and is found by a path in any form."""
    assert latest(run_folder) == checkpoints(str(run_folder))[-1]
    assert latest(run_folder) != checkpoints(run_folder)[0]
    assert len({latest(run_folder), *checkpoints(run_folder)}) == 4


def test_latest_passes_over_what_a_rollback_abandoned(run_folder):
    """Abandoned checkpoints are listed, but are not the newest of the run."""
    train(run_folder, epochs=1, start_from=NAMES[1])
    assert [one.name for one in checkpoints(run_folder)] == NAMES
    assert latest(run_folder).name == NAMES[1]


def test_the_best_is_the_one_with_the_best_value(tmp_path):
    """By any metric; NaN is no value, and of equal ones it is the first. If nobody logged it, the others are named."""
    folder, losses = tmp_path / "run", [3.0, 1.0, math.nan, 1.0, 2.0]
    model = torch.nn.Linear(2, 1)
    with Run(folder, {"model": model}, save="every 1 epochs", keep="all") as run:
        for epoch in run.epochs(5):
            for _ in run.batches([torch.ones(1, 2)]):
                run.log(loss=losses[epoch])
            run.wait()
    assert best(folder, "loss").progress.epoch == 2
    assert best(folder, "loss", mode="max").progress.epoch == 1
    with pytest.warns(HoldfastWarning, match="a metric 'los'. Did you mean 'loss'. There are: loss."):
        assert best(folder, "los") is None
    with pytest.raises(UsageError, match="mode"):
        best(folder, "loss", mode="lowest")
    with pytest.raises(NotFoundError):
        best(tmp_path / "nowhere", "loss")


@pytest.mark.parametrize(("harm", "kind"), SEEN_AT_ONCE, **by_name)
def test_a_broken_checkpoint_is_left_out_and_named(run_folder, newest, harm, kind, picture):
    """A warning names it, the one before it is the newest, and nothing on disk changes."""
    harm(newest)
    before = picture(run_folder)
    with pytest.warns(HoldfastWarning, match=NAMES[3]):
        assert [one.name for one in checkpoints(run_folder)] == NAMES[:3]
    with pytest.warns(HoldfastWarning, match="skipped a broken checkpoint"):
        assert latest(run_folder).name == NAMES[2]
    with pytest.raises(HoldfastError) as caught:
        Checkpoint.open(newest)
    assert caught.value.kind == kind
    assert picture(run_folder) == before


def test_a_run_without_checkpoints_has_no_latest(run_folder):
    """A run that has just begun has none, which is no error."""
    for path in run_folder.glob("step-*"):
        shutil.rmtree(path)
    assert checkpoints(run_folder) == []
    assert latest(run_folder) is None


def test_a_folder_of_copied_checkpoints_is_enough(newest, tmp_path):
    """A checkpoint that was copied away can be listed without the rest of its run."""
    shutil.copytree(newest, tmp_path / "kept" / newest.name)
    assert latest(tmp_path / "kept").progress.step == 12


@pytest.mark.parametrize("function", [checkpoints, latest, Checkpoint.open])
def test_what_is_no_run_is_not_found(function, run_folder, tmp_path):
    """A missing folder, a file, and a folder of something else, which is told apart from the runs in it."""
    (tmp_path / "file").write_text("")
    with pytest.raises(NotFoundError, match="missing: is not there"):
        function(tmp_path / "missing")
    with pytest.raises(NotFoundError, match="file: is a file, not a run folder"):
        function(tmp_path / "file")
    with pytest.raises(NotFoundError, match=r"is not a run folder.*It contains runs, though: run\."):
        function(tmp_path)


READERS = [checkpoints, latest, lambda path: best(path, "loss"), Checkpoint.open]


@pytest.mark.parametrize("function", READERS)
@pytest.mark.parametrize("path", ["x" * 300, "/".join(["x" * 200] * 30)], ids=len)
def test_where_no_path_can_lead_nothing_is_found(function, path, tmp_path):
    """A name or a path that is longer than the system takes is not there, as any other that is not there."""
    with pytest.raises(NotFoundError, match=r"is not there: it is longer than a path can be\."):
        function(tmp_path / path)


@pytest.mark.parametrize("function", [*READERS, follow])
def test_what_no_system_takes_for_a_path_is_refused(function):
    """A NUL character ends a path."""
    with pytest.raises(UsageError, match="a path cannot hold a NUL character"):
        function("a\0b")


@pytest.mark.parametrize("function", READERS)
def test_a_link_to_nowhere_is_called_that(function, tmp_path):
    """Its disk may not be mounted: it is neither a file nor missing. One that leads to itself is told of as well."""
    (tmp_path / "run").symlink_to(tmp_path / "disk" / "run")
    with pytest.raises(NotFoundError, match=r"run: is a link to .*disk/run, which is not there"):
        function(tmp_path / "run")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(NotFoundError, match=r"loop: is a link to .*loop, which is not there"):
        function(tmp_path / "loop")


def test_a_folder_below_the_home_is_found_by_its_short_path(run_folder, newest, monkeypatch):
    """A tilde that no shell has expanded stands for the home, in whatever takes a path."""
    monkeypatch.setenv("HOME", str(run_folder.parent))
    assert latest("~/run") == checkpoints("~/run")[-1] == Checkpoint.open(f"~/run/{newest.name}") == latest(run_folder)
    assert next(follow("~/run", latest=True, timeout=0)) == latest(run_folder)


def test_a_run_is_not_a_checkpoint(run_folder):
    """Opening a run as a checkpoint says what to call instead."""
    with pytest.raises(NotFoundError, match=r"use latest\(\) or checkpoints\(\)"):
        Checkpoint.open(run_folder)


def test_a_copy_of_any_name_can_be_opened(newest, tmp_path):
    """A checkpoint is complete by itself."""
    found = Checkpoint.open(shutil.copytree(newest, tmp_path / "best"))
    found.verify(tampering=True)
    assert (found.name, found.folder, found.path) == ("best", tmp_path, tmp_path / "best")


def test_a_checkpoint_pruned_meanwhile_is_gone_and_not_broken(run_folder, monkeypatch):
    """A live run deletes checkpoints between our looking at the folder and at what is in it; no warning is due."""
    first, listed = run_folder / NAMES[0], LocalStorage.list_files

    def prune(storage, name):
        if name == first.name:
            shutil.rmtree(first)
        return listed(storage, name)

    monkeypatch.setattr(LocalStorage, "list_files", prune)
    assert [one.name for one in checkpoints(run_folder)] == NAMES[1:]


# What a checkpoint says.


def test_a_checkpoint_tells_what_it_is(run_folder, newest):
    """Progress, metrics, configuration and origin, as the values they were."""
    found = latest(run_folder)
    assert (found.name, found.folder, found.path) == (NAMES[3], run_folder, newest)
    assert (found.progress.epoch, found.progress.batch, found.progress.step) == (3, 0, 12)
    assert math.isnan(found.metrics["bound"])
    assert isinstance(found.metrics["loss"], float)
    assert found.config == CONFIG
    assert (found.attempt, found.ordinal) == (2, 2)
    assert found.reason == ("every 2 steps", "at end")
    assert found.created.utcoffset() == timedelta(0)
    assert found.size == sum(path.stat().st_size for path in newest.iterdir())
    assert found.manifest.parent.name == NAMES[2]
    assert NAMES[3] in repr(found)


def test_items_are_those_that_can_be_loaded(run_folder):
    """What the run keeps for itself (position, random numbers) is not offered."""
    found = latest(run_folder)
    assert found.items == ("model", "optimizer")
    with pytest.raises(MisfitError, match="rng: missing"):
        found.load_into(rng={})


# Verifying.


@pytest.mark.parametrize(("harm", "kind"), damage.SEEN_BY_READING.items(), **by_name)
def test_a_flipped_bit_is_found(run_folder, newest, harm, kind):
    """Reading every byte finds what sizes do not give away."""
    harm(newest)
    with pytest.raises(CorruptError, match=f"{NAMES[3]}/model.safetensors"):
        latest(run_folder).verify()


def test_tampering_is_found_when_asked_for(run_folder, newest):
    """Who puts the fast digests right is found by the cryptographic one."""
    damage.tamper(newest)
    found = latest(run_folder)
    found.verify()
    with pytest.raises(CorruptError, match="altered on purpose"):
        found.verify(tampering=True)


def test_a_header_that_contradicts_the_manifest_is_found(run_folder, newest):
    """Whoever opens the shard by itself would find another tensor; the error says what to do."""
    damage.rename_in_header(newest, b'"embedding.weight"', b'"embedding.height"')
    with pytest.raises(
        CorruptError, match=r"its header says None of 'embedding\.weight', not .* Use another checkpoint"
    ):
        latest(run_folder).verify()


@pytest.mark.parametrize(("harm", "kind"), SEEN_AT_ONCE, **by_name)
def test_damage_after_opening_is_found(run_folder, newest, harm, kind):
    """Verifying and loading look at the disk again, whatever it held when the checkpoint was opened."""
    found, model = latest(run_folder), Tiny()
    before = bits(model)
    harm(newest)
    for look in (found.verify, lambda: found.load_into(model=model)):
        with pytest.raises(HoldfastError) as caught:
            look()
        assert caught.value.kind == kind
    assert same(bits(model), before)


def test_a_checkpoint_that_was_deleted_is_not_found(run_folder, newest):
    """Retention may remove a checkpoint while somebody looks at it."""
    found = latest(run_folder)
    shutil.rmtree(newest)
    with pytest.raises(NotFoundError, match=f"has no checkpoint '{NAMES[3]}'"):
        found.verify()


def test_a_checkpoint_that_was_replaced_is_refused(run_folder, newest):
    """Another checkpoint under the same name is not the one that was opened."""
    found = latest(run_folder)
    damage.rewrite(newest, metrics={})
    with pytest.raises(CorruptError, match="was replaced"):
        found.verify()


def test_the_manifest_is_not_taken_apart_again(run_folder, monkeypatch):
    """What was opened is known: verifying and loading only look whether its bytes are still the same."""
    found, opened = latest(run_folder), []
    for module in ("holdfast.engine.catalog.open_manifest", "holdfast.engine.catalog.open_outline"):
        monkeypatch.setattr(module, lambda *_, **__: opened.append(1))
    found.verify()
    found.load_into(model=Tiny())
    assert not opened


# Loading.


def test_loads_the_trained_weights(run_folder, trained):
    """Model and optimizer have the same bits as those of the run, and the report says how much was loaded."""
    model = Tiny()
    optimizer = torch.optim.AdamW(model.parameters())
    report = latest(run_folder).load_into(model=model, optimizer=optimizer)
    assert same(bits(model), bits(trained[0]))
    assert torch.equal(optimizer.state_dict()["state"][0]["exp_avg"], trained[1].state_dict()["state"][0]["exp_avg"])
    assert optimizer.param_groups[0]["lr"] == CONFIG["lr"]
    assert model.head.weight is model.embedding.weight
    assert (report.items, report.notes) == (("model", "optimizer"), ())
    assert str(report).startswith(f"{NAMES[3]}: loaded model, optimizer, ")


def test_each_checkpoint_loads_its_own_state(run_folder):
    """An older checkpoint gives older weights."""
    first, last = Tiny(), Tiny()
    checkpoints(run_folder)[0].load_into(model=first)
    checkpoints(run_folder)[-1].load_into(model=last)
    assert int(first.seen) == 24
    assert int(last.seen) == 48


def test_only_the_files_of_the_items_are_read(run_folder, newest):
    """Damage in the optimizer's file does not keep the model from being loaded, and damage in the model's does."""
    damage.flip(newest / "optimizer.safetensors", -1)
    model = Tiny()
    latest(run_folder).load_into(model=model)
    assert int(model.seen) == 48
    optimizer = torch.optim.AdamW(model.parameters())
    with pytest.raises(CorruptError, match=r"optimizer\.safetensors"):
        latest(run_folder).load_into(model=model, optimizer=optimizer)
    assert optimizer.state_dict()["state"] == {}


def test_a_damaged_file_changes_nothing_if_it_is_verified_first(run_folder, newest):
    """Digests are then checked before the first byte goes into the model."""
    damage.shard_has_a_flipped_bit(newest)
    model = Tiny()
    before = bits(model)
    with pytest.raises(CorruptError) as caught:
        latest(run_folder).load_into(model=model, verify_first=True)
    assert same(bits(model), before)
    assert not hasattr(caught.value, "__notes__")


def test_damage_found_on_the_way_is_said_of_the_objects(run_folder, newest):
    """In one pass, bytes are in the model before they are known to be wrong: nobody may take it for what it was."""
    damage.shard_has_a_flipped_bit(newest)
    model = Tiny()
    optimizer = torch.optim.AdamW(model.parameters())
    with pytest.raises(CorruptError) as caught:
        latest(run_folder).load_into(model=model, optimizer=optimizer)
    assert caught.value.__notes__ == ["model: partly overwritten by now. Load another checkpoint before you use it."]
    assert optimizer.state_dict()["state"] == {}


def test_damage_in_what_is_not_read_in_place_changes_nothing(run_folder, newest):
    """The optimizer comes first, and is handed its state only when all of it is known to be right."""
    damage.flip(newest / "optimizer.safetensors", -1)
    model = Tiny()
    before = bits(model)
    with pytest.raises(CorruptError, match=r"optimizer\.safetensors") as caught:
        latest(run_folder).load_into(model=model, optimizer=torch.optim.AdamW(model.parameters()))
    assert same(bits(model), before)
    assert not hasattr(caught.value, "__notes__")


def test_damage_is_said_of_tensors_in_a_dict_that_are_read_in_place(tmp_path):
    """A dict is as half loaded as a model, if a tensor that it holds keeps its identity."""

    def box(value):
        return {"w": torch.full((300_000,), float(value)), "n": value}

    with Run(tmp_path, {"box": box(1), "model": torch.nn.Linear(2, 2)}) as run:
        run.save()
    damage.flip(next(tmp_path.glob("step-*")) / "box.safetensors", -1)
    here, model = box(7), torch.nn.Linear(2, 2)
    with pytest.raises(CorruptError, match=r"box\.safetensors") as caught:
        latest(tmp_path).load_into(box=here, model=model)
    assert caught.value.__notes__ == [
        "box, model: partly overwritten by now. Load another checkpoint before you use it."
    ]
    assert here["n"] == 7


def test_a_misfit_lists_everything_and_changes_nothing(run_folder):
    """Every difference of every item is named before anything is changed, also in the items that would fit."""
    fits, wide = Tiny(), Tiny(width=6)
    wide.extra = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(wide.parameters())
    before = bits(wide), bits(fits)
    with pytest.raises(MisfitError) as caught:
        latest(run_folder).load_into(model=wide, optimizer=optimizer, other=fits)
    problems = "\n".join(caught.value.problems)
    assert "other: missing" in problems
    assert "model/embedding.weight: shape" in problems
    assert "model/norm.bias: shape" in problems
    assert "model/extra.weight: missing" in problems
    assert "optimizer/parameter group 0" in problems
    assert same(bits(wide), before[0])
    assert same(bits(fits), before[1])
    assert "nothing was changed" in str(caught.value)


def test_what_fits_is_loaded_if_that_is_enough(run_folder):
    """With ``strict=False`` the report names what is missing here and there."""
    model = Tiny()
    model.extra = torch.nn.Linear(1, 1)
    del model.seen
    report = latest(run_folder).load_into(strict=False, model=model, other=Tiny())
    assert torch.equal(model.embedding.weight, _loaded(run_folder).embedding.weight)
    assert report.missing == ("other", "model/extra.bias", "model/extra.weight")
    assert report.unexpected == ("model/seen",)
    assert report.items == ("model",)
    assert "model/extra.bias: missing" in str(report)


def test_a_module_that_nothing_fits_is_refused(run_folder):
    """Also with ``strict=False``: under names with another prefix, training would go on from the initial weights."""
    wrapped = torch.nn.ModuleDict({"wrapped": Tiny()})
    before = bits(wrapped)
    with pytest.raises(MisfitError, match=r"model/wrapped\.embedding\.weight: missing") as caught:
        latest(run_folder).load_into(model=wrapped, strict=False)
    assert "model/embedding.weight: unexpected" in str(caught.value)
    assert same(bits(wrapped), before)


def test_nothing_loaded_is_never_a_success(run_folder):
    """Also with ``strict=False`` something has to be loaded."""
    with pytest.raises(MisfitError, match="modle: missing"):
        latest(run_folder).load_into(strict=False, modle=Tiny())


@pytest.mark.parametrize("strict", [True, False])
def test_an_item_of_another_name_is_asked_about(run_folder, strict):
    """A slip of the pen gets the name of the item that is likely meant, unless that is given too."""
    with pytest.raises(MisfitError, match=r"modle: missing.*\. Did you mean 'model'\?"):
        latest(run_folder).load_into(strict=strict, modle=Tiny())
    with pytest.raises(MisfitError) as caught:
        latest(run_folder).load_into(model=Tiny(), modle=Tiny())
    assert "Did you mean" not in str(caught.value)


def test_dtypes_are_converted_only_when_asked_for(run_folder):
    """A model of another dtype is refused, or converted and reported tensor by tensor."""
    model = Tiny().half()
    before = bits(model)
    with pytest.raises(
        MisfitError, match=r"model/embedding.weight: dtype float32 in the checkpoint, float16 here"
    ) as no:
        latest(run_folder).load_into(model=model)
    assert "Build them as they were when they were saved, or convert with cast=True:" in str(no.value)
    assert same(bits(model), before)
    report = latest(run_folder).load_into(cast=True, model=model)
    assert torch.equal(model.embedding.weight, _loaded(run_folder).embedding.weight.half())
    assert "model/embedding.weight" in report.converted
    assert "converted from float32 to float16" in str(report)


def test_an_object_of_another_kind_is_refused(run_folder):
    """What it is here and there is said, and once that nothing was changed."""
    with pytest.raises(MisfitError, match=r"another kind of object \(module; here: container\)") as caught:
        latest(run_folder).load_into(model={})
    assert str(caught.value).count("nothing was changed") == 1


def test_objects_without_a_state_are_refused(run_folder):
    """What could not be changed in place, and a call without anything to load into."""
    with pytest.raises(UsageError, match=r"load_into\(model=…\): expected .* a module, .*; got int\."):
        latest(run_folder).load_into(model=3)
    with pytest.raises(UsageError, match=r"load_into\(model=…\): expected .*; got the class Tiny\."):
        latest(run_folder).load_into(model=Tiny)
    with pytest.raises(UsageError, match="It has: model, optimizer"):
        latest(run_folder).load_into()


class Picky:
    """An object that may refuse its state."""

    refuses = False

    def state_dict(self):
        return {"count": 1}

    def load_state_dict(self, state):
        if self.refuses:
            raise ValueError("not this one")


def test_an_object_that_refuses_its_state_leaves_the_others_as_they_were(tmp_path):
    """What is read in place goes last, so that a refusal comes while nothing has been changed yet."""
    with Run(tmp_path, state={"table": torch.ones(3), "model": torch.nn.Linear(1, 1), "picky": Picky()}) as run:
        run.save()
    table, model, picky = torch.zeros(3), torch.nn.Linear(1, 1), Picky()
    picky.refuses, before = True, bits(model)
    with pytest.raises(MisfitError, match="not this one"):
        latest(tmp_path).load_into(table=table, model=model, picky=picky)
    assert torch.equal(table, torch.zeros(3))
    assert same(bits(model), before)


def _loaded(folder):
    model = Tiny()
    latest(folder).load_into(model=model)
    return model


class Counter:
    """An object whose load somebody may interrupt."""

    interrupts = False

    def __init__(self, count):
        self.count = count

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        if self.interrupts and state["count"] == 1:
            raise KeyboardInterrupt
        self.count = state["count"]


@pytest.mark.parametrize("midway", [False, True])
def test_a_load_that_is_interrupted_takes_back_what_it_can_and_says_the_rest(tmp_path, midway, monkeypatch):
    """What was handed over is put back; what was being read in place cannot be, and is named."""
    with Run(tmp_path, state={"first": Counter(1), "other": Counter(1), "model": torch.nn.Linear(2, 1)}) as run:
        run.save()
    first, other = Counter(5), Counter(5)
    other.interrupts = not midway
    if midway:
        monkeypatch.setattr(ModuleRestore, "apply", lambda _: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt) as caught:
        latest(tmp_path).load_into(first=first, other=other, model=torch.nn.Linear(2, 1))
    assert (first.count, other.count) == (5, 5)
    assert [one.partition(":")[0] for one in getattr(caught.value, "__notes__", [])] == ["model"] * midway


def test_a_misspelt_item_that_is_left_out_is_told_the_one_that_was_meant(run_folder):
    """Whoever loads what fits hears no less than whoever wants all of it."""
    model = Tiny()
    optimizer = torch.optim.AdamW(model.parameters())
    report = latest(run_folder).load_into(modle=model, optimizer=optimizer, strict=False)
    (note,) = report.notes
    assert note.startswith("modle: missing")
    assert note.endswith("left out. Did you mean 'model'?")
