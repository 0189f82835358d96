"""The process that holds a checkpoint is killed, stopped, or forks; many hold and delete; the folder is read-only."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from holdfast import HoldfastWarning, checkpoints, follow
from holdfast.engine import turns
from holdfast.engine.holds import READERS, delete_unless_held, held, hold
from holdfast.engine.turns import READERS_LOCK
from holdfast.errors import NotFoundError, StorageError
from holdfast.storage.local import LocalStorage

Python = Callable[..., subprocess.Popen[str]]
Reader = Callable[[str], subprocess.Popen[str]]
NAME = "step-00000500.a0001.n0003"

START = """
import os, sys, time
from holdfast.engine.holds import delete_unless_held, hold
from holdfast.engine.turns import READERS_LOCK
from holdfast.errors import HoldfastError, NotFoundError
from holdfast.format.names import CheckpointName
from holdfast.storage.local import LocalStorage
from holdfast.storage.locks import RecordLock
storage, name = LocalStorage(sys.argv[1]), sys.argv[2]
"""

HOLD = """
with hold(storage, name):
    print("held", flush=True)
    sys.stdin.readline()
print("let go", flush=True)
sys.stdin.readline()
"""

HOLD_AND_FORK = """
with hold(storage, name):
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        print("held", flush=True)
        sys.stdin.readline()
if not child:
    sys.exit(0)
"""

HOLD_PAST_WORKERS = """
import multiprocessing
with hold(storage, name):
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert sum(pool.map(abs, range(100))) == 4950
    print("held", flush=True)
    sys.stdin.readline()
"""

HOLD_WITH_A_CHILD_LEFT = """
hold = hold(storage, name)
hold.__enter__()
child = os.fork()
if child:
    print(child, flush=True)
time.sleep(60)
"""

STAY_IN_THE_TURN = """
assert RecordLock(f"{storage.root}/{READERS_LOCK}").acquire()
print("mine", flush=True)
time.sleep(60)
"""

DIE_IN_THE_TURN = """
LocalStorage.set_aside = lambda storage, name: os.kill(os.getpid(), 9)
delete_unless_held(storage, name)
"""

FORK_DURING_THE_TURN_OF_A_THREAD = """
import threading
began, end = threading.Event(), threading.Event()
set_aside = LocalStorage.set_aside
def hang(storage, name):
    began.set()
    end.wait()
    return lambda: None
LocalStorage.set_aside = hang
thread = threading.Thread(target=delete_unless_held, args=(storage, name))
thread.start()
began.wait()
child = os.fork()
if child == 0:
    sys.stdin.readline()
    LocalStorage.set_aside = set_aside
    print(delete_unless_held(storage, name), flush=True)
    os._exit(0)
end.set()
thread.join()
print("forked", flush=True)
os.waitpid(child, 0)
"""

AS_NOBODY = """
if os.geteuid() == 0:
    os.setgid(65534), os.setuid(65534)
"""

TRY_TO_HOLD = """
try:
    with hold(storage, name):
        print("held")
except HoldfastError as error:
    print(error.kind, error)
"""

AS_ANOTHER = """
os.setgid(65533), os.setuid(65533)
print(delete_unless_held(storage, name))
"""

READ_IN_A_RACE = """
count = lost = 0
print("ready", flush=True)
deadline = time.monotonic() + float(sys.argv[3])
while time.monotonic() < deadline:
    for name in list(filter(CheckpointName.parse, storage.list()))[:2]:
        try:
            with hold(storage, name):
                count += 1
                for _ in range(3):
                    lost += not os.path.exists(f"{storage.root}/{name}/manifest.json")
                    time.sleep(0.0005)
        except NotFoundError:
            pass
