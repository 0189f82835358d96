"""What holdfast costs a run that does not save: at import, at the start, and at each boundary.

    python benchmarks/footprint.py --repetitions 7

Starts and imports are measured in fresh processes, with and without holdfast in turn. A boundary's cost is measured
inside one process, where a training step alternates with one under `run.batches`; the difference of the medians is
what a boundary adds to a step, logging and the journal included, whatever the cost of the step. "capture" is the part
of it that remembers random states, positions and small state; it is timed in a loop of steps, which leave the
processor's caches cold, and once more in a loop that does nothing else.

Prints a table and writes ``benchmarks/results/footprint.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from unittest import mock

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import holdfast
from holdfast.run.snapshots import Snapshots
from holdfast.state.torch import rng

RESULTS = Path(__file__).parent / "results" / "footprint.json"

FIRST_BATCH = """
import sys, time
import torch
from torch.utils.data import DataLoader, TensorDataset
model = torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.ReLU(), torch.nn.Linear(64, 2))
optimizer = torch.optim.AdamW(model.parameters())
loader = DataLoader(TensorDataset(torch.zeros(64, 8)), batch_size=8)
started = time.perf_counter()
epochs, batches = range(1), lambda loader: loader
if len(sys.argv) > 1:
    import holdfast
    run = holdfast.Run(sys.argv[1], state={"model": model, "optimizer": optimizer})
    epochs, batches = run.epochs(1), run.batches
for epoch in epochs:
    for batch in batches(loader):
        print(time.perf_counter() - started)
        raise SystemExit
"""
IMPORT = "import time; t = time.perf_counter(); import holdfast; print(time.perf_counter() - t)"


def fresh(code: str, *arguments: str) -> float:
    """What a fresh process prints."""
    command = [sys.executable, "-c", code, *arguments]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0])


def starts(repetitions: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {
        "import holdfast": [],
        "start to first batch, plain": [],
        "start to first batch, Run": [],
    }
    for _ in track(range(repetitions), "starts"):
        found["import holdfast"].append(fresh(IMPORT))
        found["start to first batch, plain"].append(fresh(FIRST_BATCH))
        with tempfile.TemporaryDirectory() as folder:
            found["start to first batch, Run"].append(fresh(FIRST_BATCH, f"{folder}/run"))
    return found


class Job:
    """A small training job: 12 layers, with or without BatchNorm, AdamW, a scheduler."""

    def __init__(self, normalised: bool) -> None:
        norm: list[nn.Module] = [nn.BatchNorm1d(32)] if normalised else []
        layers = [layer for _ in range(12) for layer in (nn.Linear(32, 32), *norm, nn.Dropout(0.1), nn.ReLU())]
        self.model = nn.Sequential(*layers, nn.Linear(32, 2))
        self.optimizer = torch.optim.AdamW(self.model.parameters())
        self.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, 10)
        data = TensorDataset(torch.randn(4000, 32), torch.randint(2, (4000,)))
        self.loader = DataLoader(data, batch_size=8, shuffle=True)

    def steps(self, batches: Iterable[list[torch.Tensor]], log: Callable[..., None]) -> Iterator[float]:
        """Trains, and yields the seconds between two batches."""
        before = time.perf_counter()
        for x, y in batches:
            loss = nn.functional.cross_entropy(self.model(x), y)
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            log(loss=loss)
            now = time.perf_counter()
            yield now - before
            before = time.perf_counter()


def boundary(normalised: bool) -> dict[str, list[float]]:
    """Seconds of steps without and with holdfast, taken in turn."""
    plain, held = Job(normalised), Job(normalised)
    found: dict[str, list[float]] = {"plain": [], "held": []}
    with tempfile.TemporaryDirectory() as folder:
        state = {"model": held.model, "optimizer": held.optimizer, "scheduler": held.scheduler}
        with holdfast.Run(f"{folder}/run", state) as run:
            for _ in track(run.epochs(3), "boundaries"):
                pairs = zip(
                    plain.steps(plain.loader, _nothing), held.steps(run.batches(held.loader), run.log), strict=True
                )
                for without, with_holdfast in pairs:
                    found["plain"].append(without)
                    found["held"].append(with_holdfast)
    return {key: values[20:] for key, values in found.items()}


def capture(normalised: bool, *, alone: bool) -> list[float]:
    """Seconds of each capture: in a training loop, or one right behind the other."""
    job, found = Job(normalised), list[float]()
    original = Snapshots.mark

    def timed(self: Snapshots, progress: holdfast.Progress, random: rng.RngState) -> None:
        for _ in range(20 if alone else 1):
            started = time.perf_counter()
            original(self, progress, rng.capture())
            found.append(time.perf_counter() - started)

    with tempfile.TemporaryDirectory() as folder, mock.patch.object(Snapshots, "mark", timed):
        state = {"model": job.model, "optimizer": job.optimizer, "scheduler": job.scheduler}
        with holdfast.Run(f"{folder}/run", state) as run:
            for _ in job.steps(run.batches(job.loader), run.log):
                pass
    return found[20:]


def _nothing(**_: torch.Tensor) -> None:
    return None


def quartiles(values: list[float], scale: float) -> list[float]:
    return [value * scale for value in statistics.quantiles(values, n=4)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=7, help="fresh processes of each kind (default 7)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    result = {name: quartiles(values, 1e3) for name, values in starts(arguments.repetitions).items()}
    shown = Table("", "median", "quartiles", title="Footprint of holdfast")
    for name, (low, middle, high) in result.items():
        shown.add_row(name, f"{middle:.0f} ms", f"{low:.0f}-{high:.0f}")
    for name, normalised in (("boundary, 50 tensors", False), ("boundary, 50 tensors and 12 BatchNorms", True)):
        steps = {key: quartiles(values, 1e6) for key, values in boundary(normalised).items()}
        result[name] = [held - plain for plain, held in zip(steps["plain"], steps["held"], strict=True)]
        low, middle, high = result[name]
        shown.add_row(name, f"{middle:.0f} us", f"{low:.0f}, {high:.0f} (of a step of {steps['plain'][1]:.0f} us)")
        for where, alone in (("in the loop", False), ("alone", True)):
            result[f"capture {where}, {name}"] = quartiles(capture(normalised, alone=alone), 1e6)
            low, middle, high = result[f"capture {where}, {name}"]
            shown.add_row(f"  of which capture, {where}", f"{middle:.0f} us", f"{low:.0f}, {high:.0f}")
    Console().print(shown)
    RESULTS.parent.mkdir(exist_ok=True)
    machine = {"cores": os.cpu_count(), "platform": platform.platform(), "torch": torch.__version__}
    command = f"python benchmarks/footprint.py --repetitions {arguments.repetitions}"
    RESULTS.write_text(json.dumps({"command": command, "machine": machine, "quartiles": result}, indent=1) + "\n")


if __name__ == "__main__":
    main()
