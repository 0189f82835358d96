"""Requests to stop: remembered by the handler, acted on at the next boundary."""

from __future__ import annotations

import builtins
import contextlib
import os
import signal
import sys
import threading
from types import FrameType
from typing import Any

_STOPPING = ("SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2")


class StopSignals:
    """While installed, a first signal sets ``received``; a second one ``insisted``, and goes where it would have gone.

    A handler must not save: it may have interrupted the very code that a save goes through. Only the process
    that installed the handlers acts on them: forked loader workers inherit them.
    """

    def __init__(self, exit_code: int | None = None) -> None:
        self._exit_code = exit_code
        self._previous: dict[int, Any] = {}
        self._pid = os.getpid()
        self._active = False
        self.received: int | None = None
        self.insisted = False
        self.at_once = False
        """Whether no boundary will come, so that a signal ends the process where it is, by an exception."""
        self.stopped_at_once = False

    def install(self) -> bool:
        """False where this is not the main thread, which alone may install handlers."""
        if threading.current_thread() is not threading.main_thread():
            return False
        self.received, self.insisted, self.at_once, self._active = None, False, False, True
        for name in _STOPPING:
            number = getattr(signal, name)
            if number not in self._previous:
                self._previous[number] = signal.signal(number, self._handle)
        return True

    def remove(self) -> None:
        """Puts the handlers before back, unless someone has installed others since."""
        for number, previous in list(self._previous.items()):
            if signal.getsignal(number) == self._handle:
                signal.signal(number, previous if previous is not None else signal.SIG_DFL)
                del self._previous[number]
        self._active = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        # One that others have put theirs over cannot be taken out of the chain: it hands on what comes.
        if os.getpid() != self._pid or self.received is not None or not self._active:
            self.insisted = True
            self._pass_on(number, frame)
            return
        if self.at_once:
            self.at_once, self.stopped_at_once = False, True
            raise stop_exception(number, self._exit_code)
        self.received = number
        # Not print: the signal may have interrupted one, and its buffer refuses to be entered twice.
        text = f"holdfast: {signal.Signals(number).name}: saving at the next boundary; again to stop now\n"
        with contextlib.suppress(OSError):
            os.write(2, text.encode())

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        previous = self._previous.get(number)
        if callable(previous):
            previous(number, frame)
        elif previous != signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)


def in_notebook() -> bool:
    """Whether this is IPython, where an exit would end the kernel and all that is in it."""
    return hasattr(builtins, "__IPYTHON__") or "ipykernel" in sys.modules


def stop_exception(number: int, exit_code: int | None) -> BaseException:
    """What ends the loop after a save on a signal: in scripts the exit code, or 128 + n; in notebooks a Ctrl-C."""
    return KeyboardInterrupt() if in_notebook() else SystemExit(128 + number if exit_code is None else exit_code)
