"""`follow`: checkpoints as they are committed, each held while it is read."""

from __future__ import annotations

import errno
import itertools
import shutil
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from holdfast import Checkpoint, HoldfastWarning, Run, StorageError, UsageError, checkpoints, follow  # noqa: E402
from holdfast import follower as module  # noqa: E402
from holdfast.engine.holds import delete_unless_held, held, hold  # noqa: E402
from holdfast.engine.journal import read_journal  # noqa: E402
from holdfast.format.names import TRAINER_LOCK  # noqa: E402
from holdfast.storage.local import LocalStorage  # noqa: E402
from tests import damage  # noqa: E402
from tests.harness.history import History, order  # noqa: E402
from tests.harness.trainers import start  # noqa: E402
from tests.tiny_run import train  # noqa: E402

NAMES = [
    "step-00000006.a0001.n0003",
    "step-00000008.a0001.n0004",
    "step-00000010.a0002.n0001",
    "step-00000012.a0002.n0002",
]
OFTEN = 0.01
PATIENCE = 60.0
"""Seconds without a new checkpoint after which a test that waits fails."""


def names(found: Iterator[Checkpoint]) -> list[str]:
    return [one.name for one in found]


def crash(folder: Path) -> None:
    """Makes it look as if the newest attempt had been killed."""
    journal = max(folder.glob("journal/*.jsonl"))
    lines = journal.read_bytes().splitlines(keepends=True)
    assert b'"finished"' in lines[-1]
    journal.write_bytes(b"".join(lines[:-1]))


@pytest.fixture
def crashed(run_folder: Path) -> Path:
    """The finished run, but for its end."""
    crash(run_folder)
    return run_folder


@pytest.fixture
def later() -> Iterator[Callable[..., threading.Timer]]:
    """Does something after some seconds, in a thread that does not outlive the test."""
    timers: list[threading.Timer] = []

    def schedule(seconds: float, action: Callable[..., object], *arguments: object) -> threading.Timer:
        timers.append(threading.Timer(seconds, action, arguments))
        timers[-1].start()
        return timers[-1]

    yield schedule
    for timer in timers:
        timer.cancel()
        timer.join()


def hide(folder: Path, *hidden: str) -> Callable[[], None]:
    """Takes checkpoints away. What is returned commits them, in one rename each, as a writer does."""
    for name in hidden:
        (folder / name).rename(folder.parent / name)

    def commit() -> None:
        for name in hidden:
            (folder.parent / name).rename(folder / name)

    return commit


# What is handed out.


def test_a_finished_run_is_handed_out_oldest_first_and_then_over(run_folder: Path) -> None:
    """Without a time limit it ends by itself, since no more will come."""
    assert names(follow(run_folder, poll_seconds=OFTEN)) == NAMES


@pytest.mark.parametrize("gone", [False, True])
def test_a_restarted_evaluator_goes_on_behind_the_last_one(run_folder: Path, gone: bool) -> None:
    """By attempt and number, so that the last one need not be there any more."""
    if gone:
        shutil.rmtree(run_folder / NAMES[1])
    assert names(follow(run_folder, after=NAMES[1], poll_seconds=OFTEN)) == NAMES[2:]
    assert names(follow(run_folder, after=NAMES[3], poll_seconds=OFTEN)) == []


def test_new_ones_come_as_they_are_committed(crashed: Path, later: Callable[..., object]) -> None:
    """They are waited for, each is handed out once, and soon."""
    commits = [hide(crashed, name) for name in NAMES[1:]]
    found = follow(crashed, poll_seconds=OFTEN, timeout=PATIENCE)
    assert next(found).name == NAMES[0]
    for name, commit in zip(NAMES[1:], commits, strict=True):
        later(0.1, commit)
        begin = time.monotonic()
        assert next(found).name == name
        assert 0.05 < time.monotonic() - begin < 10


def test_the_latest_skips_those_between(crashed: Path) -> None:
    """An evaluator that is slower than the training looks at the newest there is each time."""
    commit = hide(crashed, *NAMES[2:])
    found = follow(crashed, latest=True, poll_seconds=OFTEN, timeout=0)
    assert next(found).name == NAMES[1]
    commit()
    assert names(found) == NAMES[3:]


def test_one_of_a_moment_is_had_by_next(run_folder: Path) -> None:
    """The newest, held: neither a loop nor a race with retention."""
    found = follow(run_folder, latest=True, timeout=0)
    assert next(found).name == NAMES[3]
    assert held(LocalStorage(run_folder)).keys() == {NAMES[3]}
    found.close()


def test_those_that_a_rollback_abandoned_are_passed_over(run_folder: Path) -> None:
    """They are no part of the run any more."""
    train(run_folder, epochs=1, start_from=NAMES[1])
    assert names(follow(run_folder, poll_seconds=OFTEN)) == NAMES[:2]


