"""The loss curve of a run that was killed, over that of its twin that was not."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import matplotlib
from journals import Attempt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

matplotlib.use("Agg")

COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")


def draw(path: Path, twin: Sequence[float], attempts: Sequence[Attempt], verdict: str) -> None:
    """Writes a PNG: losses per step, log scale; ``verdict`` is the second line of its title."""
    figure = Figure(figsize=(12, 6.5), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    axes.plot(range(1, len(twin) + 1), twin, color="#c8c8c8", linewidth=5, label="twin: never killed, without holdfast")
    for number, attempt in enumerate(attempts, 1):
        draw_attempt(axes, number, attempt)
    for number, (killed, successor) in enumerate(pairwise(attempts)):
        draw_crash(axes, killed, successor, first=number == 0)
    draw_checkpoints(axes, attempts)
    axes.set(xlabel="optimizer step", ylabel="training loss of the batch (log scale)", yscale="log")
    axes.set_title(f"Handwritten digits, killed {len(attempts) - 1} times with SIGKILL\n{verdict}")
    axes.margins(x=0.01)
    axes.grid(alpha=0.25)
    figure.legend(loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(path)


def draw_attempt(axes: Axes, number: int, attempt: Attempt) -> None:
    steps = sorted(attempt.losses)
    begins = f"resumed at step {attempt.resumed}" if attempt.resumed else "from the beginning"
    losses = [attempt.losses[step] for step in steps]
    axes.plot(steps, losses, color=colour(number), linewidth=0.9, label=f"attempt {number}: {begins}")


def draw_crash(axes: Axes, killed: Attempt, successor: Attempt, *, first: bool) -> None:
    """A line where the attempt died, and the seam: the steps from its successor's checkpoint on, trained again."""
    axes.axvspan(successor.resumed, killed.last, color="#d40000", alpha=0.18, label="seam: trained twice" * first)
    axes.axvline(killed.last, color="#d40000", linewidth=1.4, linestyle="--", label="SIGKILL" * first)


def draw_checkpoints(axes: Axes, attempts: Sequence[Attempt]) -> None:
    low = min(loss for attempt in attempts for loss in attempt.losses.values())
    for number, attempt in enumerate(attempts, 1):
        height = [low * 0.6] * len(attempt.saved)
        label = "checkpoint (colour: its attempt)" if number == 1 else ""
        axes.plot(attempt.saved, height, "^", color=colour(number), markersize=6, label=label)


def colour(number: int) -> str:
    return COLOURS[(number - 1) % len(COLOURS)]
