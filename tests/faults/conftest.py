"""File systems that fail by themselves, and processes to kill."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest


def mount(folder: Path, *options: str) -> None:
    """Mounts on ``folder``, or skips the test."""
    done = subprocess.run(["mount", *options, str(folder)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"this test mounts a file system, which is not allowed here: {done.stderr.strip()}")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount(folder, "-t", "tmpfs", "-o", "size=1m", "tmpfs")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def read_only(small_disk: Path) -> Callable[[], None]:
    """Makes `small_disk` read-only from here on."""

    def remount() -> None:
        mount(small_disk, "-o", "remount,ro")

    return remount


@pytest.fixture
def python() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a Python process that runs a text with arguments; its standard streams are pipes."""
    with ExitStack() as stack:

        def start(text: str, *arguments: object) -> subprocess.Popen[str]:
            command = [sys.executable, "-c", text, *map(str, arguments)]
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            return process

        yield start
