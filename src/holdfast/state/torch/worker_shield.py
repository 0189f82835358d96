"""Loader workers that stay alive while their trainer saves after a SIGTERM."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable


class WorkerShield:
    """A ``worker_init_fn`` that makes a loader worker ignore SIGTERM unless its trainer sent it.

    Schedulers signal a whole process group. Workers that die of it take the trainer along («DataLoader worker exited
    unexpectedly») before it reaches the boundary where it would have saved. A worker whose trainer is gone
    ends by itself; one that its trainer terminates still ends at once.
    """

    def __init__(self, inner: Callable[[int], None] | None) -> None:
        self._inner = inner
        self._trainer = os.getpid()

    def __call__(self, worker: int) -> None:
        if hasattr(signal, "sigwaitinfo"):
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
            threading.Thread(target=self._watch, name="holdfast-shield", daemon=True).start()
        if self._inner is not None:
            self._inner(worker)

    def _watch(self) -> None:
        while True:
            sender = signal.sigwaitinfo({signal.SIGTERM}).si_pid
            if sender == self._trainer or os.getppid() != self._trainer:
                os._exit(0)
