"""Attempts of a scenario: each a process of its own, two of them at a time."""

from __future__ import annotations

import dataclasses
from collections import deque
from pathlib import Path
from typing import Any

from tests.harness import trainers

JOBS = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Attempt:
    """One start of ``scenario`` (``module:function``) in ``folder``; ``kill`` is how and at which boundary it ends."""

    scenario: str
    folder: str
    number: int = 1
    holdfast: bool = True
    kill: tuple[str, int] | None = None
    seed: int = 0
    options: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def outcome(self) -> Path:
        """The file with what it made, if it came to its end."""
        return Path(self.folder) / f"outcome-{self.number}.pt"

    @property
    def said(self) -> Path:
        """The file with all that it wrote to its standard output and error."""
        return Path(self.folder) / f"said-{self.number}.txt"


def run_all(attempts: list[Attempt]) -> list[int]:
    """The exit status of each: negative for the signal that ended it."""
    running: deque[trainers.Trainer] = deque()
    statuses: list[int] = []
    for one in attempts:
        Path(one.folder).mkdir(parents=True, exist_ok=True)
        if len(running) == JOBS:
            statuses.append(running.popleft().wait())
        running.append(trainers.start("tests.exactness.preloaded:play", one.said, **dataclasses.asdict(one)))
    return statuses + [one.wait() for one in running]
