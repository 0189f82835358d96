"""What a save costs a training on a CUDA device, whose state is copied to the host behind forward and backward.

    python benchmarks/behind.py                 2 GiB of parameters and moments, five saves
    python benchmarks/behind.py --size 512MiB --rows 32768 --saves 10 --json

Each save is of one boundary of a loop whose steps take a few times as long as the copy. Printed are a usual step, how
long the call at the boundary takes (the stall), how much longer the step behind it is (the step of the optimizer waits,
on the device, for what is not copied yet), and the speed of the copy beside one of the same bytes, in one piece, into
memory that torch has pinned, with nothing else at work. They are kept in ``benchmarks/results/behind.json``, and
`benchmarks/speed.py --page` puts them into ``docs/performance.md``.
"""

from __future__ import annotations

import argparse
import datetime
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

import msgspec
import torch
from rich.progress import track

import holdfast
from holdfast.state.torch import side_copies
from holdfast.state.torch.cuda import Cuda, Event, Part
from suite import behind
from suite.job import ROWS as ROWS_BY_DEVICE
from suite.job import Job
from suite.workload import DENSE, Workload, parse_size

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "behind.json"
ROWS = ROWS_BY_DEVICE["cuda"]
USUAL = 10
"""Steps by which it is known how long one takes."""


class Timed(Cuda):
    """Knows when the device has begun and ended to copy, and how much."""

    spans: ClassVar[list[tuple[int, torch.cuda.Event, Event]]] = []

    def copy(self, parts: Iterable[Part], device: torch.device, after: Event) -> Event:
        found = list(parts)
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        with torch.cuda.stream(self.stream(device)):
            begin.record()
            last = super().copy(found, device, after)
            end.record()
        self.spans.append((sum(image.nbytes for image, _ in found), begin, end))
        return last


def measure(size: int, rows: int, saves: int, folder: Path) -> dict[str, list[float]]:
    side_copies.Cuda = Timed  # type: ignore[misc]
    job = Job(Workload(name=DENSE, size=size, tensors=0, device="cuda"), rows)
    state = {"model": job.model, "optimizer": job.optimizer}
    found: dict[str, list[float]] = {"step": [], "stall": [], "longer": [], "copy": [], "pinned": []}
    run = holdfast.Run(folder, state, save="at end", keep="last 1")
    run.resume()
    clock, batch = time.perf_counter, 0

    def boundary() -> float:
        nonlocal batch
        batch += 1
        before = clock()
        run.batch_end(epoch=0, batch=batch)
        return clock() - before

    def step() -> float:
        before = clock()
        job.step()
        return clock() - before

    for number in range(3 + USUAL):
        taken = step()
        boundary()
        found["step"] += [taken] * (number >= 3)
    usual = statistics.median(found["step"])
    for number in track(range(saves + 1), "saving", disable=not sys.stderr.isatty()):
        step()
        run.save()
        stall, longer = boundary(), step() - usual
        boundary()
        run.wait()
        if number:  # the first one also finds the arena
            found["stall"].append(stall)
            found["longer"].append(longer)
    run.close()
    torch.cuda.synchronize()
    for nbytes, begin, end in Timed.spans[-saves:]:
        found["copy"].append(nbytes / begin.elapsed_time(end) * 1e3)
        found["pinned"].append(pinned_speed(nbytes))
    return found


def pinned_speed(nbytes: int) -> float:
    """Bytes a second of one plain copy."""
    source = torch.empty(nbytes, dtype=torch.uint8, device="cuda")
    target = torch.empty(nbytes, dtype=torch.uint8, pin_memory=True)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    target.copy_(source, non_blocking=True)
    begin.record()
    target.copy_(source, non_blocking=True)
    end.record()
    end.synchronize()
    return nbytes / begin.elapsed_time(end) * 1e3


def main() -> None:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--size", default="2GiB", help="of parameters and moments (default 2GiB)")
    made.add_argument("--rows", type=int, default=ROWS, help=f"of a batch: the length of a step (default {ROWS})")
    made.add_argument("--saves", type=int, default=5, help="default 5")
    made.add_argument("--output", type=Path, help=f"where the figures are kept (default {RESULTS.relative_to(ROOT)})")
    made.add_argument("--json", action="store_true", help="print the figures as JSON instead of a table")
    arguments = made.parse_args()
    if not torch.cuda.is_available():
        made.error("there is no CUDA device here; benchmarks/speed.py measures saves on the CPU.")
    with tempfile.TemporaryDirectory(prefix="behind-") as folder:
        found = measure(parse_size(arguments.size), arguments.rows, arguments.saves, Path(folder) / "run")
    rows = "" if arguments.rows == ROWS else f" --rows {arguments.rows}"
    measured = behind.Behind(
        command=f"python benchmarks/behind.py --size {arguments.size}{rows} --saves {arguments.saves}",
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        device=torch.cuda.get_device_name(), torch=torch.__version__, **found,
    )  # fmt: skip
    behind.add(measured, arguments.output or RESULTS)
    if arguments.json:
        sys.stdout.write(msgspec.json.encode(measured).decode() + "\n")
        return
    shown = behind.table([measured])
    for header, value in zip(shown.headers, shown.rows[0], strict=True):
        print(f"{header:>28} {value}")


if __name__ == "__main__":
    main()
