"""holdfast beside every peer and beside the raw limits of this machine, in one run.

    python benchmarks/speed.py                                              everything, at full size
    python benchmarks/speed.py --size 64MiB --tensors 800 --repetitions 1   a small run, of a few minutes
    python benchmarks/speed.py --only holdfast torch.save --workloads dense
    python benchmarks/speed.py --repetitions 2 --append                     two more repetitions of what is stored
    python benchmarks/speed.py --json --output mine.json                    figures for programs, stored elsewhere
    python benchmarks/speed.py --page                                       page and picture of the stored results

Measured are a dense model, very many tiny tensors, and a model of which 1 % is trained: how long the loop waits for a
save and how much longer it gets, how long until the checkpoint is durable, processor seconds, bytes written, memory,
loads from the page cache and from the disk, and starts that resume. Stores ``benchmarks/results/speed.json``, and
writes ``docs/performance.md`` and its picture, which say how all that is done. Results are stored after each
repetition: what an interruption loses is the one that is under way.

A peer that is not installed or fails is listed with the reason; `make bench` installs all of them.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table as RichTable

from holdfast.cli.output import console
from suite import behind, machine, stored, tables
from suite.contenders import NAMES
from suite.excerpt import with_excerpt
from suite.page import page
from suite.records import Results
from suite.schedule import Plan, measure
from suite.stored import REPETITIONS, SAVES, SIZE, TENSORS
from suite.summary import Summary
from suite.workload import DENSE, WORKLOADS, Workload, parse_size, size_text

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "speed.json"
DEVICES = RESULTS.with_name("behind.json")
README = ROOT / "README.md"
PAGE = ROOT / "docs" / "performance.md"
PICTURE = ROOT / "docs" / "performance.svg"


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--size", default=size_text(SIZE), help="of the dense state and of the frozen parameters (2GiB)")
    made.add_argument("--tensors", type=int, default=TENSORS, help=f"tiny ones (default {TENSORS})")
    made.add_argument("--repetitions", type=int, default=REPETITIONS, help=f"default {REPETITIONS}")
    made.add_argument("--saves", type=int, default=SAVES, help=f"of each kind in one process (default {SAVES})")
    made.add_argument("--only", nargs="+", choices=NAMES, metavar="NAME", help=f"contenders: {'; '.join(NAMES)}")
    made.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    made.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to train (default cpu)")
    made.add_argument("--scratch", type=Path, help="a folder on the disk that is measured (default: the temporary one)")
    made.add_argument("--output", type=Path, help=f"where the results go (default {RESULTS.relative_to(ROOT)})")
    made.add_argument("--append", action="store_true", help="add the repetitions to stored ones of the same settings")
    made.add_argument("--json", action="store_true", help="print the results as JSON instead of tables")
    made.add_argument("--page", action="store_true", help="measure nothing; write page and picture of stored results")
    return made


def main() -> None:
    chosen = parser()
    arguments = chosen.parse_args()
    output: Path = arguments.output or RESULTS
    try:
        if not arguments.page:
            run(arguments, output)
        results = stored.read(output)
    except ValueError as error:
        chosen.error(str(error))
    if not arguments.page:
        show(results, as_json=arguments.json)
    if arguments.page or arguments.output is None:
        write_page(results)


def run(arguments: argparse.Namespace, output: Path) -> None:
    """Measures, and stores what there is after each repetition. Raises `ValueError` before anything is measured."""
    plan = plan_of(arguments)
    results = stored.read(output) if arguments.append else stored.begun(plan)
    if arguments.append:
        stored.require_same(results, plan)
    _end_as_by_interrupt()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=len(plan))

        def say(words: str) -> None:
            bar.update(task, description=words)
            if not bar.console.is_terminal:
                bar.console.print(words)

        for _ in range(plan.repetitions):
            found = measure(plan, results.repetitions, say, lambda: bar.advance(task))
            results = stored.extended(results, plan, found)
            stored.write(results, output)


def plan_of(arguments: argparse.Namespace) -> Plan:
    """Raises `ValueError` for what cannot be measured."""
    size = parse_size(arguments.size)
    if arguments.repetitions < 1 or arguments.saves < 1 or arguments.tensors < 8:
        raise ValueError("--repetitions and --saves are at least 1, --tensors at least 8.")
    scratch: Path = arguments.scratch or Path(tempfile.gettempdir())
    if not scratch.is_dir():
        raise ValueError(f"--scratch {scratch}: there is no such folder.")
    if machine.file_system(scratch) == "tmpfs":
        raise ValueError(f"{scratch} is in memory, where nothing is durable. Give --scratch a folder on a disk.")
    workloads = [
        Workload(name=name, size=size, tensors=arguments.tensors, device=arguments.device)
        for name in WORKLOADS if name in arguments.workloads
    ]  # fmt: skip
    contenders = [name for name in NAMES if arguments.only is None or name in arguments.only]
    return Plan(workloads, contenders, arguments.repetitions, arguments.saves, scratch)


def show(results: Results, *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(stored.text(results).decode())
        return
    shown, summary = console(), Summary(results)
    for workload in results.workloads:
        for columns in (tables.SAVING, tables.COST, tables.LOADING):
            shown.print(_rich(tables.contender_table(summary, workload.name, columns), workload.title))
        for name, reason in summary.cannot(workload.name).items():
            shown.print(f"{name} cannot run: {reason}")
    shown.print(_rich(tables.machine_table(summary), "the machine"))
    shown.print(_rich(tables.target_table(summary), "targets"))


def _rich(table: tables.Table, title: str) -> RichTable:
    shown = RichTable(title=title)
    for index, header in enumerate(table.headers):
        shown.add_column(header, justify="left" if index == 0 else "right")
    for row in table.rows:
        shown.add_row(*(one.replace("**", "").replace("`", "") for one in row))
    return shown


def write_page(results: Results) -> None:
    from suite.picture import draw

    PAGE.write_text(page(results, behind.read(DEVICES)))
    README.write_text(with_excerpt(README.read_text(), results))
    draw(Summary(results), DENSE, PICTURE)


def _end_as_by_interrupt() -> None:
    """A SIGTERM has to end the process that is measuring just now, and remove its files, as Ctrl-C does."""

    def end(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, end)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("Interrupted. Whole repetitions are stored; --append adds more.")
