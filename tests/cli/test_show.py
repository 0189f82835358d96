"""``holdfast show``."""

import shutil

import pytest

from tests import damage

OLDEST, NEWEST = "step-00000006.a0001.n0003", "step-00000012.a0002.n0002"


def test_shows_the_newest_checkpoint(holdfast, run_folder, newest):
    """Without a name it is the newest: progress, reason, metrics, config, rates, items, files, origin."""
    done = holdfast("show", run_folder)
    assert done.code == 0
    for words in (
        f"{NEWEST} → a resume tries this one first",
        "epoch 3 · batch 0 · step 12 · 48 samples",
        "every 2 steps, at end",
        "attempt 2, save 2",
        "parent step-00000010.a0002.n0001",
        "bound nan",
        "betas (0.9, 0.99)",
        "data.name digits",
        "optimizer 0.001",
        "model module 4",
        "2 float64, 1 int64, 1 float32",
        "model/head.weight is model/embedding.weight",
        f"model.safetensors {(newest / 'model.safetensors').stat().st_size / 1000:.1f} kB 1 blake3:",
        "packages.torch",
        "1 2",
        "a fresh start",
    ):
        assert words in done.words, words


def test_shows_the_checkpoint_that_is_named(holdfast, run_folder):
    """By name in its run, or by its path, which gives the same page but for the time."""
    by_name = holdfast("show", run_folder, OLDEST).words
    by_path = holdfast("show", run_folder / OLDEST).words
    assert by_name.startswith(OLDEST)
    assert by_name.partition("progress")[2] == by_path.partition("progress")[2]


def test_a_pin_is_shown(holdfast, run_folder):
    """In words and as JSON, of the checkpoint that bears it."""
    holdfast("pin", run_folder, OLDEST)
    assert "pinned stays whatever the keep policy says" in holdfast("show", run_folder, OLDEST).words
    assert "pinned" not in holdfast("show", run_folder).words
    assert holdfast("show", run_folder / OLDEST, "--json").json["pinned"] is True


def test_a_copied_and_renamed_checkpoint_can_be_shown(holdfast, newest, tmp_path):
    """A checkpoint is complete by itself, wherever it is and whatever it is called."""
    copy = shutil.copytree(newest, tmp_path / "elsewhere" / "best")
    found = holdfast("show", copy, "--json").json
    assert (found["name"], found["progress"]["step"], found["resume"]) == ("best", 12, False)


def test_a_link_that_people_made_can_be_shown(holdfast, run_folder, newest):
    """A link of one's own to a checkpoint leads to it."""
    (run_folder / "latest").symlink_to(newest.name)
    assert holdfast("show", run_folder / "latest", "--json").json["name"] == NEWEST


def test_tensors_are_listed_when_asked_for(holdfast, run_folder):
    """Name, dtype, shape, size and file of each tensor, aliases included."""
    assert "tensor dtype shape" not in holdfast("show", run_folder).words
    words = holdfast("show", run_folder, "--tensors").words
    assert "model/embedding.weight float32 8 × 4 128 B model.safetensors" in words
    assert "model/seen int64 scalar 8 B model.safetensors" in words
    assert "model/head.weight is model/embedding.weight" in words


def test_options_and_lineage_are_shown_together(holdfast, run_folder):
    """One below the other, or as an object that has both; one alone is as it always is."""
    both = holdfast("show", run_folder, "--config", "--lineage")
    alone = [holdfast("show", run_folder, one).out for one in ("--config", "--lineage")]
    assert both.out == "\n".join(alone)
    found = holdfast("show", run_folder, "--lineage", "--config", "--json").json
    assert found["config"] == holdfast("show", run_folder, "--config", "--json").json
    assert found["lineage"] == holdfast("show", run_folder, "--lineage", "--json").json


