"""While somebody reads a checkpoint, nobody deletes it."""

from __future__ import annotations

import errno
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from holdfast.engine import turns
from holdfast.engine.holds import READERS, delete_unless_held, held, hold
from holdfast.engine.pins import pin, unpin
from holdfast.engine.turns import READERS_LOCK
from holdfast.errors import CorruptError, NotFoundError, StorageError
from holdfast.storage import platform
from holdfast.storage.local import LocalStorage
from holdfast.storage.locks import RecordLock

FIRST, SECOND = "step-00000500.a0001.n0003", "step-00000600.a0001.n0004"
ME = f"pid {os.getpid()} on {socket.gethostname()}"


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    """A folder with two checkpoints."""
    storage = LocalStorage(tmp_path / "run")
    for name in (FIRST, SECOND):
        storage.begin(name, "7f3a").commit(b"{}")
    return storage


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits long for a turn."""
    monkeypatch.setattr(turns, "DELETER_WAIT_SECONDS", 0.05)
    monkeypatch.setattr(turns, "READER_WAIT_SECONDS", 0.05)


@pytest.fixture
def turn_taken(storage: LocalStorage) -> Iterator[str]:
    """Somebody has the turn and does not give it back. The path of the lock."""
    lock = RecordLock(Path(storage.root, READERS_LOCK))
    assert lock.acquire()
    yield lock.path
    lock.release()


def files(storage: LocalStorage) -> list[str]:
    """What is left of holds."""
    return sorted(path.name for path in Path(storage.root, READERS).glob("*"))


# Holding.


def test_what_is_held_is_not_deleted(storage: LocalStorage) -> None:
    """The deletion says who holds it, and works once it was let go, of which nothing is left."""
    with hold(storage, FIRST):
        assert delete_unless_held(storage, FIRST) == f"{FIRST} was not deleted: it is held by {ME}"
        assert storage.list_files(FIRST) == {"manifest.json": 2}
    assert files(storage) == []
    assert delete_unless_held(storage, FIRST) is None
    assert storage.list_files(FIRST) == {}


def test_only_what_is_held_is_protected(storage: LocalStorage) -> None:
    """Other checkpoints can be deleted meanwhile."""
    with hold(storage, FIRST):
        assert delete_unless_held(storage, SECOND) is None
    assert storage.list_files(SECOND) == {}


def test_a_checkpoint_may_be_held_several_times(storage: LocalStorage) -> None:
    """It is protected until the last one lets go, whichever that is."""
    with ExitStack() as first, ExitStack() as second:
        first.enter_context(hold(storage, FIRST))
        second.enter_context(hold(storage, FIRST))
        assert held(storage) == {FIRST: f"held by {ME}, {ME}"}
        first.close()
        assert held(storage) == {FIRST: f"held by {ME}"}
        assert delete_unless_held(storage, FIRST) is not None
    assert delete_unless_held(storage, FIRST) is None


def test_an_exception_lets_go(storage: LocalStorage) -> None:
    """A reader that fails does not protect its checkpoint for ever."""
    with pytest.raises(RuntimeError, match="the reader's bug"), hold(storage, FIRST):
        raise RuntimeError("the reader's bug")
    assert files(storage) == []
    assert delete_unless_held(storage, FIRST) is None


def test_what_is_gone_cannot_be_held(storage: LocalStorage) -> None:
    """The error says so, and nothing is made in the folder."""
    storage.delete(FIRST)
    with pytest.raises(NotFoundError, match=f"the checkpoint {FIRST} is not there any more"), hold(storage, FIRST):
        pass
    assert storage.list() == [SECOND]


def test_what_goes_while_a_reader_waits_cannot_be_held(storage: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader looks again once it is its turn: before that, somebody else may have deleted."""
    acquire = RecordLock.acquire

    def late(lock: RecordLock) -> bool:
        if lock.path.endswith(READERS_LOCK):
            storage.delete(FIRST)
        return acquire(lock)

    monkeypatch.setattr(RecordLock, "acquire", late)
    with pytest.raises(NotFoundError, match="not there any more"), hold(storage, FIRST):
        pass
    assert files(storage) == []


def test_a_copy_under_a_name_of_its_own_needs_no_hold(storage: LocalStorage) -> None:
    """No retention touches it, so its folder, which may be anything, is left alone."""
    storage.begin("best", "7f3a").commit(b"{}")
    before = storage.list()
    with hold(storage, "best"):
        assert storage.list() == before


# Deleting.


