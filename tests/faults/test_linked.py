"""A file that several checkpoints share rots, the disk cannot link, or the writer dies while it links."""

from __future__ import annotations

import errno
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from holdfast import HoldfastWarning, KeepLast
from holdfast.cli import main
from holdfast.testing.faults import failing_call
from tests.harness.adapter import FROZEN, adapt, adapted, inodes
from tests.harness.history import History, assert_nothing_lost
from tests.harness.trainers import Trainer, await_condition, start

TRAIN, DIE = "tests.harness.adapter:train", "tests.harness.adapter:die_after_snapshot"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run"


def rot(path: Path) -> None:
    """One bit is another one, and nothing else tells."""
    times = path.stat()
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    with open(path, "r+b") as file:
        file.write(data)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def linked(folder: Path) -> list[bool]:
    return [line["linked"] > 0 for line in History(folder).events("saved")]


def test_rot_in_a_shared_file_is_named_for_all_that_share_it(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    """And for no other: a file of the same content is whole, and so are the checkpoints that have it."""
    adapt(folder, 6)
    assert inodes(folder) == [0, 1, 0, 1, 0, 1]
    names = History(folder).checkpoints
    rot(folder / names[5] / FROZEN)
    assert main(["verify", str(folder)]) == 4
    words = " ".join(capsys.readouterr().out.split())
    for number, name in enumerate(names):
        sign = "✗" if number % 2 else "✓"
        assert f"{sign} {name}" in words
    assert words.count(f"{FROZEN}: bytes 0 to 151,552 are not the ones that were committed") == 3
    assert f"{FROZEN} is one file on disk for {names[1]}, {names[3]}, {names[5]}." in words


def test_the_whole_copy_of_a_rotten_file_is_named_and_mends_it(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    """Copied over the file, it mends all that share it."""
    adapt(folder, 6)
    names = History(folder).checkpoints
    rot(folder / names[5] / FROZEN)
    main(["verify", str(folder), "--json"])
    found = json.loads(capsys.readouterr().out)["checkpoints"]
    whole = f"{names[4]}/{FROZEN}"
    assert [one["copy"] for one in found] == [
        {"damaged": f"{name}/{FROZEN}", "whole": whole} if number % 2 else None for number, name in enumerate(names)
    ]
    main(["verify", str(folder)])
    words = f"{whole} is whole and has the same bytes: copied over {names[5]}/{FROZEN}, it mends that."
    assert words in " ".join(capsys.readouterr().out.split())
    (folder / names[5] / FROZEN).write_bytes((folder / whole).read_bytes())
    assert main(["verify", str(folder)]) == 0


def test_a_resume_falls_back_to_the_checkpoint_before_the_rotten_one(folder: Path) -> None:
    """Two in a row never share a file. The rotten one is linked to no more, and the run ends as it should."""
    with pytest.raises(RuntimeError):
        adapt(folder, 8, lambda number, _: _crash() if number == 7 else None)
    names = History(folder).checkpoints
    rot(folder / names[5] / FROZEN)
    with pytest.warns(HoldfastWarning, match=names[5]) as caught:
        model = adapt(folder, 8)
    assert len(caught) == 1
    history = History(folder)
    assert history.attempts[-1]["resumed_from"] == names[4]
    bad = os.stat(folder / names[5] / FROZEN).st_ino
    newer = [name for name in history.checkpoints if ".a0002." in name]
    assert len(newer) == 3
    assert bad not in {os.stat(folder / name / FROZEN).st_ino for name in newer}
    assert torch.equal(model.base.weight, adapted()[0].base.weight)


def _crash() -> None:
    raise RuntimeError("crash")


def test_rot_is_told_by_the_save_that_would_have_linked_it(folder: Path) -> None:
    """Its file is written again; the checkpoints that have the rotten one are named."""

    def act(number: int, _: Any) -> None:
        if number == 5:
            rot(folder / History(folder).checkpoints[0] / FROZEN)

    with pytest.warns(HoldfastWarning, match="It is the same file in") as caught:
        adapt(folder, 9, act)
    assert len(caught) == 1
    assert inodes(folder) == [0, 1, 0, 1, 2, 1, 2, 1, 2]


def test_without_hard_links_every_save_writes_everything(folder: Path, writer_fault: Any) -> None:
    """What was not copied is written out of the arena, where it lies."""
    writer_fault(action="error", function="link", errno=errno.EPERM, times=999)
    adapt(folder, 14)
    assert linked(folder) == [False] * 14
    assert len(set(inodes(folder))) == 14
    assert_nothing_lost(History(folder), 14)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("number", [1, 2])
def test_a_writer_killed_around_a_link_is_replaced(folder: Path, tmp_path: Path, number: int, when: str) -> None:
    """The next one links again; of the first one's try nothing is left."""
    fault = {"action": "kill", "function": "link", "call": number, "when": when, "token": str(tmp_path / "token")}
    trainer = start(TRAIN, tmp_path / "output", folder=str(folder), batches=6, writer_faults=[fault])
    assert trainer.wait() == 0, trainer.text
    assert "exact" in trainer.text
    assert "died 1 time" in trainer.text
    history = History(folder)
    assert history.debris == []
    assert inodes(folder) == [0, 1, 0, 1, 0, 1]
    assert_nothing_lost(history, 6)


def test_a_writer_killed_at_a_link_is_replaced_by_one_that_cannot_link(folder: Path, tmp_path: Path) -> None:
    """It writes out of the arena what the trainer had not copied for this save."""
    faults = [
        {"action": "kill", "function": "link", "call": 2, "token": str(tmp_path / "kill")},
        {"action": "error", "function": "link", "call": 1, "errno": errno.EPERM, "token": str(tmp_path / "error")},
    ]
    (tmp_path / "error.0").touch()
    faults[1]["times"] = 1
    trainer = start(TRAIN, tmp_path / "output", folder=str(folder), batches=6, writer_faults=faults)
    await_condition(lambda: (tmp_path / "kill.0").exists() or _is_over(trainer), lambda: trainer.text)
    (tmp_path / "error.0").unlink(missing_ok=True)
    assert trainer.wait() == 0, trainer.text
    assert "exact" in trainer.text
    assert_nothing_lost(History(folder), 6)


def _is_over(trainer: Trainer) -> bool:
    return "exact" in trainer.text or "different" in trainer.text


def test_a_trainer_killed_after_a_snapshot_that_copied_nothing_frozen(folder: Path, tmp_path: Path) -> None:
    """The writer commits it all the same, and a restart goes on from there."""
    trainer = start(DIE, tmp_path / "output", folder=str(folder), at=4)
    assert trainer.wait() == -signal.SIGKILL, trainer.text
    writer = int(trainer.text.split("writer ")[1].split()[0])
    os.kill(writer, signal.SIGCONT)
    await_condition(lambda: len(History(folder).checkpoints) == 4, lambda: History(folder).writer_log)
    assert inodes(folder) == [0, 1, 0, 1]
    again = start(TRAIN, tmp_path / "again", folder=str(folder), batches=5)
    assert again.wait() == 0, again.text
    assert "exact" in again.text
    assert History(folder).attempts[-1]["resumed_from"] == History(folder).checkpoints[3]
    assert_nothing_lost(History(folder), 5)


def test_a_disk_with_room_for_little_more_than_what_changes(small_disk: Path) -> None:
    """Saves that link find room; the whole one does not, says so, and the one behind it links again."""
    folder, ballast = small_disk / "run", small_disk / "ballast"

    def act(number: int, _: Any) -> None:
        if number == 5:
            status = os.statvfs(small_disk)
            ballast.write_bytes(bytes(status.f_bavail * status.f_frsize - (120 << 10)))

    with pytest.warns(HoldfastWarning) as caught:
        adapt(folder, 15, act, keep=KeepLast(2))
    said = [str(one.message) for one in caught if "will need" not in str(one.message)]
    assert [one.split(" failed")[0] for one in said] == [
        f"saving step-{number:08d}.a0001.n{number:04d}" for number in (12, 14)
    ]
    assert all("free some space" in one for one in said)
    history = History(folder)
    assert linked(folder) == [False] * 2 + [True] * 11
    assert history.debris == []
    history.verify_all()


def test_a_reader_that_deletes_the_source_meanwhile(folder: Path) -> None:
    """Somebody empties the folder by hand while the run goes on: what is to be linked is written, and all is whole."""

    def act(number: int, _: Any) -> None:
        if number in (5, 6):
            for name in History(folder).checkpoints:
                for path in (folder / name).iterdir():
                    path.unlink()
                (folder / name).rmdir()

    adapt(folder, 8, act)
    assert linked(folder) == [False, False, True, True, False, False, False, True]
    History(folder).verify_all()


def test_a_link_that_the_system_refuses_in_this_process(folder: Path) -> None:
    """The trainer itself links only small records, which have another way."""
    with failing_call("link", times=999, error=errno.EPERM):
        adapt(folder, 4)
    assert inodes(folder) == [0, 1, 0, 1]
