"""What `make demo` runs: train, kill three times, resume, and compare with a twin that nothing happened to.

    python examples/digits/demo.py [--seed N]

The training process (`train.py --holdfast`) is killed with SIGKILL at three random instants and started again each time
with the same command. The twin is the same script without holdfast. Every tensor of model and optimizer and every
logged loss of the two must be the same, bit for bit; the exit status is 1 if one is not.
"""

from __future__ import annotations

import argparse
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from curve import draw
from journals import Attempt, journal, read_attempt, read_attempts
from rich.console import Console

TRAIN = Path(__file__).with_name("train.py")
STEPS_PER_EPOCH = 45
KILLS = 3

console = Console(highlight=False)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    work = options.work
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    console.print(f"[bold]seed {options.seed}[/bold] (repeat with --seed {options.seed})")

    train = [sys.executable, str(TRAIN), "--epochs", str(options.epochs)]
    survive([*train, "--out", str(work / "held.pt"), "--holdfast", str(work / "run")], work / "run", options)
    console.print("\n[bold]the twin[/bold], never killed and without holdfast")
    subprocess.run([*train, "--out", str(work / "twin.pt")], check=True)

    held, twin = (torch.load(work / name, weights_only=True) for name in ("held.pt", "twin.pt"))
    attempts = read_attempts(work / "run")
    different = [*differences(held, twin), *journal_differences(attempts, twin["losses"])]
    verdict = say(different, twin, attempts)
    draw(options.picture, twin["losses"], attempts, verdict)
    console.print(f"\n[bold]{verdict}[/bold]\ndrawn: {options.picture}", soft_wrap=True)
    return 1 if different else 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Kill a training run three times and compare it with its twin.")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6), help="of the kills")
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--picture", type=Path, default=Path("demo.png"))
    parser.set_defaults(work=Path("runs/digits-demo"))  # replaced by each demo, so it is no option
    return parser.parse_args(arguments)


def survive(command: list[str], folder: Path, options: argparse.Namespace) -> None:
    """Runs the command until it ends by itself, and sees to it that the first three times it does not."""
    for attempt, (step, delay) in enumerate(instants(options.seed, options.epochs * STEPS_PER_EPOCH), 1):
        console.print(f"\n[bold]attempt {attempt}[/bold]")
        with subprocess.Popen(command) as process:
            killed = kill(process, journal(folder, attempt), step, delay)
        console.show_cursor()
        if not killed:
            raise SystemExit(f"attempt {attempt} ended by itself, with status {process.returncode}, before step {step}")
        last = read_attempt(journal(folder, attempt)).last
        console.print(f"[bold red]SIGKILL[/bold red] {1000 * delay:.0f} ms after step {step}; the last one is {last}")
    console.print(f"\n[bold]attempt {KILLS + 1}[/bold]")
    subprocess.run(command, check=True)


def instants(seed: int, steps: int) -> list[tuple[int, float]]:
    """Steps after which to kill, ascending, and how many seconds after them: anywhere within a batch or a save."""
    chance = random.Random(seed)
    return [(step, chance.uniform(0, 0.05)) for step in sorted(chance.sample(range(1, steps - 90), KILLS))]


def kill(process: subprocess.Popen[bytes], path: Path, step: int, delay: float) -> bool:
    """Whether the process was still there to be killed ``delay`` seconds after the journal knew of ``step``."""
    while process.poll() is None:
        if read_attempt(path).last >= step:
            time.sleep(delay)
            process.kill()
            return process.wait() < 0
        time.sleep(0.01)
    return False


def differences(held: Any, twin: Any) -> list[str]:
    """Where two loaded files differ in so much as a bit."""
    ours, theirs = dict(leaves(held)), dict(leaves(twin))
    return [path for path in {**ours, **theirs} if ours.get(path) != theirs.get(path)]


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, object]]:
    """Every leaf of nested dicts, lists and tuples, with its path, as something whose equality means equal bits."""
    if isinstance(value, dict):
        for key, child in value.items():
            yield from leaves(child, f"{path}/{key}")
    elif isinstance(value, list | tuple):
        for index, child in enumerate(value):
            yield from leaves(child, f"{path}/{index}")
    elif isinstance(value, torch.Tensor):
        yield path, (value.dtype, value.shape, value.contiguous().numpy().tobytes())
    else:
        yield path, value.hex() if isinstance(value, float) else (type(value), value)


def journal_differences(attempts: Sequence[Attempt], losses: Sequence[float]) -> list[str]:
    """Where what an attempt logged, killed or not, is not what the twin's step of that number gave."""
    return [
        f"attempt {number}, loss of step {step}"
        for number, attempt in enumerate(attempts, 1)
        for step, loss in attempt.losses.items()
        if step > len(losses) or loss.hex() != losses[step - 1].hex()
    ]


def say(different: Sequence[str], twin: dict[str, Any], attempts: Sequence[Attempt]) -> str:
    if different:
        more = f" and {len(different) - 3} more" if len(different) > 3 else ""
        return f"DIFFERENT: {', '.join(different[:3])}{more}"
    tensors = sum(isinstance(leaf, tuple) and isinstance(leaf[-1], bytes) for _, leaf in leaves(twin))
    logged = sum(len(attempt.losses) for attempt in attempts)
    return (
        f"identical, bit for bit: {tensors} tensors of model and optimizer, and all {logged} losses logged "
        f"in {len(attempts)} attempts ({logged - len(twin['losses'])} of them twice)"
    )


if __name__ == "__main__":
    sys.exit(main())