def test_deleting_leaves_one_lock_behind(storage: LocalStorage) -> None:
    """Where nobody reads no folder is made for readers; what is not there counts as deleted."""
    assert delete_unless_held(storage, FIRST) is None
    assert delete_unless_held(storage, FIRST) is None
    assert storage.list() == [READERS_LOCK, SECOND]


def test_what_a_dead_reader_left_protects_nothing(storage: LocalStorage) -> None:
    """A hold is its lock, not its file, which is removed."""
    with hold(storage, FIRST):
        pass
    Path(storage.root, READERS, f"{FIRST}-0f0f0f0f").write_text('{"pid": 12, "host": "node7"}')
    assert delete_unless_held(storage, FIRST) is None
    assert files(storage) == []


def test_files_of_others_are_left_alone(storage: LocalStorage) -> None:
    """Only what is named like a hold is asked, locked, or removed."""
    with hold(storage, FIRST):
        pass
    for name in ("notes.txt", "notes-0f0f0f0f", f"{FIRST}-mine", f"{FIRST}-0f0f0f0f.txt"):
        Path(storage.root, READERS, name).write_text("mine")
    assert held(storage) == {}
    assert delete_unless_held(storage, FIRST) is None
    assert {Path(storage.root, READERS, name).read_text() for name in files(storage)} == {"mine"}
    assert len(files(storage)) == 4


