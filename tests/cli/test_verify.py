"""``holdfast verify``."""

import shutil
import sys

import pytest

from holdfast.storage.local import LocalStorage
from tests import damage

NEWEST = "step-00000012.a0002.n0002"
DAMAGES = damage.SEEN_AT_ONCE | damage.SEEN_BY_READING


def test_an_intact_run_verifies(holdfast, run_folder, picture):
    """Every checkpoint is named, the exit code is 0, and nothing on disk changes."""
    before = picture(run_folder)
    done, careful = holdfast("verify", run_folder), holdfast("verify", run_folder, "--tampering")
    assert picture(run_folder) == before
    assert (done.code, careful.code) == (0, 0)
    assert done.out.count("✓ step-") == 4
    assert "every byte is as it was committed" in careful.out


def test_one_checkpoint_verifies(holdfast, newest):
    """The path of a checkpoint verifies it alone."""
    done = holdfast("verify", newest, "--json")
    assert done.code == 0
    assert done.json == {
        "folder": str(newest.parent),
        "ok": True,
        "checkpoints": [{"name": NEWEST, "ok": True, "error": None, "shared": {}, "copy": None}],
        "error": None,
    }


@pytest.mark.parametrize(("harm", "kind"), DAMAGES.items(), ids=lambda one: getattr(one, "__name__", one))
def test_damage_is_found_and_named(holdfast, run_folder, newest, harm, kind, picture):
    """Whatever is wrong with one checkpoint, it alone is reported, by kind and exit code, and nothing changes."""
    harm(newest)
    before = picture(run_folder)
    done, found, one = (
        holdfast("verify", run_folder),
        holdfast("verify", run_folder, "--json"),
        holdfast("verify", newest, "--json"),
    )
    assert picture(run_folder) == before
    assert {done.code, found.code, one.code} == {damage.EXIT_CODES[kind]}
    assert done.out.count("✓ step-") == 3
    assert f"✗ {NEWEST}" in done.out
    assert "1 of 4 checkpoints cannot be loaded" in done.out
    assert found.json["ok"] is False
    assert found.json["error"]["kind"] == kind
    (broken,) = (entry for entry in found.json["checkpoints"] if not entry["ok"])
    assert (broken["name"], broken["error"]["kind"]) == (NEWEST, kind)
    assert [entry["error"] for entry in one.json["checkpoints"]] == [broken["error"]]


def test_corruption_decides_the_exit_code(holdfast, run_folder, newest):
    """Where one checkpoint is of a newer format and another is corrupt, the exit code is 4."""
    first = min(run_folder.glob("step-*"))
    damage.format_is_newer(first)
    damage.shard_has_a_flipped_bit(newest)
    assert holdfast("verify", run_folder).code == 4


def test_tampering_is_found_when_asked_for(holdfast, run_folder, newest):
    """Bytes changed together with their fast digests pass the quick check, and not the cryptographic one."""
    damage.tamper(newest)
    assert holdfast("verify", newest).code == 0
    done = holdfast("verify", run_folder, "--tampering")
    assert done.code == 4
    assert "altered on purpose" in done.words


def test_nothing_to_verify_is_an_error(holdfast, tmp_path):
    """A script that verifies the wrong folder must not take it for a success."""
    (tmp_path / "holdfast.json").write_text("{}")
    done = holdfast("verify", tmp_path, "--json")
    assert done.code == 3
    assert done.json["error"]["kind"] == "not_found"


def test_a_checkpoint_pruned_meanwhile_is_no_damage(holdfast, run_folder, monkeypatch):
    """A live run deletes an old checkpoint while it is being read: the rest verifies."""
    first, read_into = min(run_folder.glob("step-*")), LocalStorage.read_into

    def prune(storage, path, *arguments):
        if path.endswith("safetensors"):
            shutil.rmtree(first, ignore_errors=True)
        return read_into(storage, path, *arguments)

    monkeypatch.setattr(LocalStorage, "read_into", prune)
    done = holdfast("verify", run_folder)
    assert done.code == 0
    assert done.out.count("✓ step-") == 3
    assert first.name not in done.out


def test_a_bar_goes_to_a_terminal_only(holdfast, run_folder, monkeypatch):
    """Progress is shown on standard error if a person sees it, so that the output stays what it was."""
    quiet = holdfast("verify", run_folder)
    assert quiet.err == ""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    shown = holdfast("verify", run_folder)
    assert "verifying" in shown.err
    assert shown.out == quiet.out


def test_one_checkpoint_of_a_run_verifies_by_its_name(holdfast, run_folder):
    """As for `show` and `pin`."""
    done = holdfast("verify", run_folder, NEWEST, "--json")
    assert [one["name"] for one in done.json["checkpoints"]] == [NEWEST]
    assert holdfast("verify", run_folder, "step-00000001.a0001.n0001").code == 3
    assert holdfast("verify", f"{run_folder}/{NEWEST}", NEWEST).code == 2
