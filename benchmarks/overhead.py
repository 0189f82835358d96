"""Whether `Overhead(0.01)` holds its bound on a real loop whose steps and saves change fourfold midway.

    python benchmarks/overhead.py --seconds 120 --repetitions 3

A network is trained on generated images. Midway each step takes four times as many of them, and the state grows to
four times its size. What saving costs is measured from outside of holdfast, by the loop's own clock: how much longer
than usual the time between two bodies was where a snapshot was taken, and how much longer than usual a body took while
the writer was at work; "usual" is the median of the quiet ones around it. From cheap to dear and from dear to cheap
are measured in turn.

Prints a table, and writes ``benchmarks/results/overhead.json`` and ``benchmarks/results/overhead.png``.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import nn

import holdfast

RESULTS = Path(__file__).parent / "results" / "overhead.json"
BOUND = 0.01
SMALL, FACTOR = 8 << 20, 4
"""Floats of ballast in the state where saving is cheap, and how much dearer it is in the other half."""
BATCH = 96
AROUND = 25
"""Quiet batches on each side by which it is known how long one takes."""


@dataclass
class Half:
    """One half of a loop: by batch, when it began, the gap before its body, the body, and what holdfast was doing."""

    at: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    bodies: list[float] = field(default_factory=list)
    saved: list[bool] = field(default_factory=list)
    writing: list[bool] = field(default_factory=list)

    def costs(self) -> list[float]:
        """By batch, the seconds that saving took away."""
        quiet = [not one for one in self.writing]
        usual_body, usual_gap = self._usual(self.bodies, quiet), self._usual(self.gaps, [not one for one in self.saved])
        return [
            (self.gaps[i] - usual_gap[i] if self.saved[i] else 0.0)
            + (self.bodies[i] - usual_body[i] if self.writing[i] else 0.0)
            for i in range(len(self.bodies))
        ]

    def _usual(self, values: list[float], quiet: list[bool]) -> list[float]:
        """The median of the quiet ones around each place."""
        known = [(i, value) for i, value in enumerate(values) if quiet[i]]
        found = []
        for i in range(len(values)):
            near = sorted(known, key=lambda one: abs(one[0] - i))[: 2 * AROUND] if i % AROUND == 0 else None
            found.append(statistics.median(value for _, value in near) if near else found[-1])
        return found

    @property
    def seconds(self) -> float:
        return sum(self.bodies) + sum(self.gaps)

    @property
    def overhead(self) -> float:
        return sum(self.costs()) / self.seconds


def images(seconds: float, dear_first: bool) -> Iterator[tuple[torch.Tensor, bool]]:
    """Batches for so many seconds, and for as many again the other kind; with whether it is the dear half."""
    for dear in (dear_first, not dear_first):
        data, end = torch.randn(BATCH * (FACTOR if dear else 1), 1, 28, 28), time.perf_counter() + seconds
        while time.perf_counter() < end:
            yield data, dear


def train(seconds: float, dear_first: bool, advance: Any) -> dict[bool, Half]:
    """One loop; its halves by whether they are the dear one."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.Flatten(), nn.Linear(9216, 10))
    optimizer = torch.optim.AdamW(model.parameters())
    halves, ballast = {True: Half(), False: Half()}, {"floats": torch.zeros(SMALL * (FACTOR if dear_first else 1))}
    taken: list[str] = []
    with tempfile.TemporaryDirectory(dir=".", prefix=".overhead-") as folder:
        state = {"model": model, "optimizer": optimizer, "ballast": ballast}
        run = holdfast.Run(folder, state, save=holdfast.Overhead(BOUND), keep="last 2")
        run.on_event = lambda event: taken.append(event.kind) if event.kind in ("snapshot", "saved") else None
        begin = left = time.perf_counter()
        writing = False
        for _ in run.epochs(1):
            for data, dear in run.batches(images(seconds, dear_first)):
                entered = time.perf_counter()
                half = halves[dear]
                saved = "snapshot" in taken
                writing = saved or (writing and "saved" not in taken)
                taken.clear()
                if len(ballast["floats"]) != SMALL * (FACTOR if dear else 1):
                    ballast["floats"] = torch.zeros(SMALL * (FACTOR if dear else 1))
                model(data).square().mean().backward()
                optimizer.step()
                optimizer.zero_grad()
                half.at.append(entered - begin)
                half.gaps.append(entered - left)
                half.saved.append(saved)
                half.writing.append(writing)
                left = time.perf_counter()
                half.bodies.append(left - entered)
                advance(left - entered)
        run.close()
    return halves