def test_a_deletion_that_fails_is_raised_and_gives_the_turn_back(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller hears of it as before, and the next one need not wait."""

    def fail(storage: LocalStorage, name: str) -> None:
        raise StorageError(errno.EIO, "the device is broken")

    with monkeypatch.context() as patch:
        patch.setattr(LocalStorage, "set_aside", fail)
        with pytest.raises(StorageError, match="the device is broken"):
            delete_unless_held(storage, FIRST)
    assert delete_unless_held(storage, FIRST) is None


def test_a_listing_from_before_the_hold_is_not_trusted(storage: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client of a network file system shows what it remembers of a folder, until it changes the folder itself."""
    with hold(storage, SECOND):
        pass
    listdir, mkdir, remembered = os.listdir, os.mkdir, {f"{storage.root}/{READERS}": list[str]()}

    def change(path: str) -> None:
        mkdir(path)
        remembered.pop(os.path.dirname(path), None)

    with hold(storage, FIRST):
        monkeypatch.setattr(os, "listdir", lambda path: remembered[path] if path in remembered else listdir(path))
        monkeypatch.setattr(os, "mkdir", change)
        assert delete_unless_held(storage, FIRST) is not None


# Turns.


@pytest.mark.usefixtures("impatient")
def test_without_a_turn_nothing_is_deleted(storage: LocalStorage, turn_taken: str) -> None:
    """The wait is bounded, and the answer says which process has the lock and what to do about it."""
    said = delete_unless_held(storage, FIRST)
    assert said is not None
    assert said.startswith(f"{FIRST} was not deleted: {ME} had {turn_taken} for 0.05 s.")
    assert "let it go on, or end it" in said
    assert storage.list_files(FIRST) != {}


@pytest.mark.usefixtures("impatient")
def test_without_a_turn_nothing_is_held(storage: LocalStorage, turn_taken: str) -> None:
    """The reader is told that it is not protected."""
    with pytest.raises(StorageError, match=f"{FIRST} cannot be held: {ME}") as caught, hold(storage, FIRST):
        pass
    assert caught.value.errno == errno.ETIMEDOUT
    assert files(storage) == []


def test_threads_take_turns(storage: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system grants a record lock to every thread of a process that asks for it at the same moment."""
    try_lock, inside, most = platform.try_lock, [0], [0]

    def slow(descriptor: int) -> bool:
        time.sleep(0.01)
        return try_lock(descriptor)

    def set_aside(storage: LocalStorage, name: str) -> Callable[[], None]:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        time.sleep(0.01)
        inside[0] -= 1
        return lambda: None

    monkeypatch.setattr(platform, "try_lock", slow)
    monkeypatch.setattr(LocalStorage, "set_aside", set_aside)
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: delete_unless_held(storage, FIRST), range(8))) == {None}
    assert most == [1]


@pytest.mark.usefixtures("impatient")
def test_a_thread_that_stays_in_its_turn_is_not_waited_for_for_ever(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deletion that hangs in one thread keeps the others from deleting, not from going on."""
    hangs, goes_on = threading.Event(), threading.Event()

    def hang(storage: LocalStorage, name: str) -> Callable[[], None]:
        hangs.set()
        assert goes_on.wait(30)
        return lambda: None

    monkeypatch.setattr(LocalStorage, "set_aside", hang)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(delete_unless_held, storage, FIRST)
        assert hangs.wait(30)
        said = delete_unless_held(storage, SECOND)
        goes_on.set()
        assert first.result() is None
    assert said is not None
    assert said.startswith(f"{SECOND} was not deleted: another thread of this process")


# Looking.


def test_what_is_held_is_told(storage: LocalStorage) -> None:
    """Each with the process that holds it; nothing where nobody reads, and nothing is made then."""
    assert held(storage) == {}
    assert storage.list() == sorted((FIRST, SECOND))
    with hold(storage, FIRST), hold(storage, SECOND):
        assert held(storage) == dict.fromkeys((FIRST, SECOND), f"held by {ME}")
    assert held(storage) == {}


def test_a_look_removes_what_dead_readers_left(storage: LocalStorage) -> None:
    """A plan that keeps what is held would otherwise keep it for ever."""
    with hold(storage, FIRST):
        Path(storage.root, READERS, f"{SECOND}-0f0f0f0f").touch()
        assert held(storage) == {FIRST: f"held by {ME}"}
        assert len(files(storage)) == 1


@pytest.mark.usefixtures("turn_taken")
def test_a_look_without_a_turn_takes_all_for_held(storage: LocalStorage) -> None:
    """It hardly waits, and does not touch a lock that a reader may be about to take."""
    Path(storage.root, READERS).mkdir()
    Path(storage.root, READERS, f"{FIRST}-0f0f0f0f").touch()
    begin = time.monotonic()
    assert held(storage) == {FIRST: "perhaps held by a reader"}
    assert time.monotonic() - begin < 5
    assert files(storage) == [f"{FIRST}-0f0f0f0f"]


def test_a_holder_without_a_record_is_a_holder(storage: LocalStorage) -> None:
    """The lock counts; on a full disk its file may be empty."""
    with hold(storage, FIRST):
        (file,) = files(storage)
        os.truncate(Path(storage.root, READERS, file), 0)
        assert held(storage) == {FIRST: "held by pid unknown on an unknown host"}


# Hostile folders, and those of several users.


@pytest.mark.parametrize("harm", [Path.touch, lambda path: path.symlink_to(path.parent.parent / "elsewhere")])
def test_something_else_in_the_place_of_the_readers(storage: LocalStorage, tmp_path: Path, harm: object) -> None:
    """A link is not followed and a file not replaced: nothing is held, and nothing deleted that might be."""
    (tmp_path / "elsewhere").mkdir()
    harm(Path(storage.root, READERS))  # type: ignore[operator]
    with pytest.raises(CorruptError, match="a folder was expected"), hold(storage, FIRST):
        pass
    said = delete_unless_held(storage, FIRST)
    assert said is not None
    assert said.startswith(f"{FIRST} was not deleted, as it is not known who holds it: {storage.root}/readers is a ")
    assert storage.list_files(FIRST) != {}
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_whoever_may_write_to_the_run_may_ask_for_holds(storage: LocalStorage) -> None:
    """Rights are those of the run folder, whatever the umask of the process that came first."""
    os.chmod(storage.root, 0o770)
    before = os.umask(0o077)
    try:
        with hold(storage, FIRST):
            paths = [READERS_LOCK, READERS, f"{READERS}/{files(storage)[0]}"]
            rights = [os.stat(Path(storage.root, path)).st_mode & 0o777 for path in paths]
    finally:
        os.umask(before)
    assert rights == [0o660, 0o770, 0o660]


# Pins.


def test_what_is_pinned_meanwhile_is_not_deleted(storage: LocalStorage) -> None:
    """Somebody pins it after the policy was asked and before the deletion comes."""
    pin(storage, FIRST)
    assert delete_unless_held(storage, FIRST) == f"{FIRST} was not deleted: it is pinned"
    unpin(storage, FIRST)
    assert delete_unless_held(storage, FIRST) is None


def test_what_is_gone_cannot_be_pinned(storage: LocalStorage) -> None:
    """Whoever pins is not told that something stays which is not there any more."""
    storage.delete(FIRST)
    with pytest.raises(NotFoundError, match="not there any more"):
        pin(storage, FIRST)


def test_without_a_turn_nothing_is_pinned(storage: LocalStorage, turn_taken: str, impatient: None) -> None:
    """Somebody may just be deleting it."""
    with pytest.raises(StorageError, match="cannot be pinned"):
        pin(storage, FIRST)
