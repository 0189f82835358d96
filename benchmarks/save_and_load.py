"""Stall, durable save and load of one state: holdfast beside `torch.save` + fsync and `torch.distributed.checkpoint`.

All contenders run interleaved in one process on the same disk, so that a slow moment of the machine hits each of them.

    python benchmarks/save_and_load.py --gib 2 --repetitions 5 --folder .

Prints a table and writes ``benchmarks/results/save_and_load.json``. Times are seconds; a ratio above 1 means slower
than holdfast. "stall" is how long the training loop waits, "durable" how long until the bytes have survived an fsync,
"cold" and "warm" how long a load into the model's own tensors takes, from the disk and from the page cache. Only
holdfast's loads verify what they read.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from rich.console import Console
from rich.progress import track
from rich.table import Table

import holdfast

RESULTS = Path(__file__).parent / "results" / "save_and_load.json"
TENSORS = 64
KEYS = ("stall", "durable", "cold", "warm")


class State(torch.nn.Module):
    """``gib`` GiB of float32 in equal parts."""

    def __init__(self, gib: float) -> None:
        super().__init__()
        size = int(gib * (1 << 30)) // 4 // TENSORS
        self.parts = torch.nn.ParameterList(torch.rand(size) for _ in range(TENSORS))

    def scramble(self) -> None:
        """Other values, so that a load that does nothing is found out."""
        with torch.no_grad():
            for part in self.parts:
                part.fill_(-1)


class Holdfast:
    name = "holdfast"

    def __init__(self, folder: Path, state: State) -> None:
        self._folder, self._state = folder / "holdfast", state
        self._run = holdfast.Run(self._folder, state={"model": state}, keep=holdfast.KeepLast(1))

    def save(self) -> tuple[float, float]:
        started = time.perf_counter()
        self._run.save()
        stalled = time.perf_counter()
        self._run.wait()
        return stalled - started, time.perf_counter() - started

    def load(self) -> None:
        newest = holdfast.latest(self._folder)
        assert newest is not None
        newest.load_into(model=self._state)

    def close(self) -> None:
        self._run.close()


class TorchSave:
    name = "torch.save + fsync"

    def __init__(self, folder: Path, state: State) -> None:
        self._path, self._state = folder / "torch.pt", state

    def save(self) -> tuple[float, float]:
        started = time.perf_counter()
        with self._path.open("wb") as file:
            torch.save(self._state.state_dict(), file)
            file.flush()
            os.fsync(file.fileno())
        took = time.perf_counter() - started
        return took, took

    def load(self) -> None:
        loaded = torch.load(self._path, mmap=True, weights_only=True)
        self._state.load_state_dict(loaded)

    def close(self) -> None:
        return None


class DcpSave:
    name = "dcp.save"

    def __init__(self, folder: Path, state: State) -> None:
        self._folder, self._state, self._count = folder / "dcp", state, 0

    def save(self) -> tuple[float, float]:
        self._drop()
        self._count += 1
        started = time.perf_counter()
        dcp.save(self._state.state_dict(), checkpoint_id=self._current())
        took = time.perf_counter() - started
        return took, took

    def load(self) -> None:
        dcp.load(self._state.state_dict(), checkpoint_id=self._current())

    def close(self) -> None:
        self._drop()

    def _current(self) -> str:
        return str(self._folder / str(self._count))

    def _drop(self) -> None:
        shutil.rmtree(self._current(), ignore_errors=True)


class DcpAsyncSave(DcpSave):
    name = "dcp.async_save"

    def __init__(self, folder: Path, state: State) -> None:
        super().__init__(folder, state)
        self._folder = folder / "dcp-async"
        if not torch.distributed.is_initialized():
            torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)

    def save(self) -> tuple[float, float]:
        self._drop()
        self._count += 1
        started = time.perf_counter()
        future = dcp.async_save(self._state.state_dict(), checkpoint_id=self._current())
        stalled = time.perf_counter()
        future.result()
        return stalled - started, time.perf_counter() - started


def measure(contender: Any, state: State, expected: torch.Tensor, folder: Path) -> dict[str, float]:
    """One save, one load from the disk and one from the page cache."""
    stall, durable = contender.save()
    drop_from_cache(folder)
    cold = timed_load(contender, state, expected)
    return {"stall": stall, "durable": durable, "cold": cold, "warm": timed_load(contender, state, expected)}


def timed_load(contender: Any, state: State, expected: torch.Tensor) -> float:
    """Seconds of a load, and proof that it brought the values back."""
    state.scramble()
    started = time.perf_counter()
    contender.load()
    took = time.perf_counter() - started
    assert torch.equal(state.parts[-1].detach(), expected), f"{contender.name} did not bring the values back"
    return took


def drop_from_cache(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def run(gib: float, repetitions: int, folder: Path) -> dict[str, dict[str, list[float]]]:
    state = State(gib)
    expected = state.parts[-1].detach().clone()
    makers: list[Callable[[Path, State], Any]] = [Holdfast, TorchSave, DcpSave, DcpAsyncSave]
    contenders = [make(folder, state) for make in makers]
    figures: dict[str, dict[str, list[float]]] = {one.name: {key: [] for key in KEYS} for one in contenders}
    for repetition in track(range(repetitions + 1), "measuring"):
        for contender in contenders:
            found = measure(contender, state, expected, folder)
            if repetition > 0:  # the first round warms up
                for key, value in found.items():
                    figures[contender.name][key].append(value)
    for contender in contenders:
        contender.close()
    return figures


def summary(figures: dict[str, dict[str, list[float]]]) -> dict[str, dict[str, dict[str, float]]]:
    """Median, least, most, and the ratio of the median to holdfast's."""
    own = figures[Holdfast.name]
    return {
        name: {
            key: {
                "median": statistics.median(values), "min": min(values), "max": max(values),
                "ratio": statistics.median(values) / statistics.median(own[key]),
            }
            for key, values in measured.items()
        }
        for name, measured in figures.items()
    }  # fmt: skip


def table(result: dict[str, dict[str, dict[str, float]]], title: str) -> Table:
    shown = Table(title=title, caption="seconds: median (min-max), then the ratio to holdfast")
    shown.add_column("")
    for key in KEYS:
        shown.add_column(key, justify="right")
    for name, measured in result.items():
        cells = [
            f"{one['median']:.3f} ({one['min']:.3f}-{one['max']:.3f})  {one['ratio']:.2f}x" for one in measured.values()
        ]
        shown.add_row(name, *cells)
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gib", type=float, default=2.0, help="size of the state (default 2)")
    parser.add_argument("--repetitions", type=int, default=5, help="measured rounds (default 5)")
    parser.add_argument("--folder", type=Path, default=Path(), help="where to write: the disk that is measured")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", module="torch.distributed")
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        figures = run(arguments.gib, arguments.repetitions, Path(folder))
    result = summary(figures)
    Console(width=120).print(
        table(result, f"{arguments.gib:g} GiB, {arguments.repetitions} rounds, torch {torch.__version__}")
    )
    RESULTS.parent.mkdir(exist_ok=True)
    machine = {"cores": os.cpu_count(), "platform": platform.platform(), "torch": torch.__version__}
    command = f"python benchmarks/save_and_load.py --gib {arguments.gib:g} --repetitions {arguments.repetitions}"
    RESULTS.write_text(
        json.dumps({"command": command, "machine": machine, "seconds": figures, "summary": result}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