print(count, lost, flush=True)
"""


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return filled(tmp_path / "run")


def filled(folder: Path, name: str = NAME) -> LocalStorage:
    """The folder with a checkpoint in it."""
    storage = LocalStorage(folder)
    storage.begin(name, "7f3a").commit(b"{}")
    return storage


@pytest.fixture
def reader(python: Python, storage: LocalStorage) -> Reader:
    """Starts a process that does something with the checkpoint."""
    return lambda text: python(START + text, storage.root, NAME)


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def files(storage: LocalStorage) -> list[str]:
    return os.listdir(Path(storage.root, READERS))


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    begin = time.monotonic()
    yield
    assert time.monotonic() - begin < seconds


# The reader dies, or is stopped.


def test_a_hold_is_seen_by_other_processes(storage: LocalStorage, reader: Reader) -> None:
    """It is told by pid and host, protects the checkpoint, and is over when the reader lets go."""
    process = reader(HOLD)
    assert line(process) == "held"
    assert held(storage) == {NAME: f"held by pid {process.pid} on {os.uname().nodename}"}
    for _ in range(2):
        said = delete_unless_held(storage, NAME)
        assert said is not None
        assert f"held by pid {process.pid} on " in said
    assert process.stdin is not None
    print(file=process.stdin, flush=True)
    assert line(process) == "let go"
    assert delete_unless_held(storage, NAME) is None


def test_sigkill_of_the_reader_lets_go(storage: LocalStorage, reader: Reader) -> None:
    """Its file stays behind and protects nothing; the next deletion removes both."""
    process = reader(HOLD)
    assert line(process) == "held"
    process.kill()
    process.wait()
    assert len(files(storage)) == 1
    assert delete_unless_held(storage, NAME) is None
    assert files(storage) == []


def test_a_stopped_reader_holds_on(storage: LocalStorage, reader: Reader) -> None:
    """It may go on at any time, and its checkpoint has to be there then. Nobody waits for it."""
    process = reader(HOLD)
    assert line(process) == "held"
    process.send_signal(signal.SIGSTOP)
    with within(5):
        assert delete_unless_held(storage, NAME) is not None
    process.kill()
    process.wait()
    assert delete_unless_held(storage, NAME) is None


def test_one_stopped_in_its_turn_holds_nobody_up_for_ever(
    storage: LocalStorage, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deletions say, after a bounded wait, which process is in the way; once it is gone they work."""
    monkeypatch.setattr(turns, "DELETER_WAIT_SECONDS", 0.1)
    process = reader(STAY_IN_THE_TURN)
    assert line(process) == "mine"
    process.send_signal(signal.SIGSTOP)
    with within(10):
        said = delete_unless_held(storage, NAME)
    assert said is not None
    assert f"pid {process.pid} on {os.uname().nodename} had {storage.root}/{READERS_LOCK} for 0.1 s" in said
    process.kill()
    process.wait()
    assert delete_unless_held(storage, NAME) is None


def test_one_that_dies_in_its_turn_gives_it_back(storage: LocalStorage, reader: Reader) -> None:
    """A writer that is killed in the midst of a deletion does not keep readers from holding."""
    assert reader(DIE_IN_THE_TURN).wait() == -signal.SIGKILL
    with within(5), hold(storage, NAME):
        assert NAME in held(storage)


# The reader forks.


@pytest.mark.parametrize("text", [HOLD_AND_FORK, HOLD_PAST_WORKERS], ids=["fork", "workers"])
def test_forked_children_take_no_hold_away(storage: LocalStorage, reader: Reader, text: str) -> None:
    """Loader workers come and go while their parent reads on, and so may a child that leaves the block by its end."""
    process = reader(text)
    assert line(process) == "held"
    assert len(files(storage)) == 1
    said = delete_unless_held(storage, NAME)
    assert said is not None
    assert f"pid {process.pid} on" in said


def test_a_child_that_outlives_the_reader_does_not_hold_on(storage: LocalStorage, reader: Reader) -> None:
    """A killed evaluator's workers live on for seconds, and must not keep its checkpoint."""
    process = reader(HOLD_WITH_A_CHILD_LEFT)
    child = int(line(process))
    try:
        assert delete_unless_held(storage, NAME) is not None
        process.kill()
        process.wait()
        os.kill(child, 0)
        assert delete_unless_held(storage, NAME) is None
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_child_forked_during_the_turn_of_a_thread_has_turns_of_its_own(storage: LocalStorage, reader: Reader) -> None:
    """The thread that would give the turn back is not in the child, which must not wait for it."""
    process = reader(FORK_DURING_THE_TURN_OF_A_THREAD)
    assert line(process) == "forked"
    assert process.stdin is not None
    with within(5):
        print(file=process.stdin, flush=True)
        assert line(process) == "None"
    assert storage.list_files(NAME) == {}


# Many at once.


