"""The memory of a process and of all that it starts, looked at from outside while it works."""

from __future__ import annotations

import subprocess
import threading
import time

from suite.process_tree import members, memory_bytes

EVERY, MEMBERS_EVERY = 0.02, 10
"""Seconds between two looks, and looks between two searches for new processes."""


class MemoryWatch:
    """Remembers when it saw how much, by the clock that the process uses too."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._seen: list[tuple[float, int]] = []
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        processes, known, looks = [self._process.pid], {self._process.pid}, 0
        while self._process.poll() is None:
            if looks % MEMBERS_EVERY == 0:
                # A process that has just been forked still shows the memory of its parent as its own.
                found = members(self._process.pid)
                processes, known = [one for one in found if one in known], set(found)
            self._seen.append((time.perf_counter(), memory_bytes(processes)))
            looks += 1
            time.sleep(EVERY)

    def close(self) -> None:
        self._thread.join()

    def peak(self, span: tuple[float, float]) -> int:
        """The most that was seen between the two moments."""
        begin, end = span
        return max((memory for at, memory in self._seen if begin <= at <= end), default=0)
