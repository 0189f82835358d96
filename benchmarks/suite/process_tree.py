"""What a process and all that it started use: processor, memory, and bytes handed to the storage. Linux only."""

from __future__ import annotations

import os
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


def members(root: int) -> list[int]:
    """The process and its descendants."""
    found, waiting = [], [root]
    while waiting:
        found.append(process := waiting.pop())
        for children in _children_files(process):
            waiting.extend(int(one) for one in _read(children).split())
    return found


def _children_files(process: int) -> list[Path]:
    try:
        return [thread / "children" for thread in Path(f"/proc/{process}/task").iterdir()]
    except OSError:
        return []


def _read(path: Path) -> str:
    """Nothing, for a process that has ended in the meantime."""
    try:
        return path.read_text()
    except OSError:
        return ""


def cpu_seconds(processes: list[int]) -> float:
    """Of these processes and of their children that have ended."""
    return sum(_ticks(_read(Path(f"/proc/{one}/stat"))) for one in processes) / TICKS


def _ticks(stat: str) -> int:
    """Of a line of ``/proc/PROCESS/stat``.

    >>> _ticks("7 (a b) c) S 1 2 3 4 5 6 7 8 9 10 100 20 3 4 0 0 1 0 5")
    127
    """
    return sum(int(one) for one in stat.rpartition(")")[2].split()[11:15])


def written_bytes(processes: list[int]) -> int:
    """Handed to the storage by these and by their children that have ended, through the page cache or around it."""
    return sum(_number(_read(Path(f"/proc/{one}/io")), "write_bytes:") for one in processes)


def memory_bytes(processes: list[int]) -> int:
    """Memory that no file stands behind: each process's own, and once what they share.

    The page cache, and so a file that is mapped, is not counted: the system takes it back when it wants.
    """
    statuses = [_read(Path(f"/proc/{one}/status")) for one in processes]
    own = sum(_number(one, "RssAnon:") for one in statuses)
    shared = max((_number(one, "RssShmem:") for one in statuses), default=0)
    return (own + shared) * 1024


def _number(text: str, key: str) -> int:
    for line in text.splitlines():
        if line.startswith(key):
            return int(line.split()[1])
    return 0
