"""What saves take of memory, and that none of it stays."""

from __future__ import annotations

import gc
import os
import threading
from pathlib import Path

import pytest
import torch

from holdfast import KeepLast, Run

MIB = 1 << 20


def proportional(pid: int) -> int:
    """Bytes of memory that a process accounts for; what it shares with another one is split between them."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("the kernel does not say")


def held(run: Run) -> tuple[int, int, int]:
    """Open files, threads and mappings of the trainer and its writer together."""
    pids = (os.getpid(), run._session.saves.checkpointer.writer.pid)
    files = sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids)
    threads = sum(len(os.listdir(f"/proc/{pid}/task")) for pid in pids)
    mappings = sum(len(Path(f"/proc/{pid}/maps").read_text().splitlines()) for pid in pids)
    return files, threads, mappings


def change(model: torch.nn.Module) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)


def save(run: Run, model: torch.nn.Module) -> None:
    change(model)
    run.save()
    run.wait()


@pytest.mark.parametrize("arena", [None, "64 MiB"])
def test_a_save_takes_the_arena_and_little_more(tmp_path: Path, arena: str | None) -> None:
    """At most 64 MiB beyond it, in the trainer and its writer together; and the arena keeps to its limit."""
    model = torch.nn.Linear(8192, 8192)  # 256 MiB
    torch.optim.SGD(model.parameters(), lr=0.1)
    gc.collect()
    before = proportional(os.getpid())
    with Run(tmp_path / "run", {"model": model}, arena=arena, keep=KeepLast(1)) as run:
        most = 0
        for _ in range(3):
            change(model)
            run.save()
            most = max(most, _used(run))
            run.wait()
            most = max(most, _used(run))
        size = run._session.saves.checkpointer._arena.size  # type: ignore[union-attr]
    assert size <= (64 if arena else 257) * MIB
    # An interpreter of its own, with what it imports, is about half of that.
    assert most - before <= size + 64 * MIB


def _used(run: Run) -> int:
    return proportional(os.getpid()) + proportional(run._session.saves.checkpointer.writer.pid)


@pytest.mark.slow
def test_nothing_is_left_of_a_thousand_saves(tmp_path: Path) -> None:
    """No open file, no thread, no mapping, and no more memory than after the first hundred."""
    model = torch.nn.Linear(64, 64)
    with Run(tmp_path / "run", {"model": model}, keep=KeepLast(2)) as run:
        for _ in range(100):
            save(run, model)
        gc.collect()
        before, used = held(run), _used(run)
        for _ in range(900):
            save(run, model)
        gc.collect()
        after = held(run)
        assert after[:2] == before[:2]
        assert after[2] <= before[2] + 16
        assert _used(run) <= used + 4 * MIB
    assert not [one for one in threading.enumerate() if one.name.startswith("holdfast")]
