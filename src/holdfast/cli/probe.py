"""``holdfast probe``: what a storage can do, and what that means for checkpoints."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

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


def probe(
    paths: Paths, size: Size = "2 GiB", sample: Sample = "1 GiB", mtbf: Mtbf = "24 hours",
    as_json: arguments.AsJson = False,
) -> None:  # fmt: skip
    """Try out what the storage of folders can do and how fast, and say what that means for checkpoints there.

    Works in a hidden folder inside, which is removed again, and touches nothing else. Exit code 8: holdfast cannot
    keep a run there.
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
        reports, memory = _reports(paths, asked)
    if as_json:
        print_json(_record(reports, asked, memory))
    else:
        target = console()
        print_all(target, *page(reports, asked, target.width))
    if not all(one.usable for one in reports):
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


def _reports(paths: Sequence[str], asked: Question) -> tuple[list[Report], MemorySpeed]:
    """Wrong paths are refused before anything is measured."""
    from holdfast.cli.comparison import Report
    from holdfast.cli.progress import progress_bar
    from holdfast.cli.verdicts import verdicts
    from holdfast.engine.memory import allowed_memory
    from holdfast.engine.memory_speed import measure_memory
    from holdfast.engine.place import nearest_folder
    from holdfast.format.digests import BLOCK_SIZE
    from holdfast.storage.probe import probe

    folders, allowed = [nearest_folder(path) for path in paths], allowed_memory()
    with progress_bar("probing", 2 * asked.sample * len(paths)) as advance:
        found = [probe(one, asked.sample, BLOCK_SIZE, memory=allowed, advance=advance) for one in folders]
    memory = measure_memory()
    return [
        Report(path, _is_there(path, one), one, verdicts(one, asked.size), _estimate(one, asked, memory, allowed))
        for path, one in zip(paths, found, strict=True)
    ], memory


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


def _record(reports: Sequence[Report], asked: Question, memory: MemorySpeed) -> dict[str, Any]:
    import msgspec

    from holdfast.cli.comparison import fastest

    best, unusable = fastest(reports, asked), [one.path for one in reports if not one.usable]
    message = f"holdfast cannot keep a run in {', '.join(unusable)}"
    return {
        "size": asked.size,
        "sample": asked.sample,
        "mean_time_between_failures": asked.mean_time_between_failures,
        "memory": msgspec.to_builtins(memory),
        "places": [msgspec.to_builtins(one) for one in reports],
        "fastest": best.path if best is not None else None,
        "ok": not unusable,
        "error": {"kind": StorageError.kind, "message": message} if unusable else None,
    }
