"""The process may not write files over a size (``ulimit -f``)."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

START = """
import mmap, resource, sys
from holdfast.errors import StorageError
from holdfast.storage.local import LocalStorage
limit, size = int(sys.argv[2]), int(sys.argv[3])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
memory = memoryview(mmap.mmap(-1, -(-size // 4096) * 4096))
attempt = LocalStorage(sys.argv[1]).begin("checkpoint", "1")
try:
    attempt.write("x", [memory[i : i + 16384] for i in range(0, len(memory), 16384)], size)
    attempt.commit(b"{}")
    print("committed")
except StorageError as error:
    attempt.abandon()
    print(error)
"""


def test_a_shard_over_the_limit_fails_whole(python: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    """The save fails with EFBIG and its way out, instead of the signal that would kill the process or a short file."""
    output, _ = python(START, tmp_path, 100_000, 200_000).communicate()
    assert "[Errno 27] cannot write" in output
    assert "ulimit -f" in output
    assert list(tmp_path.iterdir()) == []


def test_a_limit_inside_the_padding_does_no_harm(python: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    """A shard that fits is written, although its last padded block would not."""
    output, _ = python(START, tmp_path, 100_000, 99_999).communicate()
    assert output == "committed\n"
    assert (tmp_path / "checkpoint" / "x").read_bytes() == bytes(99_999)
