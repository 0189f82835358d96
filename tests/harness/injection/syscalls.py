"""Strikes a process at one of its system calls: kills it, stops it, or has the call fail.

Imports nothing but what every interpreter has, because it also runs inside the writer process.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import os
import signal
import socket
import subprocess
from typing import Any

VARIABLE = "SYSCALL_FAULTS"
CALLS = {
    os: (
        "open", "write", "close", "fsync", "rename", "link", "unlink", "rmdir", "mkdir", "ftruncate", "preadv",
        "listdir", "scandir",
    ),
    fcntl: ("lockf", "fcntl"),
    socket: ("send_fds",),
    subprocess: ("_fork_exec",),
}  # fmt: skip
"""What storage, locks and messages go through."""

_BLOCK = 1 << 20
_open, _write, _close = os.open, os.write, os.close


class Fault:
    """What happens at the ``call``-th call, counted from 1, of ``function`` (of any, if it is None).

    ``action`` is ``kill``, ``stop``, ``error`` (which raises ``errno``), ``count``, or, after a ``preadv``, ``spoil``,
    which flips a bit of what a large read gave; ``when`` is ``before`` or ``after`` the call. It happens ``times``
    times over all processes of a run, each of which takes one of the files ``token.0``, ``token.1``, …
    """

    def __init__(
        self, *, action: str, token: str, call: int = 1, function: str | None = None, when: str = "before",
        times: int = 1, errno: int = 5,
    ) -> None:  # fmt: skip
        self.action, self.token, self.call, self.function = action, token, call, function
        self.when, self.times, self.errno = when, times, errno
        self._seen = 0
        self._process = os.getpid()

    def note(self, function: str) -> bool:
        """Counts a call; whether this is the one."""
        if os.getpid() != self._process or self.function not in (None, function):
            return False
        self._seen += 1
        if self.action == "count":
            _append(self.token, f"{function}\n")
            return False
        return self._seen >= self.call if self.action in ("error", "spoil") else self._seen == self.call

    def strike(self, arguments: tuple[Any, ...]) -> None:
        """Does it, unless it has been done often enough."""
        if self.action == "spoil" and len(arguments[1][0]) < _BLOCK:
            return
        if not any(_claim(f"{self.token}.{number}") for number in range(self.times)):
            return
        if self.action == "spoil":
            arguments[1][0][0] ^= 1
            return
        if self.action == "error":
            raise OSError(self.errno, os.strerror(self.errno))
        os.kill(os.getpid(), signal.SIGKILL if self.action == "kill" else signal.SIGSTOP)


def install(faults: list[dict[str, Any]]) -> None:
    """Puts ``faults`` in the way of every function in `CALLS`."""
    active = [Fault(**fault) for fault in faults]
    for module, names in CALLS.items():
        for name in names:
            setattr(module, name, _struck(getattr(module, name), name, active))


def install_from_environment() -> None:
    """Installs what the variable holds, if it is set."""
    text = os.environ.get(VARIABLE)
    if text:
        install(json.loads(text))


def _struck(original: Any, name: str, faults: list[Fault]) -> Any:
    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        due = [fault for fault in faults if fault.note(name)]
        for fault in due:
            if fault.when == "before":
                fault.strike(args)
        result = original(*args, **kwargs)
        for fault in due:
            if fault.when == "after":
                fault.strike(args)
        return result

    return call


def _claim(path: str) -> bool:
    with contextlib.suppress(FileExistsError):
        _close(_open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        return True
    return False


def _append(path: str, text: str) -> None:
    descriptor = _open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    _write(descriptor, text.encode())
    _close(descriptor)
