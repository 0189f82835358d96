"""``holdfast probe``: what a storage can do, and what that means for checkpoints."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast import wording
from holdfast.cli import arguments
from holdfast.errors import StorageError

if TYPE_CHECKING:
    from holdfast.cli.comparison import Question, Report
    from holdfast.engine.memory_speed import MemorySpeed
    from holdfast.policies.estimate import Estimate
    from holdfast.storage.probe import Probe

Paths = Annotated[
    list[str], typer.Argument(metavar="PATH", help="Folders in which runs might save.", show_default=False)
]
Sample = Annotated[str, typer.Option("--sample", metavar="SIZE", help="How much is written and read to measure.")]
Size = Annotated[str, typer.Option("--size", metavar="SIZE", help="The state whose saves are estimated.")]
Mtbf = Annotated[
    str, typer.Option("--mtbf", metavar="DURATION", help="How often a run fails: the mean time between failures.")
]


@dataclass(frozen=True, slots=True)
class Findings:
    """What was measured: a report for each folder that could be tried out, and, by path, why others could not."""

    reports: Sequence[Report]
    failures: Mapping[str, StorageError]
    memory: MemorySpeed


def probe(
    paths: Paths, size: Size = "2 GiB", sample: Sample = "1 GiB", mtbf: Mtbf = "24 hours",
    as_json: arguments.AsJson = False,
) -> None:  # fmt: skip
    """Try out what the storage of folders can do and how fast, and say what that means for checkpoints there.

    Works in a hidden folder inside, which is removed again, and touches nothing else. Exit code 8: in one of them,
    holdfast cannot keep a run of such a state.
    """
    from holdfast.cli.comparison import Question, page
    from holdfast.cli.output import console, print_all, print_json
    from holdfast.format.digests import BLOCK_SIZE

    asked = Question(
        size=arguments.size(size, "--size"),
        sample=arguments.size(sample, "--sample", BLOCK_SIZE) // BLOCK_SIZE * BLOCK_SIZE,
        mean_time_between_failures=arguments.duration(mtbf, "--mtbf"),
    )
    with _removing_on_signals():
        findings = _findings(paths, asked)
    if as_json:
        print_json(_record(findings, asked))
    else:
        target = console()
        print_all(target, *page(findings.reports, findings.failures, asked, target.width))
    if _obstacles(findings, asked):
        raise typer.Exit(StorageError.exit_code)


@contextlib.contextmanager
def _removing_on_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end this like Ctrl-C does, so that nothing is left behind; not where they are ignored."""

    def end(number: int, frame: object) -> None:
        raise typer.Exit(128 + number)

    names = ("SIGTERM", "SIGHUP") if threading.current_thread() is threading.main_thread() else ()
    known = [number for name in names if (number := getattr(signal, name, None)) is not None]
    deadly = [number for number in known if signal.getsignal(number) == signal.SIG_DFL]
    for number in deadly:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in deadly:
            signal.signal(number, signal.SIG_DFL)


def _findings(paths: Sequence[str], asked: Question) -> Findings:
    """Wrong paths are refused before anything is measured; of several, one that fails does not hide the others."""
    from holdfast.cli.progress import progress_bar
    from holdfast.engine.memory import allowed_memory
    from holdfast.engine.memory_speed import measure_memory
    from holdfast.engine.place import nearest_folder
    from holdfast.format.digests import BLOCK_SIZE
    from holdfast.storage.probe import probe

    folders, allowed = [nearest_folder(path) for path in paths], allowed_memory()
    found: dict[str, Probe] = {}
    failures: dict[str, StorageError] = {}
    with progress_bar("probing", 2 * asked.sample * len(paths)) as advance:
        for path, folder in zip(paths, folders, strict=True):
            try:
                found[path] = probe(folder, asked.sample, BLOCK_SIZE, memory=allowed, advance=advance)
            except StorageError as error:
                if len(paths) == 1:
                    raise
                failures[path] = error
    memory = measure_memory()
    reports = [_report(path, one, asked, memory, allowed) for path, one in found.items()]
    return Findings(reports, failures, memory)


def _report(path: str, found: Probe, asked: Question, memory: MemorySpeed, allowed: int | None) -> Report:
    from holdfast.cli.comparison import Report
    from holdfast.cli.verdicts import verdicts

    estimated = _estimate(found, asked, memory, allowed)
    return Report(path, _is_there(path, found), found, verdicts(found, asked.size), estimated)


def _is_there(path: str, found: Probe) -> bool:
    return os.path.abspath(os.path.expanduser(path)) == found.folder


def _estimate(found: Probe, asked: Question, memory: MemorySpeed, allowed: int | None) -> Estimate | None:
    from holdfast.policies.estimate import Rates, estimate

    speed = found.speed
    if speed is None:
        return None
    rates = Rates(
        copy=memory.copy, digest=memory.digest, write=speed.write.rate, read=speed.read.rate,
        sync=speed.sync.median, rename=speed.rename.median,
    )  # fmt: skip
    return estimate(asked.size, rates, asked.mean_time_between_failures, allowed)


def _record(findings: Findings, asked: Question) -> dict[str, Any]:
    import msgspec

    from holdfast.cli.comparison import fastest
    from holdfast.cli.output import describe

    best, obstacles = fastest(findings.reports, asked), _obstacles(findings, asked)
    return {
        "size": asked.size,
        "sample": asked.sample,
        "mean_time_between_failures": asked.mean_time_between_failures,
        "memory": msgspec.to_builtins(findings.memory),
        "places": [msgspec.to_builtins(one) | {"fits": one.has_room(asked.size)} for one in findings.reports],
        "failed": [{"path": path, "error": describe(error)} for path, error in findings.failures.items()],
        "fastest": best.path if best is not None else None,
        "ok": not obstacles,
        "error": {"kind": StorageError.kind, "message": "; ".join(obstacles)} if obstacles else None,
    }


def _obstacles(findings: Findings, asked: Question) -> list[str]:
    """Why a run of such a state cannot be kept in one or other of the folders."""
    from holdfast.cli.output import message_of

    unusable = [one.path for one in findings.reports if not one.usable]
    full = [one.path for one in findings.reports if not one.has_room(asked.size)]
    return [
        *([f"holdfast cannot keep a run in {', '.join(unusable)}"] if unusable else []),
        *([f"a state of {wording.size(asked.size)} does not fit in {', '.join(full)}"] if full else []),
        *map(message_of, findings.failures.values()),
    ]
