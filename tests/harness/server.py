"""The process that trainers are forked from: torch is imported once, each trainer is a process of its own.

It is ``python -m tests.harness.server DESCRIPTOR`` and speaks JSON, one datagram per message, with
`tests.harness.trainers`. It stays single-threaded, because a child forked from a process with threads may hang.
"""

from __future__ import annotations

import atexit
import functools
import importlib
import json
import os
import select
import socket
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import torch

import holdfast.run.run  # noqa: F401  # what every trainer needs, imported before the forks
from holdfast.run.environment import describe_environment
from tests.harness import digits

Job = Callable[[], object]


class Server:
    """Forks a child for each request and reports how it ended."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._children: dict[int, int] = {}

    def serve(self) -> Job | None:
        """Returns in each child with what it has to do, and in the server, at the end of the connection, with None."""
        while True:
            poller = select.poll()
            for descriptor in (self._connection.fileno(), *self._children):
                poller.register(descriptor, select.POLLIN)
            for descriptor, _ in poller.poll():
                if descriptor in self._children:
                    self._report(descriptor)
                    continue
                data = self._connection.recv(1 << 16)
                if not data:
                    return None
                job = self._fork(json.loads(data))
                if job is not None:
                    return job

    def _report(self, descriptor: int) -> None:
        process = self._children.pop(descriptor)
        _, status = os.waitpid(process, 0)
        os.close(descriptor)
        self._send({"ended": process, "code": os.waitstatus_to_exitcode(status)})

    def _fork(self, request: dict[str, Any]) -> Job | None:
        module, name = request["function"].split(":")
        function = getattr(importlib.import_module(module), name)
        process = os.fork()
        if process:
            self._children[os.pidfd_open(process)] = process
            self._send({"started": process})
            return None
        for descriptor in self._children:
            os.close(descriptor)
        run = functools.partial(_run, function, request)
        return run if request["genuine_exit"] else lambda: _end_fast(run)

    def _send(self, message: dict[str, Any]) -> None:
        self._connection.send(json.dumps(message).encode())


def _run(function: Callable[..., object], request: dict[str, Any]) -> None:
    """Becomes what the request says, with a session, output and environment of its own, and runs the function."""
    os.setsid()
    output = os.open(request["output"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    for descriptor in (1, 2):
        os.dup2(output, descriptor)
    os.close(output)
    os.environ.update(request["environment"])
    function(**request["arguments"])


def _end_fast(job: Job) -> NoReturn:
    """Does what the interpreter does at the end, but for taking torch apart, which takes seconds."""
    code: object = 0
    try:
        job()
    except SystemExit as stop:
        code = stop.code
    except BaseException:
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]  # there is one
        code = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 0 if code is None else 1)


if __name__ == "__main__":
    torch.set_num_threads(1)
    describe_environment()
    digits.make()  # an optimizer imports a thousand modules more
    assert len(os.listdir("/proc/self/task")) == 1, "a child of a process with threads may hang"
    with socket.socket(fileno=int(sys.argv[1])) as connection:
        job = Server(connection).serve()
    if job is not None:
        job()
