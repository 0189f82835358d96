"""A state that is larger than the arena streams through it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from holdfast import HoldfastWarning, Run, SaveError, Saver, UsageError, checkpoints, latest
from holdfast.engine import arena as arenas
from holdfast.engine.filling import Filling
from tests.harness.history import History

ARENA = "17 MiB"
"""One ring of 16 MiB, and room for the request."""


def state(seed: int = 0) -> dict[str, Any]:
    """50 MB in tensors of many kinds: longer than the ring, not contiguous, of two bytes, empty, tied, tiny."""
    torch.manual_seed(seed)
    large = torch.rand(5_000_001)
    return {
        "large": {"a": large, "tied": large, "empty": torch.empty(0, 3)},
        "small": {str(number): torch.rand(7) for number in range(50)},
        "odd": {
            "transposed": torch.rand(1201, 2403).t(),
            "strided": torch.rand(401, 3, 2003)[:, 1],
            "broadcast": torch.rand(1, 5).expand(300_000, 5),
            "half": torch.rand(3_000_001).to(torch.bfloat16),
            "complex": torch.rand(300_001, dtype=torch.complex64).conj(),
            "bytes": torch.arange(100_003, dtype=torch.uint8),
        },
    }


def assert_equal(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    for item, tensors in wanted.items():
        for name, tensor in tensors.items():
            assert torch.equal(found[item][name].resolve_conj(), tensor.resolve_conj()), f"{item}/{name}"


def blank() -> dict[str, Any]:
    found = state().items()
    return {item: {name: torch.zeros_like(one).contiguous() for name, one in its.items()} for item, its in found}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run"


def test_a_state_larger_than_the_arena_is_saved_bit_for_bit(folder: Path) -> None:
    """Whatever the tensors look like, and wherever the ring turns within them; training is told that it stops."""
    wanted = state()
    with warnings.catch_warnings(record=True), Run(folder, wanted, arena=ARENA) as run:
        run.save()
        assert run._session.saves.checkpointer._arena.size <= 17 << 20  # type: ignore[union-attr]
        run.wait()
    [checkpoint] = checkpoints(folder)
    checkpoint.verify()
    found = blank()
    checkpoint.load_into(**found)
    assert_equal(found, wanted)
    assert "streams through 16.8 MB" in History(folder).events("streams")[0]["message"]
    # It was written while training stood still, which must not count twice where a deadline is near.
    assert run._session.saves.meter.newest.persist == 0
    assert run._session.saves.meter.newest.blocking > 0


def test_it_streams_once_for_each_folder(folder: Path) -> None:
    """Savers that leave out different parts get theirs, whole."""
    wanted, other = state(), folder.with_name("other")
    savers = [Saver(), Saver(other, items=["odd", "small"], exclude=["odd/half"], save="at end")]
    with Run(folder, wanted, savers=savers, arena=ARENA) as run:
        run.save()
        run.wait()
        for _ in run.epochs(1):
            for _ in run.batches([1, 2]):
                pass
    found = blank()
    latest(folder).load_into(**found)
    assert_equal(found, wanted)
    partial = latest(other)
    partial.verify()
    found = {name: one for name, one in blank().items() if name != "large"}
    del found["odd"]["half"], wanted["odd"]["half"]
    partial.load_into(**found)
    assert_equal(found, {name: wanted[name] for name in found})


def test_a_writer_killed_in_the_middle_of_the_stream(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The save fails whole, and says why; the next one, with another writer, works."""
    wanted = state()
    go_on, calls = Filling._go_on, [0]
    run = Run(folder, wanted, arena=ARENA)
    writer = run._session.saves.checkpointer.writer

    def kill(self: Filling, position: int) -> None:
        calls[0] += 1
        if calls[0] == 7:
            os.kill(writer.pid, signal.SIGKILL)
            writer._process.wait()
        go_on(self, position)

    monkeypatch.setattr(Filling, "_go_on", kill)
    with pytest.warns(HoldfastWarning, match="larger than the arena"), pytest.raises(SaveError):
        run.save()
    with pytest.warns(HoldfastWarning, match="died 1 time and was replaced"):
        _save_durably(run)
    run.close()
    found = blank()
    latest(folder).load_into(**found)
    assert_equal(found, wanted)
    assert History(folder).debris == []