def row(table: Table, name: str, values: list[float], unit: str) -> None:
    table.add_row(name, f"{statistics.median(values):.3g}{unit}", f"{min(values):.3g} to {max(values):.3g}")


def draw(halves: list[dict[bool, Half]], path: Path) -> None:
    """The cost of saving as a part of the time since the half began, over each half of every loop."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4), sharey=True)
    for axis, dear in zip(axes, (False, True), strict=True):
        for loop in halves:
            half, total, spent, line = loop[dear], 0.0, 0.0, []
            for gap, body, cost in zip(half.gaps, half.bodies, half.costs(), strict=True):
                total, spent = total + gap + body, spent + cost
                line.append((total, 100 * spent / total))
            axis.plot(*zip(*line, strict=True), linewidth=1)
        axis.axhline(100 * BOUND, color="black", linestyle="--", linewidth=1, label="the bound")
        axis.axhline(133 * BOUND, color="grey", linestyle=":", linewidth=1, label="a third above it")
        axis.set(title=f"{'dear' if dear else 'cheap'} steps and saves", xlabel="seconds since the half began")
        axis.set_ylim(0, 5)
        axis.legend()
    axes[0].set_ylabel("% of the time spent on saving, so far")
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="for each half of a loop")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    loops = []
    with Progress(transient=True) as progress:
        task = progress.add_task("training", total=2 * options.seconds * options.repetitions)
        for number in range(options.repetitions):
            loops.append(train(options.seconds, number % 2 == 1, lambda done: progress.advance(task, done)))
    table = Table("", "median", "least to most", title=f"Overhead({BOUND}), steps and saves changing {FACTOR}-fold")
    for dear in (False, True):
        name = "dear half" if dear else "cheap half"
        row(table, f"{name}: time spent on saving", [100 * one[dear].overhead for one in loops], " %")
        row(table, f"{name}: saves", [float(sum(one[dear].saved)) for one in loops], "")
        row(table, f"{name}: a step", [1000 * statistics.median(one[dear].bodies) for one in loops], " ms")
        row(table, f"{name}: a save", [
            1000 * sum(one[dear].costs()) / max(sum(one[dear].saved), 1) for one in loops
        ], " ms")  # fmt: skip
    whole = [
        100 * sum(sum(half.costs()) for half in one.values()) / sum(half.seconds for half in one.values())
        for one in loops
    ]
    row(table, "whole loop: time spent on saving", whole, " %")
    Console().print(table)
    found = {
        "command": f"python benchmarks/overhead.py --seconds {options.seconds:g} --repetitions {options.repetitions}",
        "machine": {"platform": platform.platform(), "torch": torch.__version__, "threads": torch.get_num_threads()},
        "whole_percent": whole,
        "halves": [
            {"dear": dear, "overhead_percent": 100 * half.overhead, "saves": sum(half.saved),
             "median_step_seconds": statistics.median(half.bodies), "seconds": half.seconds}
            for one in loops for dear, half in one.items()
        ],
    }  # fmt: skip
    options.results.parent.mkdir(parents=True, exist_ok=True)
    options.results.write_text(json.dumps(found, indent=2) + "\n")
    draw(loops, options.results.with_suffix(".png"))


if __name__ == "__main__":
    main()