def test_a_held_checkpoint_is_never_deleted_under_its_reader(tmp_path: Path, python: Python) -> None:
    """Readers take holds on the very checkpoints that are being deleted: each is refused, or keeps what it reads."""
    folder, seconds = tmp_path / "run", 4.0
    storage = filled(folder, "step-00000000.a0001.n0001")
    readers = [python(START + READ_IN_A_RACE, folder, "", seconds) for _ in range(4)]
    assert [line(reader) for reader in readers] == ["ready"] * 4
    deleted = refused = 0
    number, deadline = 1, time.monotonic() + seconds
    while time.monotonic() < deadline:
        there = [name for name in storage.list() if name.startswith("step-")]
        for _ in range(4 - len(there)):
            number += 1
            filled(folder, f"step-{number:08d}.a0001.n{number:04d}")
        for name in there:
            if delete_unless_held(storage, name) is None:
                deleted += 1
            else:
                refused += 1
    counts = [tuple(map(int, line(reader).split())) for reader in readers]
    assert sum(lost for _, lost in counts) == 0
    assert min(deleted, refused, *(count for count, _ in counts)) > 0
    assert files(storage) == []


# Nothing can be written.


def test_a_read_only_folder_cannot_be_held(small_disk: Path, read_only: Callable[[], None]) -> None:
    """The reader is told; a look takes every hold there is for one, as the locks cannot be asked."""
    storage = filled(small_disk / "run")
    with hold(storage, NAME):
        pass
    Path(storage.root, READERS, f"{NAME}-0f0f0f0f").touch()
    read_only()
    with pytest.raises(StorageError, match="The file system is read-only") as caught, hold(storage, NAME):
        pass
    assert caught.value.errno == errno.EROFS
    assert held(storage) == {NAME: "perhaps held by a reader"}
    with pytest.raises(StorageError, match="read-only"):
        delete_unless_held(storage, NAME)


def test_a_run_is_followed_on_a_read_only_file_system(
    run_folder: Path, small_disk: Path, read_only: Callable[[], None]
) -> None:
    """One warning says that nothing is held; all are handed out, and the end is seen although no lock can be asked."""
    shutil.copytree(run_folder, small_disk / "run")
    read_only()
    with pytest.warns(HoldfastWarning, match="may be deleted while they are read: .*read-only") as caught:
        found = [one.name for one in follow(small_disk / "run", poll_seconds=0.01)]
    assert found == [one.name for one in checkpoints(run_folder)]
    assert len(caught) == 1


def test_a_reader_that_may_not_write_is_told(storage: LocalStorage, python: Python) -> None:
    """Another user may read the checkpoint, but cannot hold it, and leaves nothing behind."""
    for folder in (Path(storage.root), *Path(storage.root).parents[:3]):
        folder.chmod(0o755)
    output, _ = python(START + AS_NOBODY + TRY_TO_HOLD, storage.root, NAME).communicate()
    assert output.startswith(f"storage [Errno {errno.EACCES}] cannot lock {storage.root}/{READERS_LOCK}: ")
    assert storage.list() == [NAME]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be two other users")
def test_a_colleagues_dead_reader_does_not_end_retention(storage: LocalStorage, python: Python) -> None:
    """In a folder that several users may write to, each can ask for the locks of the others, whatever their umask."""
    for folder in Path(storage.root).parents[:3]:
        folder.chmod(0o755)
    for folder in (Path(storage.root), Path(storage.root, NAME)):
        folder.chmod(0o777)
    process = python(START + "os.umask(0o077)\n" + AS_NOBODY + HOLD, storage.root, NAME)
    assert line(process) == "held"
    alive, _ = python(START + AS_ANOTHER, storage.root, NAME).communicate()
    assert f"held by pid {process.pid} on" in alive
    process.kill()
    process.wait()
    dead, _ = python(START + AS_ANOTHER, storage.root, NAME).communicate()
    assert dead.strip() == "None"


def test_what_was_deleted_cannot_be_held(storage: LocalStorage, reader: Reader) -> None:
    """A reader that comes too late hears so, in whatever process the deletion was."""
    assert delete_unless_held(storage, NAME) is None
    output, _ = reader(TRY_TO_HOLD).communicate()
    assert output.startswith("not_found ")
    with pytest.raises(NotFoundError), hold(storage, NAME):
        pass
