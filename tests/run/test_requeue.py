"""Back into Slurm's queue, with a stand-in for `scontrol`."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast.run import requeue as module
from holdfast.run.requeue import requeue

Install = Callable[[str], Path]


@pytest.fixture(autouse=True)
def job(monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts this process into job 4711, which is no array."""
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    for name in ("SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def scontrol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Puts a script in the place of `scontrol`; gives the file with the arguments it was called with."""

    def install(script: str) -> Path:
        command, called = tmp_path / "scontrol", tmp_path / "called"
        command.write_text(f'#!/bin/sh\necho "$@" >> {called}\n{script}\n')
        command.chmod(command.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
        return called

    return install


def test_the_job_of_this_process_is_put_back(scontrol: Install) -> None:
    """By its number, once; nothing is to be said then."""
    called = scontrol("exit 0")
    assert requeue() is None
    assert called.read_text() == "requeue 4711\n"


def test_of_an_array_only_the_own_task_is_put_back(scontrol: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first task has the number of the whole array, by which all tasks would be put back."""
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "4711")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "0")
    called = scontrol("exit 0")
    assert requeue() is None
    assert called.read_text() == "requeue 4711_0\n"


def test_outside_of_slurm_it_says_so(scontrol: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    """And calls nothing."""
    called = scontrol("exit 0")
    monkeypatch.delenv("SLURM_JOB_ID")
    assert "in no Slurm job" in (requeue() or "")
    assert not called.exists()


def test_what_slurm_refuses_is_said_in_its_words(scontrol: Install) -> None:
    """With the exit code; bytes that are no text do not matter."""
    scontrol("printf 'slurm_requeue error: Requested operation is presently disabled \\377\\n' >&2; exit 1")
    said = requeue() or ""
    assert said.startswith("scontrol requeue 4711: exit code 1: slurm_requeue error: Requested operation is presently")


def test_a_refusal_without_words_is_one_too(scontrol: Install) -> None:
    """The exit code counts."""
    scontrol("exit 3")
    assert requeue() == "scontrol requeue 4711: exit code 3: it said nothing"


def test_a_missing_command_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container there may be none."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert requeue() == "scontrol requeue 4711: No such file or directory"


def test_a_controller_that_hangs_is_given_up(scontrol: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run ends all the same."""
    monkeypatch.setattr(module, "_SECONDS", 0.2)
    scontrol("exec sleep 60")
    assert requeue() == "scontrol requeue 4711: no answer within 0.2 s"
