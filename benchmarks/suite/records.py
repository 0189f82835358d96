"""What one process is asked to measure, and what it answers."""

from __future__ import annotations

import msgspec

from suite.workload import Workload

TRAIN, LOAD, RESUME, LIMITS = "train", "load", "resume", "limits"
"""The tasks of a process: save in a training loop; load into tensors that exist; start until there is a batch; measure
the machine."""
MACHINE = "this machine"
"""In the place of a contender: the raw limits, and a start that has nothing to resume."""

Figures = dict[str, list[float]]
"""Seconds and bytes by the names of `suite.figures`; several where one process measured the same several times."""


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """``began`` is the clock when the process was started, ``digest`` what a load has to bring back."""

    task: str
    contender: str
    workload: Workload
    folder: str
    saves: int
    began: float = 0.0
    digest: str = ""


class Traits(msgspec.Struct, frozen=True, kw_only=True):
    """What is so of a contender whatever is measured."""

    asynchronous: bool
    durable: str
    verifies: str
    versions: dict[str, str]


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """``spans`` are times between which the memory of the process is looked at from outside.

    Of one that has trained: ``files`` are what a load would read, ``digest`` is what it has to bring back, and
    ``loads`` and ``resumes`` say whether there is something to measure of these. ``cannot`` is why there is no answer.
    """

    figures: Figures = {}
    cannot: str = ""
    spans: dict[str, tuple[float, float]] = {}
    files: list[str] = []
    digest: str = ""
    notes: list[str] = []
    loads: bool = False
    resumes: bool = False
    traits: Traits | None = None


class Measurement(msgspec.Struct, frozen=True, kw_only=True):
    """Of one contender in one repetition; or why it could not run."""

    repetition: int
    workload: str
    contender: str
    figures: Figures = {}
    notes: list[str] = []
    cannot: str = ""
    traits: Traits | None = None


class Results(msgspec.Struct, frozen=True, kw_only=True):
    """All that `docs/performance.md` is made of."""

    command: str
    date: str
    machine: dict[str, str]
    scratch: str
    workloads: list[Workload]
    repetitions: int
    saves: int
    traits: dict[str, Traits]
    measurements: list[Measurement]
