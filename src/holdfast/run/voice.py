"""How a run tells people and programs what happens."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from holdfast.engine.journal import Journal
from holdfast.errors import HoldfastWarning, StorageError


class Event(msgspec.Struct, frozen=True):
    """Something that happened: ``kind`` is stable (``"saved"``, ``"save_failed"``, ``"resumed"``, …)."""

    kind: str
    message: str
    data: dict[str, Any]


_PACKAGE = str(Path(__file__).parents[1])


def _levels_of_holdfast() -> int:
    """How far up the stack the user's own line is, seen from the caller: a warning should point there."""
    frame, levels = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame, levels = frame.f_back, levels + 1
    return levels


class Voice:
    """Says things once in each place where they belong: the journal, ``on_event``, standard error, a warning."""

    def __init__(self) -> None:
        self.journal: Journal | None = None
        self.on_event: Callable[[Event], object] | None = None
        self._early: list[Event] = []
        self._said: set[str] = set()

    def attach(self, journal: Journal) -> None:
        """Writes to ``journal`` from now on, and what was said before there was one."""
        self.journal = journal
        for event in self._early:
            self._record(event)
        self._early.clear()

    def flush(self) -> None:
        """Writes the journal. A disk that refuses it is warned of, once: training goes on, the lines are kept."""
        if self.journal is not None:
            try:
                self.journal.flush()
            except StorageError as error:
                self.warn("journal", f"the journal is not written: {error} Training goes on.", once="journal")

    def close(self) -> None:
        """The journal ends here; what is said later is not recorded."""
        self.flush()
        if self.journal is not None:
            self.journal.close()
            self.journal = None

    def note(self, kind: str, message: str = "", **data: Any) -> None:
        """For the record: journal and ``on_event``."""
        event = Event(kind, message, data)
        self._record(event)
        if self.on_event is None:
            return
        try:
            self.on_event(event)
        except Exception as error:
            # A listener's failure must not end the training; one that warns of itself would be asked again.
            text = f"run.on_event raised {error!r} for the event {kind!r}"
            warnings.warn(text, HoldfastWarning, stacklevel=_levels_of_holdfast())

    def say(self, kind: str, message: str, *, once: str | None = None, **data: Any) -> None:
        """For people too: a line on standard error. With ``once``, only the first time for that key."""
        if self._is_repeated(once):
            return
        # A launcher that has closed its end of the pipe must not end the training.
        with contextlib.suppress(OSError, ValueError):
            print(f"holdfast: {message}", file=sys.stderr, flush=True)
        self.note(kind, message, **data)

    def warn(
        self,
        kind: str,
        message: str,
        category: type[Warning] = HoldfastWarning,
        *,
        once: str | None = None,
        **data: Any,
    ) -> None:
        """Needs attention: a Python warning. With ``once``, only the first time for that key."""
        if self._is_repeated(once):
            return
        self.note(kind, message, **data)
        warnings.warn(message, category, stacklevel=_levels_of_holdfast())

    def _is_repeated(self, once: str | None) -> bool:
        if once is None:
            return False
        repeated = once in self._said
        self._said.add(once)
        return repeated

    def _record(self, event: Event) -> None:
        if self.journal is None:
            self._early.append(event)
        else:
            self.journal.add(event.kind, message=event.message, **event.data)
