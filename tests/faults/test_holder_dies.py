"""The process that holds a lock is killed, forks, or meets another one that wants it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast.storage.locks import RecordLock

Python = Callable[..., subprocess.Popen[str]]

HOLD = """
import sys
from holdfast.storage.locks import RecordLock
lock = RecordLock(sys.argv[1])
print(lock.acquire(), flush=True)
sys.stdin.readline()
"""

HOLD_AND_ASK = """
import sys
from holdfast.storage.locks import RecordLock
lock = RecordLock(sys.argv[1])
lock.acquire()
print(RecordLock(sys.argv[1]).acquire(), RecordLock(sys.argv[1]).holder() == lock.holder(), flush=True)
sys.stdin.readline()
"""

HOLD_AND_FORK_IN_C = """
import ctypes, os, sys, time
from holdfast.storage.locks import RecordLock
lock = RecordLock(sys.argv[1])
lock.acquire()
if ctypes.PyDLL(None).fork() == 0:
    print(os.getpid(), flush=True)
time.sleep(60)
"""

HOLD_PAST_A_CHILD = """
import os, sys
from holdfast.storage.locks import RecordLock
lock = RecordLock(sys.argv[1])
lock.acquire()
child = os.fork()
if child == 0:
    os._exit(0)
os.waitpid(child, 0)
print(lock.held, flush=True)
sys.stdin.readline()
"""

HOLD_AND_FORK = """
import os, sys, time
from holdfast.storage.locks import RecordLock
lock = RecordLock(sys.argv[1])
lock.acquire()
child = os.fork()
if child == 0:
    lock.release()
    inherited = [f for f in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{f}")
                 and os.path.realpath(f"/proc/self/fd/{f}") == os.path.realpath(sys.argv[1])]
    print(f"child {os.getpid()} held={lock.held} descriptors={inherited}", flush=True)
    time.sleep(60)
else:
    time.sleep(60)
"""


@pytest.fixture
def lock(tmp_path: Path) -> RecordLock:
    return RecordLock(tmp_path / "lock")


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_two_processes_contend_and_one_wins(python: Python, lock: RecordLock) -> None:
    """The second is refused at once and can name the first, which keeps the lock through all of that."""
    first = python(HOLD, lock.path)
    assert line(first) == "True"
    second = python(HOLD, lock.path)
    assert line(second) == "False"
    for _ in range(2):
        assert not lock.acquire()
        holder = lock.holder()
        assert holder is not None
        assert holder["pid"] == first.pid


def test_sigkill_of_the_holder_releases_the_lock(python: Python, lock: RecordLock) -> None:
    """An instant restart is not refused: once the holder is gone, so is its lock."""
    holder = python(HOLD, lock.path)
    assert line(holder) == "True"
    assert not lock.acquire()
    holder.kill()
    holder.wait()
    assert lock.acquire()
    lock.release()


def test_a_forked_child_has_no_lock_and_takes_none_away(python: Python, lock: RecordLock) -> None:
    """The child's descriptor is closed and its release does nothing; the parent's lock stands."""
    parent = python(HOLD_AND_FORK, lock.path)
    child = line(parent)
    assert child.endswith("held=False descriptors=[]")
    assert not lock.acquire()
    holder = lock.holder()
    assert holder is not None
    assert holder["pid"] == parent.pid
    os.kill(int(child.split()[1]), 9)


def test_a_forked_child_that_outlives_the_holder_does_not_keep_the_lock(python: Python, lock: RecordLock) -> None:
    """Loader workers live on for seconds after a killed trainer: with flock, the restart would be refused."""
    parent = python(HOLD_AND_FORK, lock.path)
    child = int(line(parent).split()[1])
    parent.kill()
    parent.wait()
    os.kill(child, 0)
    try:
        assert lock.acquire()
        lock.release()
    finally:
        os.kill(child, 9)


def test_a_child_that_kept_the_descriptor_does_not_keep_the_lock(python: Python, lock: RecordLock) -> None:
    """A process forked by C code runs no hook of Python's, and inherits the descriptor but not the lock."""
    parent = python(HOLD_AND_FORK_IN_C, lock.path)
    child = int(line(parent))
    assert not lock.acquire()
    parent.kill()
    parent.wait()
    os.kill(child, 0)
    try:
        assert lock.acquire()
        lock.release()
    finally:
        os.kill(child, 9)


def test_asking_who_holds_it_does_not_give_the_lock_away(python: Python, lock: RecordLock) -> None:
    """Closing any descriptor of the file would release the holder's own lock, so it opens no second one."""
    assert line(python(HOLD_AND_ASK, lock.path)) == "False True"
    assert not lock.acquire()


def test_a_lock_survives_a_forked_child_that_exits(python: Python, lock: RecordLock) -> None:
    """The end of a child closes its descriptors, which must not give the parent's lock away."""
    parent = python(HOLD_PAST_A_CHILD, lock.path)
    assert line(parent) == "True"
    assert not lock.acquire()
    parent.communicate("\n")
    assert lock.acquire()
    lock.release()
