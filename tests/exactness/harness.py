"""A fork server: one process that imported torch once, from which every run of a scenario is forked.

Each run is a real process: it can be killed with SIGKILL, and the writer it starts is a real subprocess. As ``__main__``
this is the server; `ForkServer` is the tests' end of it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import faulthandler
import importlib
import json
import os
import subprocess
import sys
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
HANGING_SECONDS = 60
JOBS = 2


@dataclasses.dataclass(frozen=True)
class Task:
    """One attempt of a scenario (``module:function``) in ``folder``; ``kill`` is (how, at which boundary)."""

    scenario: str
    folder: str
    attempt: int
    holdfast: bool = True
    kill: tuple[str, int] | None = None
    seed: int = 0
    options: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def outcome(self) -> Path:
        return Path(self.folder) / f"outcome-{self.attempt}.pt"

    @property
    def said(self) -> Path:
        """Everything that the process wrote to its standard output and error."""
        return Path(self.folder) / f"said-{self.attempt}.txt"


class ForkServer:
    """Runs tasks, two at a time, each in a process of its own."""

    def __init__(self) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.exactness.harness"],
            cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def run(self, tasks: list[Task]) -> list[int]:
        """The exit status of each: negative for the signal that ended it."""
        for task in tasks:
            Path(task.folder).mkdir(parents=True, exist_ok=True)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([dataclasses.asdict(task) for task in tasks]) + "\n")
        self._process.stdin.flush()
        statuses: list[int] = json.loads(self._process.stdout.readline())
        return statuses

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


def serve() -> None:
    """Reads lists of tasks, answers with their exit statuses, until the standard input ends."""
    _warm_up()
    for line in sys.stdin:
        statuses = _run_all([Task(**fields) for fields in json.loads(line)])
        print(json.dumps(statuses), flush=True)


def _warm_up() -> None:
    """Imports what every run needs, before any thread exists: a process with threads must not be forked."""
    import torch

    torch.set_num_threads(1)
    parameter = torch.nn.Parameter(torch.zeros(1))
    torch.optim.AdamW([parameter]).step()  # the first optimizer imports a second's worth of modules
    for module in ("holdfast.run", "tests.exactness.scripts"):
        importlib.import_module(module)


def _run_all(tasks: list[Task]) -> list[int]:
    running: dict[int, int] = {}
    statuses = [0] * len(tasks)
    for index, task in enumerate(tasks):
        if len(running) == JOBS:
            _reap(running, statuses)
        running[_fork(task)] = index
    while running:
        _reap(running, statuses)
    return statuses


def _reap(running: dict[int, int], statuses: list[int]) -> None:
    pid, status = os.wait()
    statuses[running.pop(pid)] = os.waitstatus_to_exitcode(status)


def _fork(task: Task) -> int:
    pid = os.fork()
    if pid:
        return pid
    status = 1
    with contextlib.suppress(BaseException):
        status = _child(task)
    os._exit(status)


def _child(task: Task) -> int:
    said = os.open(task.said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for inherited, own in ((0, nothing), (1, said), (2, said)):
        os.dup2(own, inherited)
    sys.stdin, sys.stdout, sys.stderr = open(0, closefd=False), open(1, "w", 1, closefd=False), open(2, "w", 1, closefd=False)  # noqa: SIM115
    faulthandler.dump_traceback_later(HANGING_SECONDS, exit=True, file=2)
    with _warnings_shown():
        return _run_scenario(task)


@contextlib.contextmanager
def _warnings_shown() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        yield


def _run_scenario(task: Task) -> int:
    from tests.exactness.scripts import play

    try:
        play(task)
    except SystemExit as stopped:
        return int(stopped.code or 0)
    except BaseException:
        sys.excepthook(*sys.exc_info())  # as the interpreter does: holdfast listens there
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    serve()
