"""Trainer processes for tests: real ones, to be killed, forked from one server."""

from __future__ import annotations

import atexit
import functools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.harness.injection import syscalls

ROOT = Path(__file__).parents[2]
INJECTION = Path(syscalls.__file__).parent
PATIENCE = 60.0
"""Seconds after which a test that waits fails."""


class Trainer:
    """One process that runs a function, with its output in the file ``output``."""

    def __init__(self, server: _Server, pid: int, output: Path) -> None:
        self._server, self.pid, self.output = server, pid, output
        self._code: int | None = None

    @property
    def text(self) -> str:
        """What it has written so far."""
        return self.output.read_text() if self.output.exists() else ""

    def send(self, number: int) -> None:
        """Sends it a signal."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL. It may still be dying when this returns."""
        self.send(signal.SIGKILL)

    def discard(self) -> None:
        """Kills it if it has not ended."""
        if self._code is None:
            self.kill()
            self.wait()

    def wait(self) -> int:
        """Its exit code, negative for a signal."""
        if self._code is None:
            self._code = self._server.wait(self.pid)
        return self._code

    def await_text(self, text: str) -> None:
        """Returns once it has written ``text``."""
        await_condition(lambda: text in self.text, lambda: f"{text!r} in the output:\n{self.text}")


class _Server:
    def __init__(self) -> None:
        self._connection, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._ended: dict[int, int] = {}
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "default"}
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.harness.server", str(theirs.fileno())],
                cwd=ROOT, pass_fds=(theirs.fileno(),), env=environment, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        self._connection.settimeout(PATIENCE)
        atexit.register(self.close)

    def start(self, request: dict[str, Any]) -> int:
        self._connection.send(json.dumps(request).encode())
        while True:
            message = self._receive()
            if "started" in message:
                return int(message["started"])

    def wait(self, pid: int) -> int:
        while pid not in self._ended:
            self._receive()
        return self._ended.pop(pid)

    def _receive(self) -> dict[str, int]:
        data = self._connection.recv(1 << 16)
        assert data, "the fork server has died"
        message: dict[str, int] = json.loads(data)
        if "ended" in message:
            self._ended[message["ended"]] = message["code"]
        return message

    def close(self) -> None:
        self._connection.close()
        self._process.wait()


@functools.cache
def _server() -> _Server:
    return _Server()


def start(
    function: str,
    output: Path,
    *,
    writer_faults: list[dict[str, Any]] | None = None,
    genuine_exit: bool = False,
    **arguments: Any,
) -> Trainer:
    """Starts ``function`` (``module:name``) with ``arguments`` in a process of its own.

    ``writer_faults`` are put in the way of its writer processes, see `tests.harness.injection.syscalls`. With
    ``genuine_exit`` the interpreter ends in full, which takes seconds, and not only with its exit handlers.
    """
    environment = {"PYTHONPATH": str(INJECTION), syscalls.VARIABLE: json.dumps(writer_faults)} if writer_faults else {}
    request = {
        "function": function, "output": str(output), "environment": environment, "arguments": arguments,
        "genuine_exit": genuine_exit,
    }  # fmt: skip
    return Trainer(_server(), _server().start(request), output)


def await_condition(condition: Any, described: Any) -> None:
    """Returns once ``condition()`` holds; fails the test if that takes longer than anything should."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {described()}"
        time.sleep(0.002)