def test_tensors_asked_for_with_options_are_not_forgotten(holdfast, run_folder):
    """The checkpoint's own page comes first."""
    done = holdfast("show", run_folder, "--config", "--tensors")
    assert "model/seen int64 scalar" in done.words.partition("attempt 2, started")[0]
    assert "saver[0].keep" in done.words.partition("attempt 2, started")[2]


def test_json_holds_everything(holdfast, run_folder):
    """Items, files with digests, tagged configuration, environment and attempts, by name."""
    found = holdfast("show", run_folder, "--tensors", "--json").json
    assert found["config"]["betas"] == {"$tuple": [0.9, 0.99]}
    assert found["learning_rates"] == {"optimizer": [1e-3]}
    assert found["items"]["model"]["dtypes"] == {"float64": 2, "float32": 1, "int64": 1}
    assert found["items"]["model"]["aliases"] == {"head.weight": "model/embedding.weight"}
    assert {one["name"]: one["shape"] for one in found["items"]["model"]["tensor_list"]}["embedding.weight"] == [8, 4]
    assert found["files"]["model.safetensors"]["digest"].startswith("blake3:")
    assert [one["attempt"] for one in found["attempts"]] == [1, 2]
    assert found["environment"]["packages"]["holdfast"]


def test_names_stay_whole_in_60_columns(holdfast, run_folder):
    """What is shortened for want of room is digests, not names."""
    done = holdfast("show", run_folder, "--tensors", columns=60)
    assert max(map(len, done.out.splitlines())) <= 60
    assert "optimizer.safetensors" in done.out
    assert "blake3:" in done.out


def test_a_newer_broken_checkpoint_is_told(holdfast, run_folder, newest):
    """The newest intact one is shown, and standard error says why it is not a newer one."""
    damage.shard_missing(newest)
    done = holdfast("show", run_folder)
    assert done.code == 0
    assert done.out.startswith("step-00000010.a0002.n0001")
    assert f"skipped a newer checkpoint: {NEWEST}/model.safetensors: is missing" in done.err


@pytest.mark.parametrize(("harm", "kind"), damage.SEEN_AT_ONCE.items(), ids=lambda one: getattr(one, "__name__", one))
def test_a_broken_checkpoint_is_refused(holdfast, run_folder, newest, harm, kind, picture):
    """Asked for by name, it is an error of its kind, and nothing on disk changes."""
    harm(newest)
    before = picture(run_folder)
    done, found = holdfast("show", run_folder, NEWEST), holdfast("show", newest, "--json")
    assert picture(run_folder) == before
    assert (done.code, done.out) == (damage.EXIT_CODES[kind], "")
    assert NEWEST in done.err
    assert found.code == done.code
    assert found.json["error"]["kind"] == kind


def test_an_unknown_name_lists_the_known_ones(holdfast, run_folder):
    """A misspelt checkpoint is not found, and the message has the names to choose from."""
    done = holdfast("show", run_folder, "step-7")
    assert done.code == 3
    assert "has no checkpoint 'step-7'" in done.err
    assert OLDEST in done.err


def test_a_run_without_checkpoints_is_told(holdfast, run_folder):
    """There is nothing to show, which is an error for a script that expects something."""
    for path in run_folder.glob("step-*"):
        shutil.rmtree(path)
    assert holdfast("show", run_folder).code == 3


def test_a_name_behind_a_checkpoint_is_refused(holdfast, newest):
    """The path of a checkpoint leaves nothing to choose."""
    done = holdfast("show", newest, OLDEST)
    assert done.code == 2
    assert "is a checkpoint already" in done.err


def test_values_of_unknown_types_are_shown_as_they_are_stored(holdfast, run_folder, newest):
    """A configuration with a tag that only the training script knows does not keep the rest from being shown."""
    damage.rewrite(newest, config={"dtype": {"$torch.unknown": "float32"}})
    done = holdfast("show", run_folder)
    assert done.code == 0
    assert "$torch.unknown" in done.out
