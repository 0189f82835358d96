"""A run whose writer stands still while training goes on, so that all is written only after it was changed."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from holdfast import AtEnd, Event, KeepAll, Run, SavePolicy
from holdfast.policies.moment import Moment
from tests.harness.history import History


class StoppedWriter(SavePolicy):
    """Due at each boundary but the last, from which on the writer stands still until it is told to `go_on`."""

    __slots__ = ("_last", "run")

    def __init__(self, last: int) -> None:
        self._last = last

    def due(self, moment: Moment) -> str | None:
        if moment.event != "boundary" or moment.progress.batches == self._last:
            return None
        self._writer._await_ready()
        os.kill(self._writer.pid, signal.SIGSTOP)
        return "at each boundary"

    def go_on(self) -> None:
        os.kill(self._writer.pid, signal.SIGCONT)

    @property
    def _writer(self) -> Any:
        return self.run._session.saves.checkpointer.writer


def train_ahead_of_the_writer(
    folder: Path,
    state: dict[str, Any],
    batches: int,
    batch: Callable[[int], object],
    listen: Callable[[Event], object] | None = None,
) -> Run:
    """Saves each boundary, and lets nothing of it be written before the ``batch`` behind it has changed the state."""
    stopped = StoppedWriter(batches)
    with Run(folder, state, save=stopped | AtEnd(), keep=KeepAll()) as run:
        stopped.run, run.on_event = run, listen
        for _ in run.epochs(1):
            for number in run.batches(range(batches)):
                try:
                    batch(number)
                    assert len(History(folder).checkpoints) == max(0, number - 1)
                finally:
                    stopped.go_on()
                run.wait()
    return run
