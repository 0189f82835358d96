"""All measurements of a run of the suite, interleaved: every repetition measures the machine and everybody once."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from suite import figures
from suite.memory_watch import MemoryWatch
from suite.page_cache import evict
from suite.records import LIMITS, LOAD, MACHINE, RESUME, TRAIN, Answer, Figures, Measurement, Request, Traits
from suite.workload import Workload

PLACE = Path(__file__).parents[1]
LONGEST = 900.0
"""Seconds that one process may take."""

SHIFT = 3
"""Places by which the order is turned from repetition to repetition."""

Say = Callable[[str], object]


class Failed(Exception):
    """A process could not measure what it was asked for."""


@dataclass(frozen=True)
class Plan:
    """What is measured, where, how often."""

    workloads: list[Workload]
    contenders: list[str]
    repetitions: int
    saves: int
    scratch: Path

    def __len__(self) -> int:
        return self.repetitions * len(list(self.turns(0)))

    def turns(self, repetition: int) -> Iterator[tuple[int, Workload, str]]:
        """Each repetition begins with another one, so that no place in the order is always the same one's."""
        first = repetition * SHIFT % max(1, len(self.contenders))
        for workload in self.workloads:
            yield repetition, workload, MACHINE
            for name in self.contenders[first:] + self.contenders[:first]:
                yield repetition, workload, name


def measure(plan: Plan, repetition: int, say: Say, advance: Callable[[], object]) -> list[Measurement]:
    """One repetition."""
    found = []
    for number, workload, name in plan.turns(repetition):
        say(f"{number + 1}: {workload.name}, {name}")
        with tempfile.TemporaryDirectory(dir=plan.scratch, prefix="speed-", ignore_cleanup_errors=True) as folder:
            found.append(_measurement(number, workload, name, plan.saves, Path(folder)))
        advance()
    return found


def _measurement(repetition: int, workload: Workload, name: str, saves: int, folder: Path) -> Measurement:
    turn = Turn(workload, name, saves, folder)
    cannot = ""
    try:
        turn.take()
    except Failed as error:
        cannot = str(error)
    return Measurement(
        repetition=repetition, workload=workload.name, contender=name, figures=turn.figures, notes=turn.notes,
        cannot=cannot, traits=turn.traits,
    )  # fmt: skip


class Turn:
    """One contender's processes in one repetition, one after the other in one folder."""

    def __init__(self, workload: Workload, name: str, saves: int, folder: Path) -> None:
        self._request = Request(
            task=TRAIN, contender=name, workload=workload, folder=str(folder / "checkpoints"), saves=saves
        )
        self._folder = folder
        Path(self._request.folder).mkdir()
        self.figures: Figures = {}
        self.notes: list[str] = []
        self.traits: Traits | None = None

    def take(self) -> None:
        """Raises `Failed`, with what was measured before in ``figures``."""
        if self._request.contender == MACHINE:
            self._ask(LIMITS)
            self._ask(RESUME)
            return
        trained = self._ask(TRAIN)
        self.traits = trained.traits
        if trained.loads:
            self._ask(LOAD, digest=trained.digest)
        if trained.resumes:
            evict([Path(path) for path in trained.files])
            self._ask(RESUME)
        shutil.rmtree(self._request.folder, ignore_errors=True)

    def _ask(self, task: str, digest: str = "") -> Answer:
        request = msgspec.structs.replace(self._request, task=task, digest=digest, began=time.perf_counter())
        answer, watch = ask(request, self._folder)
        self.figures.update(answer.figures)
        self.notes.extend(answer.notes)
        spans = {name: watch.peak(span) for name, span in answer.spans.items()}
        if "saving" in spans:
            self.figures[figures.SAVING_MEMORY] = [spans["saving"] - spans["training"]]
        if "loading" in spans:
            self.figures[figures.LOADING_MEMORY] = [spans["loading"] - spans["model"]]
        return answer


def ask(request: Request, folder: Path) -> tuple[Answer, MemoryWatch]:
    """Has one process of its own do it. Raises `Failed` with the reason."""
    question, reply, said = folder / "request.json", folder / "answer.json", folder / "said"
    reply.unlink(missing_ok=True)
    question.write_bytes(msgspec.json.encode(request))
    command = [sys.executable, "-m", "suite.child", str(question), str(reply)]
    with said.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=folder, env=_environment(), stdout=output, stderr=output, start_new_session=True
        )
        watch = MemoryWatch(process)
        try:
            code = process.wait(LONGEST)
        except subprocess.TimeoutExpired:
            raise Failed(f"took longer than {LONGEST:g} s") from None
        finally:
            _end(process)
            watch.close()
    if code != 0 or not reply.exists():
        raise Failed(_reason(said.read_text(errors="replace"), code))
    answer = msgspec.json.decode(reply.read_bytes(), type=Answer)
    if answer.cannot:
        raise Failed(_in_short(answer.cannot))
    return answer, watch


def _environment() -> dict[str, str]:
    """The packages of this interpreter, and the suite."""
    paths = [str(PLACE), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "TOKENIZERS_PARALLELISM": "false"}


def _end(process: subprocess.Popen[bytes]) -> None:
    """With all that it started in its session and left behind."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _in_short(error: str) -> str:
    r"""One line. Of an error that brings the traceback of another process along, what that one raised.

    >>> _in_short("ValueError: too large\nsee the manual")
    'ValueError: too large'
    >>> _in_short("OSError: the worker failed: Traceback (most recent call last):\n  here\nOSError: [Errno 22]\n")
    'OSError: the worker failed: OSError: [Errno 22]'
    """
    first, *rest = error.strip().splitlines()
    before, found, _ = first.partition("Traceback (most recent call last)")
    return f"{before}{rest[-1].strip()}"[:300] if found and rest else first[:300]


def _reason(said: str, code: int) -> str:
    r"""The last line that says anything: of a traceback, what was raised.

    >>> _reason("Traceback:\n  here\nOSError: [Errno 22] Invalid argument\n", 1)
    'OSError: [Errno 22] Invalid argument'
    >>> _reason("", -9)
    'ended with code -9 and said nothing'
    """
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return lines[-1][:300] if lines else f"ended with code {code} and said nothing"