def test_those_of_another_run_are_passed_over(run_folder: Path) -> None:
    """A trainer that lives on after its folder was replaced may commit into it."""
    damage.rewrite(run_folder / NAMES[1], run="another")
    assert names(follow(run_folder, poll_seconds=OFTEN)) == [NAMES[0], *NAMES[2:]]


def test_broken_ones_are_warned_of_once(crashed: Path) -> None:
    """Each is named, at the line of the loop, however often the folder is looked at after that."""
    for name in NAMES[1:3]:
        damage.flip(crashed / name / "manifest.json", -10)
    with pytest.warns(HoldfastWarning) as caught:
        assert names(follow(crashed, poll_seconds=OFTEN, timeout=0.3)) == [NAMES[0], NAMES[3]]
    assert [name for name in NAMES for one in caught if name in str(one.message)] == NAMES[1:3]
    assert {one.filename for one in caught} == {__file__}


def test_those_deleted_before_they_could_be_held_are_passed_over(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Retention was faster; no warning is due, and the next one is handed out."""

    def too_late(storage: LocalStorage, name: str) -> object:
        if name in NAMES[1:3]:
            storage.delete(name)
        return hold(storage, name)

    monkeypatch.setattr(module, "hold", too_late)
    assert names(follow(run_folder, poll_seconds=OFTEN)) == [NAMES[0], NAMES[3]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"after": "step-12"}, "after='step-12'.*step-00000500.a0001.n0003"),
        ({"poll_seconds": 0}, "poll_seconds=0"),
        ({"poll_seconds": float("nan")}, "poll_seconds=nan"),
        ({"timeout": -1.0}, "timeout=-1.0"),
        ({"timeout": float("nan")}, "timeout=nan"),
    ],
)
def test_arguments_that_mean_nothing_are_refused_at_once(
    tmp_path: Path, options: dict[str, object], message: str
) -> None:
    """By the call, not by the first checkpoint hours later."""
    with pytest.raises(UsageError, match=message):
        follow(tmp_path, **options)  # type: ignore[arg-type]


# Each is held while it is read.


def test_each_is_held_until_the_next_is_asked_for(run_folder: Path) -> None:
    """One at a time, and none once the iterator is closed."""
    storage = LocalStorage(run_folder)
    found = follow(run_folder, timeout=0)
    for name in NAMES[:2]:
        assert next(found).name == name
        assert held(storage).keys() == {name}
        assert delete_unless_held(storage, name) is not None
    found.close()
    assert held(storage) == {}
    assert delete_unless_held(storage, NAMES[1]) is None


def test_a_loop_that_is_left_lets_go(run_folder: Path) -> None:
    """By ``break`` or by an exception."""
    storage = LocalStorage(run_folder)
    for checkpoint in follow(run_folder):
        assert held(storage).keys() == {checkpoint.name}
        break
    assert held(storage) == {}
    with pytest.raises(ZeroDivisionError):
        names(1 / 0 for _ in follow(run_folder))  # type: ignore[arg-type]
    assert held(storage) == {}


def test_where_nothing_can_be_held_it_says_so_once(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And hands them out all the same."""

    def refuse(storage: LocalStorage, name: str) -> object:
        raise StorageError(errno.EROFS, "the file system is read-only")

    monkeypatch.setattr(module, "hold", refuse)
    with pytest.warns(HoldfastWarning, match="may be deleted while they are read: .*read-only") as caught:
        assert names(follow(run_folder, poll_seconds=OFTEN)) == NAMES
    assert [one.filename for one in caught] == [__file__]


def test_a_checkpoint_can_be_held_by_itself(run_folder: Path) -> None:
    """`Checkpoint.hold` does for one what `follow` does for each."""
    storage, first = LocalStorage(run_folder), checkpoints(run_folder)[0]
    with first.hold():
        assert held(storage).keys() == {first.name}
        assert delete_unless_held(storage, first.name) is not None
    assert delete_unless_held(storage, first.name) is None
    with pytest.raises(FileNotFoundError, match=f"{first.name} is not there any more"), first.hold():
        pass


def test_retention_waits_for_the_reader(tmp_path: Path) -> None:
    """The trainer goes on and keeps what is held; once it was let go, the next save deletes it."""
    with Run(tmp_path, state={"table": torch.zeros(3)}, keep="last 1") as run:
        first, second, third = (_save(run) for _ in range(3))
        assert names(iter(checkpoints(tmp_path))) == [third]
        with checkpoints(tmp_path)[0].hold():
            fourth, fifth = _save(run), _save(run)
            assert names(iter(checkpoints(tmp_path))) == [third, fifth]
        sixth = _save(run)
        assert names(iter(checkpoints(tmp_path))) == [sixth]
    assert len({first, second, third, fourth, fifth, sixth}) == 6


def _save(run: Run) -> str:
    run.save()
    run.wait()
    return checkpoints(run.folder)[-1].name


# When it ends.


def test_it_ends_when_there_was_none_for_a_while(crashed: Path) -> None:
    """The time is counted from when the next one was asked for: a slow evaluation does not use it up."""
    commit = hide(crashed, NAMES[3])
    found = follow(crashed, after=NAMES[1], poll_seconds=OFTEN, timeout=0.3)
    assert next(found).name == NAMES[2]
    time.sleep(0.4)
    threading.Timer(0.1, commit).start()
    assert next(found).name == NAMES[3]
    begin = time.monotonic()
    assert names(found) == []
    assert 0.3 <= time.monotonic() - begin < 10


def test_a_long_pause_between_looks_does_not_lengthen_the_wait(crashed: Path) -> None:
    """The last pause is cut short."""
    begin = time.monotonic()
    assert names(follow(crashed, poll_seconds=1000, timeout=0.1)) == NAMES
    assert time.monotonic() - begin < 30


def test_a_crashed_run_is_waited_for(crashed: Path, later: Callable[..., object]) -> None:
    """It has not finished: its next attempt may go on, and does here."""
    found = follow(crashed, poll_seconds=OFTEN, timeout=PATIENCE)
    assert names(itertools.islice(found, 4)) == NAMES
    later(0.2, lambda: train(crashed, epochs=4))
    assert [order(name)[0] for name in names(found)] == [3, 3]


def test_what_is_committed_right_before_the_end_is_not_missed(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end is looked for before the checkpoints are."""
    commit = hide(run_folder, NAMES[3])

    def read(*arguments: object) -> Iterator[dict[str, object]]:
        commit()
        return iter([{"t": "finished"}])

    monkeypatch.setattr(module, "read_journal", read)
    assert names(follow(run_folder, poll_seconds=OFTEN)) == NAMES


def test_the_journal_is_read_once_after_a_crash(crashed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have millions of lines, and a crashed run may stand for days."""
    count = counted(monkeypatch)
    assert names(follow(crashed, poll_seconds=OFTEN, timeout=0.5)) == NAMES
    assert count() == 1


def test_a_journal_that_grows_is_not_read(crashed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the trainer's lock cannot be asked, on a read-only mount: somebody trains."""
    count, sleep, journal = counted(monkeypatch), time.sleep, max(crashed.glob("journal/*.jsonl"))

    def train_on(seconds: float) -> None:
        journal.write_bytes(journal.read_bytes() + b'{"t":"batch"}\n')
        sleep(seconds)

    def refuse(storage: LocalStorage) -> object:
        raise StorageError(errno.EROFS, "the file system is read-only")

    monkeypatch.setattr(module, "trainer_of", refuse)
    monkeypatch.setattr(time, "sleep", train_on)
    assert names(follow(crashed, after=NAMES[3], poll_seconds=OFTEN, timeout=0.3)) == []
    assert count() == 0


def test_a_new_attempt_takes_the_end_back(run_folder: Path) -> None:
    """A finished run that is started again, to go on, counts by its newest attempt."""
    (run_folder / "attempts" / "0003.json").write_text(
        '{"attempt": 3, "host": "node7", "pid": 12, "started": "2026-01-01T00:00:00.000Z"}'
    )
    (run_folder / "journal" / "0003.jsonl").write_text('{"t":"start"}\n')
    begin = time.monotonic()
    assert names(follow(run_folder, poll_seconds=OFTEN, timeout=0.3)) == NAMES
    assert time.monotonic() - begin > 0.3


def test_in_the_process_that_trains_it_leaves_the_trainers_lock_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To close any descriptor of the lock's file would give it away, and another trainer could take the folder."""
    count = counted(monkeypatch)
    with Run(tmp_path, state={"table": torch.zeros(3)}) as run:
        name = _save(run)
        assert names(follow(tmp_path, poll_seconds=OFTEN, timeout=0.3)) == [name]
        assert count() == 0
        assert taken_by_another_process(tmp_path / TRAINER_LOCK) == "False"
    assert names(follow(tmp_path, after=name, poll_seconds=OFTEN, timeout=PATIENCE)) == []
    assert count() == 1


def taken_by_another_process(lock: Path) -> str:
    """Whether another process could take the lock."""
    code = "import sys; from holdfast.storage.locks import RecordLock; print(RecordLock(sys.argv[1]).acquire())"
    command = [sys.executable, "-c", code, str(lock)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def counted(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How often a journal is read from here on."""
    calls: list[int] = []

    def read(storage: LocalStorage, attempt: int) -> Iterator[dict[str, object]]:
        calls.append(attempt)
        return read_journal(storage, attempt)

    monkeypatch.setattr(module, "read_journal", read)
    return lambda: len(calls)


# Folders that come and go.


def test_a_run_that_is_not_there_yet_is_waited_for(
    run_folder: Path, tmp_path: Path, later: Callable[..., object], capsys: pytest.CaptureFixture[str]
) -> None:
    """It says so, once, and begins with the first checkpoint."""
    later(0.3, run_folder.rename, tmp_path / "later")
    assert names(follow(tmp_path / "later", poll_seconds=OFTEN, timeout=PATIENCE)) == NAMES
    assert capsys.readouterr().err == f"holdfast: waiting for a run: {tmp_path}/later: is not there.\n"


def test_a_folder_that_is_no_run_is_named(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Who follows the folder above the run sees which runs are in it."""
    assert names(follow(run_folder.parent, poll_seconds=OFTEN, timeout=0.05)) == []
    assert "It contains runs, though: run." in capsys.readouterr().err


def test_a_run_that_takes_the_place_of_another_is_followed_from_its_start(
    crashed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The user deletes the folder and starts afresh: its attempts and checkpoints begin at 1 again."""
    train(tmp_path / "another", epochs=1)
    found = follow(crashed, poll_seconds=OFTEN, timeout=PATIENCE)
    assert names(itertools.islice(found, 4)) == NAMES
    shutil.rmtree(crashed)
    (tmp_path / "another").rename(crashed)
    assert names(found) == ["step-00000002.a0001.n0001", "step-00000004.a0001.n0002"]
    assert capsys.readouterr().err.endswith(
        f"holdfast: {crashed}: holds another run now, which is followed from its start\n"
    )


def test_a_run_that_goes_and_comes_back_goes_on(
    crashed: Path, tmp_path: Path, later: Callable[..., object], capsys: pytest.CaptureFixture[str]
) -> None:
    """A file system that was unmounted for a while is waited for; each time it says so, and nothing comes twice."""
    commit = hide(crashed, NAMES[3])
    found = follow(crashed, poll_seconds=OFTEN, timeout=2)
    assert names(itertools.islice(found, 3)) == NAMES[:3]
    away = crashed.rename(tmp_path / "away")
    later(0.1, lambda: (away.rename(crashed), commit()))
    assert next(found).name == NAMES[3]
    crashed.rename(away)
    assert names(found) == []
    assert capsys.readouterr().err.count("waiting for a run") == 2


# Beside a training.


def test_beside_a_training_all_are_handed_out_and_then_it_ends(tmp_path: Path) -> None:
    """Every checkpoint, soon, while another process trains; after its end no one waits."""
    folder = tmp_path / "run"
    trainer = start("tests.harness.small:train", tmp_path / "out", folder=str(folder), epochs=30, keep="all")
    try:
        found = names(follow(folder, poll_seconds=OFTEN, timeout=PATIENCE))
        assert trainer.wait() == 0, trainer.text
    finally:
        trainer.discard()
    assert found == History(folder).checkpoints
    assert len(found) > 1


def test_beside_a_training_that_is_killed_and_resumed(tmp_path: Path) -> None:
    """The next attempt's checkpoints follow those of the one that was killed. All that is handed out can be read."""
    folder, found = tmp_path / "run", []
    trainer = start("tests.harness.small:linger", tmp_path / "out", folder=str(folder))
    try:
        for checkpoint in follow(folder, poll_seconds=OFTEN, timeout=PATIENCE):
            checkpoint.verify()
            found.append(order(checkpoint.name))
            if len(found) == 3:
                trainer.kill()
                trainer.wait()
                trainer = start("tests.harness.small:train", tmp_path / "out2", folder=str(folder), epochs=100)
        assert trainer.wait() == 0, trainer.text
    finally:
        trainer.discard()
    assert found == sorted(set(found))
    assert {attempt for attempt, _ in found} == {1, 2}
    assert found[-1] == order(History(folder).checkpoints[-1])


def test_nothing_is_warned_of_beside_a_training(tmp_path: Path) -> None:
    """Retention deletes while the follower looks, which is no fault of anybody."""
    folder = tmp_path / "run"
    trainer = start("tests.harness.small:train", tmp_path / "out", folder=str(folder), epochs=20, keep="last 1")
    try:
        with warnings.catch_warnings(record=True) as caught:
            for checkpoint in follow(folder, poll_seconds=0.001, timeout=PATIENCE):
                checkpoint.verify()
        assert trainer.wait() == 0, trainer.text
    finally:
        trainer.discard()
    assert caught == []
