"""A training loop that saves, with a clock beside it."""

from __future__ import annotations

import os
import statistics
import threading
import time
from collections.abc import Generator
from dataclasses import dataclass, field

from suite import figures
from suite.contenders.base import Contender, Steps, Wait
from suite.page_cache import sync
from suite.process_tree import cpu_seconds, members, written_bytes
from suite.records import Answer, Figures

WARM_UP, BASELINE, LEAD, TAIL = 1, 5, 2, 1
"""Steps: before anything is timed; to know how long one takes; before the first save; at least behind each."""
LONGEST = 180.0
"""Seconds after which a save that is still not durable is given up."""

clock = time.perf_counter


@dataclass
class Watch:
    """Sees from another thread when a save is done, and makes durable what is not. For savers that come back before."""

    contender: Contender
    wait: Wait
    done: float = 0.0
    durable: float = 0.0
    error: BaseException | None = None
    _thread: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        try:
            self.wait()
            self.done = clock()
            make_durable(self.contender)
            self.durable = clock()
        except BaseException as error:
            self.error = error

    def over(self) -> bool:
        if self.error is not None:
            raise self.error
        return self.durable > 0


def make_durable(contender: Contender) -> None:
    if not contender.syncs:
        sync(contender.files(), contender.folder)


@dataclass
class Training:
    """All that one process measures of saves. `steps` wants a step of training at each `yield`."""

    contender: Contender
    saves: int
    found: Figures = field(default_factory=dict)
    spans: dict[str, tuple[float, float]] = field(default_factory=dict)
    batch: int = 0
    usual: float = 0.0

    def steps(self) -> Steps:
        yield from self._quiet(WARM_UP)
        yield from self._baseline()
        began = clock()
        yield from self._first_save(began)
        if self.contender.job.frozen():
            # Who tells what is frozen may first want to see that it stays as it was.
            yield from self._save_alone(timed=False)
        for _ in range(self.saves):
            yield from self._save_beside(figures.STALL, figures.OVERHEAD)
        for _ in range(self.saves):
            yield from self._save_alone()
        self.spans["saving"] = (began, clock())
        self._add(figures.DISK, sum(path.stat().st_size for path in self.contender.files()))

    def answer(self) -> Answer:
        job = self.contender.job
        self._add(figures.SIZE, job.size())
        self._add(figures.CHANGED, job.changed())
        files = [str(path) for path in self.contender.files()]
        kind = type(self.contender)
        return Answer(
            figures=self.found, spans=self.spans, files=files, digest=job.digest(), loads=kind.loads,
            resumes=kind.resumes, traits=kind.traits(),
        )  # fmt: skip

    def _quiet(self, count: int) -> Generator[None, None, None]:
        for _ in range(count):
            yield

    def _baseline(self) -> Steps:
        began, times = clock(), list[float]()
        for _ in range(BASELINE):
            before = clock()
            yield
            times.append(clock() - before)
        self.spans["training"] = (began, clock())
        self.usual = statistics.median(times)
        self.found[figures.STEP] = times

    def _first_save(self, began: float) -> Steps:
        """With all that has to be set up for it, while training goes on."""
        self.contender.begin()
        yield from self._train(LEAD)
        yield from self._save_beside(figures.FIRST_STALL, figures.FIRST_OVERHEAD, since=(began, LEAD + 1))

    def _train(self, count: int) -> Steps:
        for _ in range(count):
            yield
            self._pass_boundary(due=False)

    def _pass_boundary(self, due: bool) -> Wait | None:
        self.batch += 1
        return self.contender.boundary(self.batch, due)

    def _save_beside(self, stall: str, overhead: str, since: tuple[float, int] | None = None) -> Steps:
        """Saves, and trains on until the checkpoint is durable.

        The loop's time counts from the call, or from ``since``: a moment, and the steps between it and the call.
        """
        yield
        called = clock()
        began, steps = since or (called, 0)
        wait = self._pass_boundary(due=True)
        assert wait is not None
        returned = clock()
        watch = Watch(self.contender, wait) if self.contender.asynchronous else None
        if watch is None:
            make_durable(self.contender)
        resumed = clock()
        waited, behind = 0.0, 0
        while behind < TAIL or (watch is not None and not watch.over()):
            yield
            behind += 1
            waited = waited or self.contender.job.waited
            self._pass_boundary(due=False)
            if clock() - called > LONGEST:
                raise TimeoutError(f"a save was not durable after {LONGEST:g} s")
        self._add(overhead, clock() - began - (steps + behind) * self.usual)
        self._add(stall, resumed - called + waited)
        if since is None:
            self._add(figures.CALL, returned - called + waited)
            self._add(figures.BESIDE, (resumed if watch is None else watch.durable) - called)
        self.contender.drop_older()

    def _save_alone(self, timed: bool = True) -> Steps:
        """With no training beside it. The step before is there so that there is something to save."""
        yield
        processes = members(os.getpid())
        cpu, written, began = cpu_seconds(processes), written_bytes(processes), clock()
        wait = self._pass_boundary(due=True)
        assert wait is not None
        self.contender.finish(wait)
        done = clock()
        make_durable(self.contender)
        durable, processes = clock(), members(os.getpid())
        if timed:
            self._add(figures.DURABLE, durable - began)
            self._add(figures.DONE, done - began)
            self._add(figures.CPU, cpu_seconds(processes) - cpu)
            self._add(figures.WRITTEN, written_bytes(processes) - written)
        self.contender.drop_older()

    def _add(self, name: str, value: float) -> None:
        self.found.setdefault(name, []).append(value)


def measure(contender: Contender, saves: int) -> Answer:
    training = Training(contender, saves)
    contender.train(training.steps())
    answer = training.answer()
    contender.close()
    return answer
