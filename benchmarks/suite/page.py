"""`docs/performance.md`: everything in it comes from the stored results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from holdfast import wording
from suite import behind, figures
from suite.behind import Behind
from suite.contenders import HOLDFAST
from suite.records import Results
from suite.summary import Summary
from suite.tables import (
    COST,
    LOADING,
    SAVING,
    contender_table,
    machine_table,
    markdown,
    spread_text,
    target_table,
    trait_table,
)
from suite.workload import Workload

TEMPLATE = Path(__file__).with_name("page.md")


def page(results: Results, beside_devices: Sequence[Behind] = ()) -> str:
    summary = Summary(results)
    parts = {
        "command": results.command,
        "date": results.date,
        "machine": ", ".join(results.machine.values()),
        "scratch": results.scratch,
        "repetitions": wording.count(results.repetitions, "interleaved repetition"),
        "targets": markdown(target_table(summary)),
        "workloads": "\n".join(_workload(summary, one) for one in results.workloads),
        "devices": _devices(list(beside_devices)),
        "limits": markdown(machine_table(summary)),
        "contenders": markdown(trait_table(summary)),
        "notes": "; ".join(summary.notes()) or "nothing",
    }
    return TEMPLATE.read_text().format(**parts)


def _workload(summary: Summary, workload: Workload) -> str:
    name = workload.name
    parts = [f"## {workload.title[0].upper()}{workload.title[1:]}\n\n", _size(summary, name)]
    for title, columns in (("Saving", SAVING), ("What a save costs", COST), ("Loading", LOADING)):
        parts.append(f"\n### {title}: {name}\n\n{markdown(contender_table(summary, name, columns))}\n")
    for contender, reason in summary.cannot(name).items():
        parts.append(f"\n{contender} cannot run: `{reason}`\n")
    return "".join(parts)


def _size(summary: Summary, workload: str) -> str:
    """How much there is to save."""
    size = summary.spread(workload, HOLDFAST, figures.SIZE)
    changed = summary.spread(workload, HOLDFAST, figures.CHANGED)
    step = summary.spread(workload, HOLDFAST, figures.STEP)
    if size is None or changed is None or step is None:
        return "Not measured.\n"
    bytes_, of_it = wording.size(round(size.median)), wording.size(round(changed.median))
    return (
        f"{bytes_} of state, of which each step changes {of_it}; a step takes {spread_text(step, wording.duration)}.\n"
    )


def _devices(found: list[Behind]) -> str:
    return f"## On CUDA devices\n\n{_ON_DEVICES}\n\n{markdown(behind.table(found))}\n\n" if found else ""


_ON_DEVICES = """\
Parameters and what the optimizer keeps of them are copied behind forward and backward, by a loop of many saves in one
process. **Stall**: what the call at the boundary takes, planning included. The next step is longer if its optimizer has
to wait for the copy, or if the writer is in its way. **Pinned copy**: the same bytes in one piece, with nothing else at
work."""
