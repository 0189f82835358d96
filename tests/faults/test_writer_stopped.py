"""The writer process is stopped, or stuck in a slow disk, while the trainer goes on: it misses nothing."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from holdfast import HoldfastWarning, Run, SaveError, checkpoints, latest
from holdfast.engine import messages
from holdfast.engine.messages import Filled
from holdfast.state.torch.tensor import TensorSource

MORE_THAN_FIT = 1000
"""Messages that nobody reads."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def state() -> dict[str, Any]:
    return {"large": {"a": torch.rand(2_000_000)}}


class Writer:
    """The writer of a run, which can be stopped and goes on."""

    def __init__(self, run: Run) -> None:
        self.handle = run._session.saves.checkpointer.writer
        self.handle._await_ready()

    def stop(self) -> None:
        os.kill(self.handle.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        os.kill(self.handle.pid, signal.SIGCONT)


def test_a_snapshot_of_very_many_pieces(folder: Path, state: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Training does not wait for the writer, which hears all the same that it is complete."""
    monkeypatch.setattr(messages, "PIECE", 4096)
    with Run(folder, state) as run:
        writer = Writer(run)
        writer.stop()
        run.save()
        writer.go_on()
        run.wait()
    found = {"a": torch.zeros(2_000_000)}
    latest(folder).load_into(large=found)
    assert torch.equal(found["a"], state["large"]["a"])


def test_more_messages_than_fit(folder: Path, state: dict[str, Any]) -> None:
    """The trainer waits for the writer to read them, and the last one is not lost."""
    with Run(folder, state) as run:
        writer = Writer(run)
        writer.stop()
        later = threading.Timer(0.5, writer.go_on)
        later.start()
        for _ in range(MORE_THAN_FIT):
            writer.handle._tell(Filled(0))
        later.join()
        run.save()
        run.wait()
    assert len(checkpoints(folder)) == 1


def test_save_after_save_that_fails(folder: Path, state: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is taken back, and the one that works is the one that is there."""
    copy = TensorSource.copy_into

    def fail(self: TensorSource, destination: memoryview, begin: int = 0) -> None:
        copy(self, destination, begin)
        raise RuntimeError("the device is gone")

    with Run(folder, state) as run:
        writer = Writer(run)
        writer.stop()
        monkeypatch.setattr(TensorSource, "copy_into", fail)
        for _ in range(10):
            with pytest.warns(HoldfastWarning, match="the device is gone"), pytest.raises(SaveError):
                run.save()
            state["large"]["a"] += 1
        monkeypatch.setattr(TensorSource, "copy_into", copy)
        run.save()
        writer.go_on()
        run.wait()
    found = {"a": torch.zeros(2_000_000)}
    [checkpoint] = checkpoints(folder)
    checkpoint.load_into(large=found)
    assert torch.equal(found["a"], state["large"]["a"])
