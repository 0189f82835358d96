"""Loads into tensors that exist, and starts that resume."""

from __future__ import annotations

import time

from suite import figures
from suite.contenders.base import Contender, Steps
from suite.job import Job
from suite.page_cache import cache, evict
from suite.records import Answer, Figures, Request

WARM, COLD = 2, 1
SETTLED = 0.2
"""Seconds in which the memory of a model and its optimizer is looked at from outside."""

clock = time.perf_counter


def measure_loads(contender: Contender, digest: str) -> Answer:
    """Each load has to bring every bit back; two of them are looked at in full."""
    job = contender.job
    job.initialise()
    began = clock()
    time.sleep(SETTLED)
    initialised = clock()
    contender.open()
    contender.load()
    _require(job, digest)
    loaded = clock()
    cache(contender.files())
    warm = [_timed(contender) for _ in range(WARM)]
    notes, cold = list[str](), list[float]()
    for _ in range(COLD):
        notes.append(f"taken out of the page cache: {evict(contender.files())}")
        cold.append(_timed(contender))
    _require(job, digest)
    spans = {"model": (began, initialised), "loading": (loaded, clock())}
    return Answer(figures={figures.WARM: warm, figures.COLD: cold}, spans=spans, notes=sorted(set(notes)))


def _timed(contender: Contender) -> float:
    contender.job.scramble()
    began = clock()
    contender.load()
    contender.job.synchronize()
    return clock() - began


def _require(job: Job, digest: str) -> None:
    if job.digest() != digest:
        raise AssertionError("the load did not bring the saved values back")


def measure_resume(contender: Contender | None, job: Job, request: Request) -> Answer:
    """From the start of the process; without a contender there is nothing to resume."""
    found: Figures = {}

    def steps() -> Steps:
        found[figures.FIRST_BATCH] = [clock() - request.began]
        yield
        found[figures.FIRST_STEP] = [clock() - request.began]

    if contender is None:
        for _ in steps():
            job.step()
    else:
        contender.open()
        contender.resume()
        contender.train(steps())
    return Answer(figures=found)
