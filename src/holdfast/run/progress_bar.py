"""A progress bar on standard error for what takes longer than a second."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from holdfast.types import Advance, Progressing

_PATIENCE_SECONDS = 1.0


def progressing(label: str, total: int) -> Advance:
    """A function to tell of work done, out of ``total``. It shows a bar on a terminal once a second has passed.

    >>> advance = progressing("reading", 10)
    >>> advance(10)
    """
    if total <= 0 or not sys.stderr.isatty():
        return _silent
    started, done = time.monotonic(), [0]
    bar: list[_Bar] = []

    def advance(amount: int) -> None:
        done[0] += amount
        if not bar and time.monotonic() - started > _PATIENCE_SECONDS:
            bar.append(_Bar(label, total))
        if bar:
            bar[0].show(done[0])

    return advance


def ticker(progressing: Progressing, label: str) -> Callable[[int, int], None]:
    """A progress bar over batches that are replayed; told of each with how many there are done and in all."""
    advance: list[Advance] = []

    def tick(done: int, total: int) -> None:
        if not advance:
            advance.append(progressing(f"{label}: replaying batches", total))
        advance[0](1)

    return tick


def _silent(amount: int) -> None:
    return None


class _Bar:
    """One task; it goes away when it is complete."""

    def __init__(self, label: str, total: int) -> None:
        from rich.console import Console
        from rich.progress import Progress

        self._total = total
        self._progress = Progress(console=Console(stderr=True), transient=True)
        self._task = self._progress.add_task(label, total=total)
        self._progress.start()

    def show(self, done: int) -> None:
        self._progress.update(self._task, completed=done)
        if done >= self._total:
            self._progress.stop()
