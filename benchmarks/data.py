"""What an order costs that is a function of the position: seeks, indices, resumes, and a loader with random samples.

    python benchmarks/data.py --repetitions 7

Measured are the first sample behind position 10⁹ of 10¹⁰; indices a second, beside ``torch.randperm`` and torch's
samplers; a resume at sample 5 M of 10 M until the first batch, beside torchdata's StatefulDataLoader, each in a process
of its own, with random numbers for each sample and, by the sampler alone, without; and a DataLoader of augmented crops
of photographs, beside torch's with the same dataset. All of it is
interleaved; ratios are formed within a repetition. Prints a table and writes ``benchmarks/results/data.json``.
"""

from __future__ import annotations

import argparse
import functools
import json
import random
import statistics
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import sklearn.datasets
import torch
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler

from holdfast import data

RESULTS = Path(__file__).parent / "results" / "data.json"
HUGE, FAR = 10**10, 10**9
LENGTH, AT, BATCH = 10_000_000, 5_000_000, 250
CROPS, SIDE = 512, 128

RESUME = """
import json, resource, sys, time
import torch
contender, length, at, batch = sys.argv[1], *map(int, sys.argv[2:])

class Numbers(torch.utils.data.Dataset):
    def __len__(self):
        return length
    def __getitem__(self, index):
        return index

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

if contender == "holdfast":
    from holdfast.data import DataLoader
    loader = DataLoader(Numbers(), batch, shuffle=True)
    state = {**loader.state_dict(), "samples": at}
elif contender == "Sampler":
    from holdfast.data import Sampler
    loader = torch.utils.data.DataLoader(Numbers(), batch_sampler=Sampler(length, batch_size=batch))
    state = {**loader.batch_sampler.state_dict(), "samples": at}
else:
    from torchdata.stateful_dataloader import StatefulDataLoader as DataLoader
    loader = DataLoader(Numbers(), batch, shuffle=True)
    iterator = iter(loader)
    next(iterator)
    state = loader.state_dict()
    # Where it would be behind that many samples: the state says so, and nothing is loaded to get it.
    state["_num_yielded"] = state["_sampler_iter_yielded"] = at // batch
    state["_sampler_iter_state"]["samples_yielded"] = at
    state["_sampler_iter_state"]["sampler_iter_state"]["yielded"] = at
    loader = DataLoader(Numbers(), batch, shuffle=True)
before, started = peak(), time.perf_counter()
(loader.batch_sampler if contender == "Sampler" else loader).load_state_dict(state)
next(iter(loader))
print(json.dumps({"seconds": time.perf_counter() - started, "memory": peak() - before}))
"""


class Crops(Dataset[torch.Tensor]):
    """Random crops, mirrored and brightened at random, of the photographs that scikit-learn brings along as files."""

    def __init__(self) -> None:
        folder = Path(sklearn.datasets.__file__).parent / "images"
        self.files = sorted(folder.glob("*.jpg"))

    def __len__(self) -> int:
        return CROPS

    def __getitem__(self, index: int) -> torch.Tensor:
        with Image.open(self.files[index % len(self.files)]) as file:
            image = torch.from_numpy(np.array(file))
        top, left = (random.randrange(length - SIDE) for length in image.shape[:2])
        crop = image[top : top + SIDE, left : left + SIDE].permute(2, 0, 1).float() / 255
        if torch.rand(()) < 0.5:
            crop = crop.flip(-1)
        return (crop * (0.8 + 0.4 * np.random.random())).clamp_(0, 1)


def seek() -> dict[str, float]:
    def first() -> None:
        sampler = data.Sampler(HUGE, batch_size=BATCH)
        sampler.seek(epoch=0, samples=FAR)
        next(iter(sampler))

    taken = timed(first)
    tracemalloc.start()
    first()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return {"seek, seconds": taken, "seek, memory": peak}


def indices() -> dict[str, float]:
    positions = np.arange(LENGTH)
    return {
        "Permutation, a second": LENGTH / timed(lambda: data.Permutation(LENGTH)(positions)),
        "torch.randperm, a second": LENGTH / timed(lambda: torch.randperm(LENGTH)),
        "Sampler, a second": LENGTH / timed(lambda: drain(data.Sampler(LENGTH, batch_size=BATCH))),
        "torch's samplers, a second": LENGTH
        / timed(lambda: drain(BatchSampler(RandomSampler(range(LENGTH)), BATCH, False))),
    }


def resumes() -> dict[str, float]:
    found: dict[str, float] = {}
    for contender in ("holdfast", "Sampler", "StatefulDataLoader"):
        command = [sys.executable, "-c", RESUME, contender, str(LENGTH), str(AT), str(BATCH)]
        said = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        found |= {f"resume, {contender}, {name}": value for name, value in said.items()}
    return found


def loaders(workers: int) -> dict[str, float]:
    crops, options = Crops(), {"shuffle": True, "num_workers": workers, "persistent_workers": workers > 0}
    made: dict[str, Any] = {
        "holdfast": data.DataLoader(crops, 32, **options),
        "torch": DataLoader(crops, 32, **options),
    }
    found = {}
    for name, loader in made.items():
        drain(loader)  # starts the workers
        found[f"{name}, {workers} workers, a second"] = CROPS / timed(functools.partial(drain, loader))
    return found


def drain(batches: Iterable[Any]) -> None:
    for _ in batches:
        pass


def timed(act: Callable[[], Any]) -> float:
    started = time.perf_counter()
    act()
    return time.perf_counter() - started


RATIOS = {
    "indices: Permutation ÷ torch.randperm": ("Permutation, a second", "torch.randperm, a second"),
    "indices: Sampler ÷ torch's samplers": ("Sampler, a second", "torch's samplers, a second"),
    "resume: StatefulDataLoader ÷ holdfast": ("resume, StatefulDataLoader, seconds", "resume, holdfast, seconds"),
    "resume: StatefulDataLoader ÷ Sampler": ("resume, StatefulDataLoader, seconds", "resume, Sampler, seconds"),
    "loader, 0 workers: holdfast ÷ torch": ("holdfast, 0 workers, a second", "torch, 0 workers, a second"),
    "loader, 2 workers: holdfast ÷ torch": ("holdfast, 2 workers, a second", "torch, 2 workers, a second"),
}


def measure(repetitions: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for _ in track(range(repetitions), "measuring", disable=not sys.stderr.isatty()):
        one = seek() | indices() | resumes() | loaders(0) | loaders(2)
        one |= {name: one[above] / one[below] for name, (above, below) in RATIOS.items()}
        for name, value in one.items():
            found.setdefault(name, []).append(value)
    return found


def main() -> None:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--repetitions", type=int, default=7, help="default 7")
    made.add_argument("--output", type=Path, default=RESULTS, help="where the figures are kept")
    made.add_argument("--json", action="store_true", help="print the figures as JSON instead of a table")
    arguments = made.parse_args()
    found = measure(arguments.repetitions)
    record = {"torch": torch.__version__, "numpy": np.__version__, "figures": found}
    arguments.output.write_text(json.dumps(record, indent=2) + "\n")
    if arguments.json:
        sys.stdout.write(json.dumps(record) + "\n")
        return
    shown = Table("measured", "median", "least", "most")
    for name, values in found.items():
        shown.add_row(name, *(f"{one:.4g}" for one in (statistics.median(values), min(values), max(values))))
    Console().print(shown)


if __name__ == "__main__":
    main()
