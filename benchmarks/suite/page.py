"""`docs/performance.md`: everything in it comes from the stored results."""

from __future__ import annotations

from holdfast import wording
from suite import figures
from suite.contenders import HOLDFAST
from suite.records import Results
from suite.summary import Summary
from suite.tables import (
    COST,
    LOADING,
    SAVING,
    Table,
    contender_table,
    machine_table,
    spread_text,
    target_table,
    trait_table,
)
from suite.workload import Workload

BASELINE = 6

HEAD = """# Performance

<!-- Made by `make bench` from benchmarks/results/speed.json: change that, or benchmarks/suite/, not this page. -->

holdfast beside those who save checkpoints too, and beside what the machine can do at most. All figures of this page are of one run:

```sh
{command}
```

{date}, {machine}; checkpoints on {scratch}. {repetitions}; a figure is the median of these, with the least and the
most in parentheses.

![Seconds that the loop waits, and until a checkpoint is durable](performance.svg)

"""

HOW = """## How it is measured

`make bench` makes an environment with the peers in the versions of `constraints.txt` and runs `benchmarks/speed.py`, whose `--help` has
smaller runs (`make bench ARGS="--size 64MiB --tensors 800 --repetitions 1"` takes a few minutes). It needs Linux, 12 GB on the
disk that is measured (`--scratch`), 10 GiB of memory and nothing else at work on the machine. `--device cuda` trains on a GPU.

- Each repetition measures the machine and everybody in turn, beginning with another one; each measurement has a process of its own, so its
  own memory, caches and processor time. Ratios are formed within a repetition. `×` behind a figure is its ratio to what the machine can do:
  a copy of the state in warm memory (fresh memory for the first save), an O_DIRECT write + fsync of it, an O_DIRECT read of it, `preadv` from
  the page cache; for bytes, what changed since the save before (written) or the state's size (disk, memory).
- A real loop trains a model with AdamW. It is known how long a step takes from {baseline} steps before anything else is set up. **The loop waits**:
  from the call until training goes on, with what is waited for before the optimizer may step. **First time**: the same, of the first save of the
  process. **The loop is longer by**: the whole loop's time from the call until the checkpoint is durable, less its steps at their usual length. So the
  slowdown by a writer that shares the cores is in it; so is noise, and a figure can come out below zero.
- **Durable**: all bytes have survived an fsync, and so has the name. Where a saver does not sync, the suite does: the row «+ fsync»;
  the row without it shows when the saver itself says that it is done. **Alone**: with no training beside it; **CPU** and **written** (bytes
  handed to the storage, as the kernel counts them) are of such a save. A peer's older checkpoints are deleted by the suite, off the
  clock; holdfast and Lightning delete theirs as part of the save.
- **Memory**: the peak beyond that of the training alone, of the process and its children, without the page cache.
- **Loads** go into tensors that exist, and must bring every bit back. **Warm**: from the page cache, after a first load. **Cold**: the files
  are not in the page cache, which is checked. **Start to first batch**: a fresh process builds the model, resumes from a cold checkpoint and hands
  out a batch; the ratio is to a start with nothing to resume plus an O_DIRECT read. Some leave work behind that the first step then does.
- `torch.load` maps the file and is followed by a copy into the tensors. Orbax gets NumPy arrays over torch's own memory, and what it restores is
  copied into the tensors; it compresses. `dcp.async_save` loads as `dcp.save`, Lightning only by resuming a fit.
- Only holdfast verifies what it loads. Its digests are on.
"""


def page(results: Results) -> str:
    summary = Summary(results)
    head = HEAD.format(
        command=results.command, date=results.date, machine=", ".join(results.machine.values()),
        scratch=results.scratch, repetitions=wording.count(results.repetitions, "interleaved repetition"),
    )  # fmt: skip
    parts = [head, "## Targets\n\n", _markdown(target_table(summary)), "\n"]
    for workload in results.workloads:
        parts.append(_workload(summary, workload))
    parts += ["## The machine\n\n", _markdown(machine_table(summary)), "\n## Who was measured\n\n"]
    parts += [_markdown(trait_table(summary)), "\n", *_notes(summary), HOW.format(baseline=BASELINE)]
    return "".join(parts)


def _workload(summary: Summary, workload: Workload) -> str:
    name = workload.name
    parts = [f"## {workload.title[0].upper()}{workload.title[1:]}\n\n", _size(summary, name)]
    for title, columns in (("Saving", SAVING), ("What a save costs", COST), ("Loading", LOADING)):
        parts.append(f"\n### {title}: {name}\n\n{_markdown(contender_table(summary, name, columns))}")
    for contender, reason in summary.cannot(name).items():
        parts.append(f"\n{contender} cannot run: `{reason}`\n")
    return "".join([*parts, "\n"])


def _size(summary: Summary, workload: str) -> str:
    """How much there is to save."""
    size = summary.spread(workload, HOLDFAST, figures.SIZE)
    changed = summary.spread(workload, HOLDFAST, figures.CHANGED)
    step = summary.spread(workload, HOLDFAST, figures.STEP)
    if size is None or changed is None or step is None:
        return "Not measured.\n"
    bytes_, of_it = wording.size(round(size.median)), wording.size(round(changed.median))
    return f"{bytes_} of state, of which each step changes {of_it}; a step takes {spread_text(step, wording.duration)}.\n"


def _notes(summary: Summary) -> list[str]:
    notes = summary.notes()
    return ["Said by the measurements: ", "; ".join(notes), ".\n\n"] if notes else []


def _markdown(table: Table) -> str:
    lines = [table.headers, ["---"] * len(table.headers), *table.rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