def _save_durably(run: Run) -> None:
    run.save()
    run.wait()


def test_a_tensor_that_cannot_be_read_in_the_middle_of_the_stream(folder: Path) -> None:
    """Nothing is left of what was written by then, and the next save works."""
    from holdfast.state.torch.tensor import TensorSource

    wanted = state()
    run = Run(folder, wanted, arena=ARENA)
    with pytest.MonkeyPatch.context() as patch:
        copy = TensorSource.copy_into

        def fail(self: TensorSource, destination: memoryview, begin: int = 0) -> None:
            if self.spec.dtype == "bfloat16" and begin:
                raise RuntimeError("the device is gone")
            copy(self, destination, begin)

        patch.setattr(TensorSource, "copy_into", fail)
        with pytest.warns(HoldfastWarning, match="the device is gone"), pytest.raises(SaveError):
            run.save()
    run.save()
    run.wait()
    run.close()
    assert len(checkpoints(folder)) == 1
    assert History(folder).debris == []


KILLED = """
import os, sys, signal
sys.path.insert(0, {root!r})
from holdfast import Run
from holdfast.engine.filling import Filling
from tests.run.test_streaming import ARENA, state
run = Run({folder!r}, state(), arena=ARENA)
run.save(); run.wait()
go_on, calls = Filling._go_on, [0]
def die(self, position):
    calls[0] += 1
    if calls[0] == {call}:
        os.kill(os.getpid(), signal.SIGKILL)
    go_on(self, position)
Filling._go_on = die
run.values["x"] = 1
run.save()
"""


@pytest.mark.parametrize("call", [1, 6, 11])
def test_a_trainer_killed_in_the_middle_of_the_stream(folder: Path, call: int) -> None:
    """What was committed before stays, nothing of the rest is ever taken for a checkpoint, and it is cleaned up."""
    script = KILLED.format(root=str(Path(__file__).parents[2]), folder=str(folder), call=call)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr
    Run(folder, blank(), arena=ARENA).close()
    assert len(checkpoints(folder)) == 1
    assert History(folder).debris == []
    found = blank()
    latest(folder).load_into(**found)
    assert_equal(found, state())


def test_memory_that_is_short_streams_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A quarter of what may still be used is the ring: the rest is for training."""
    wanted = state()
    with Run(folder, wanted) as run:
        monkeypatch.setattr(arenas, "allowed_memory", lambda: 80 << 20)
        wanted["large"]["more"] = torch.rand(10_000_000)
        run.save()
        run.wait()
    assert latest(folder).verify() is None
    assert History(folder).events("streams")


@pytest.mark.parametrize("value", ["lots", 0, -1, "0 GiB", 1.5, True])
def test_an_arena_that_is_no_size_is_refused(folder: Path, value: Any) -> None:
    """Before a folder is made."""
    with pytest.raises(UsageError, match=r"^arena="):
        Run(folder, state(), arena=value)
    assert not folder.exists()


def test_an_arena_too_small_to_stream_through_says_how_large_it_has_to_be(folder: Path) -> None:
    """The save fails with the number of bytes that would do."""
    run = Run(folder, state(), arena="1 MiB")
    said = r"too small for this run's state.*at least 1[67],\d{3},\d{3} to stream"
    with pytest.warns(HoldfastWarning, match=said), pytest.raises(SaveError):
        run.save()
    with pytest.raises(SaveError):
        run.close()


def test_an_arena_that_memory_is_too_short_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``arena=`` is the most that a snapshot may take, and no reason to refuse a save that fits through less."""
    wanted = state()
    monkeypatch.setattr(arenas, "allowed_memory", lambda: 20 << 20)
    monkeypatch.setattr(arenas, "RING_UNIT", 4 << 20)
    with Run(folder, wanted, arena="40 MiB") as run:
        run.save()
        run.wait()
    found = blank()
    latest(folder).load_into(**found)
    assert_equal(found, wanted)
    assert "streams through 4.2 MB" in History(folder).events("streams")[0]["message"]
