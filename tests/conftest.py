"""A run folder made once by a real run, a look at a folder that would show any change in it, faults for writers."""

import errno
import fcntl
import json
import os
import shutil
import signal

import pytest


def pytest_configure():
    """A shell starts what it puts into the background with SIGINT ignored, and so would be all that tests start."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory):
    """The folder of a run of three epochs with four checkpoints, made in two attempts. Not to be changed."""
    pytest.importorskip("torch")
    from tests.tiny_run import train

    folder = tmp_path_factory.mktemp("finished") / "run"
    train(folder, epochs=2)
    train(folder, epochs=3)
    return folder


@pytest.fixture
def run_folder(finished_run, tmp_path):
    """A copy of the finished run, to be damaged at will."""
    return shutil.copytree(finished_run, tmp_path / "run")


@pytest.fixture
def newest(run_folder):
    """The directory of its newest checkpoint."""
    return max(run_folder.glob("step-*"), key=lambda path: path.name.split(".")[1:])


@pytest.fixture(scope="session")
def picture():
    """All that is below a folder: names, kinds, times and bytes."""
    return _picture


def _picture(folder):
    found = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        content = path.read_bytes() if path.is_file() else None
        found[str(path.relative_to(folder))] = (status.st_mode, status.st_mtime_ns, status.st_ctime_ns, content)
    return found


@pytest.fixture
def flag_refused(monkeypatch):
    """A file system on which no open file can have O_DIRECT."""
    original = fcntl.fcntl

    def refuse(descriptor, command, argument=0):
        if command == fcntl.F_SETFL and argument & os.O_DIRECT:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return original(descriptor, command, argument)

    monkeypatch.setattr(fcntl, "fcntl", refuse)


@pytest.fixture
def writer_fault(tmp_path, monkeypatch):
    """Puts a fault in the way of the writers of this process."""
    from tests.harness.injection import syscalls
    from tests.harness.trainers import INJECTION

    def put(**fault):
        monkeypatch.setenv("PYTHONPATH", str(INJECTION))
        monkeypatch.setenv(syscalls.VARIABLE, json.dumps([{"token": str(tmp_path / "token"), **fault}]))

    return put
