"""What a run folder's journals tell about its attempts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any


@dataclass
class Attempt:
    """One start of the run: where it resumed, the loss after each of its steps, and the steps that were saved."""

    resumed: int = 0
    losses: dict[int, float] = field(default_factory=dict)
    saved: list[int] = field(default_factory=list)

    @property
    def last(self) -> int:
        return max(self.losses, default=self.resumed)


def journal(folder: Path, attempt: int) -> Path:
    return folder / "journal" / f"{attempt:04d}.jsonl"


def lines(path: Path) -> Iterator[dict[str, Any]]:
    """Whole lines only: the journal of a living attempt may be read while it grows."""
    text = path.read_text() if path.exists() else ""
    return (json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n"))


def read_attempt(path: Path) -> Attempt:
    attempt = Attempt()
    for line in lines(path):
        match line:
            case {"t": "batch", "step": step, "log": {"loss": [*_, loss]}}:
                attempt.losses[step] = loss
            case {"t": "saved", "step": step}:
                attempt.saved.append(step)
            case {"t": "resumed", "step": step}:
                attempt.resumed = step
    return attempt


def read_attempts(folder: Path) -> list[Attempt]:
    attempts = [read_attempt(path) for path in sorted((folder / "journal").glob("*.jsonl"))]
    for killed, successor in pairwise(attempts):
        # The writer outlives the trainer: what it committed afterwards, the killed attempt could not write down.
        if successor.resumed > max(killed.saved, default=killed.resumed):
            killed.saved.append(successor.resumed)
    return attempts
