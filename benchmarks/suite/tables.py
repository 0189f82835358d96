"""The tables of a run of the suite, as text in rows: the page and the terminal show the same ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from holdfast import wording
from suite import figures
from suite.contenders import HOLDFAST
from suite.records import MACHINE
from suite.summary import BYTES, Spread, Summary
from suite.targets import MOST, TARGETS
from suite.workload import Workload

NOTHING = "–"

SAVING = {
    "the loop waits": figures.STALL,
    "first time": figures.FIRST_STALL,
    "the loop is longer by": figures.OVERHEAD,
    "durable, beside training": figures.BESIDE,
    "durable, alone": figures.DURABLE,
}
COST = {
    "CPU": figures.CPU,
    "written": figures.WRITTEN,
    "on disk": figures.DISK,
    "memory": figures.SAVING_MEMORY,
}
LOADING = {
    "load, warm": figures.WARM,
    "load, cold": figures.COLD,
    "memory": figures.LOADING_MEMORY,
    "start to first batch": figures.FIRST_BATCH,
    "start to first step": figures.FIRST_STEP,
}
UNSYNCED = {figures.STALL: figures.CALL, figures.DURABLE: figures.DONE}
"""What a saver that syncs nothing shows where the suite does not do that for it."""
MACHINE_FIGURES = {
    "copy in warm memory": figures.COPY_WARM,
    "copy into fresh memory": figures.COPY_COLD,
    "O_DIRECT write + fsync": figures.RAW_WRITE,
    "O_DIRECT read": figures.RAW_READ,
    "`preadv` from the page cache": figures.READ_WARM,
    "XXH3, one thread": figures.XXH3,
    "BLAKE3, one thread": figures.BLAKE3,
    "copy from the device into pinned memory": figures.PINNED,
}


@dataclass(frozen=True)
class Table:
    headers: list[str]
    rows: list[list[str]]


def markdown(table: Table) -> str:
    lines = [table.headers, ["---"] * len(table.headers), *table.rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def spread_text(found: Spread, shown: Callable[[float], str]) -> str:
    """The median, and what is around it.

    >>> spread_text(Spread(2.0, 1.0, 2.5), wording.duration), spread_text(Spread(1.0, 1.0, 1.0), wording.duration)
    ('2 s (1-2.5)', '1 s')
    """
    median, least, most = (shown(one) for one in (found.median, found.least, found.most))
    if least == most:
        return median
    same = least.split(" ")[1:] == median.split(" ")[1:] == most.split(" ")[1:]
    return f"{median} ({least.split(' ')[0]}-{most.split(' ')[0]})" if same else f"{median} ({least}-{most})"


def times(ratio: float) -> str:
    """A ratio in two digits.

    >>> times(0.0123), times(1.5), times(123.4)
    ('0.012×', '1.5×', '123×')
    """
    return f"{ratio:.0f}×" if ratio >= 100 else f"{ratio:.2g}×"


def _shown(figure: str) -> Callable[[float], str]:
    return _size if figure in BYTES else _duration


def _size(count: float) -> str:
    return wording.size(max(0, round(count)))


def _duration(seconds: float) -> str:
    return wording.duration(seconds) if seconds > 0 else f"{seconds:.2g} s"


def cell(summary: Summary, workload: str, contender: str, figure: str) -> str:
    """Median (least-most), then the ratio to what the machine could do."""
    found = summary.spread(workload, contender, figure)
    if found is None:
        return NOTHING
    ratio = summary.to_limit(workload, contender, figure)
    text = spread_text(found, _shown(figure))
    return text if ratio is None or ratio.median <= 0 else f"{text} · {times(ratio.median)}"


def contender_table(summary: Summary, workload: str, columns: dict[str, str]) -> Table:
    """A row for each contender that has something to show, and holdfast by the best of its peers."""
    rows = []
    for name in summary.contenders:
        unsynced = columns is SAVING and _syncs_nothing(summary, name)
        row = [cell(summary, workload, name, figure) for figure in columns.values()]
        if any(one != NOTHING for one in row):
            if unsynced:
                rows.append([name, *_unsynced(summary, workload, name, columns.values())])
            rows.append([f"{name} + fsync" if unsynced else name, *row])
    rows.append(["**holdfast ÷ best peer**", *(_to_best(summary, workload, one) for one in columns.values())])
    return Table(["", *columns], rows)


def plain_table(summary: Summary, workload: str, columns: dict[str, str]) -> Table:
    """The same without ratios, and of those who do not sync only what it takes with an fsync."""
    rows = []
    for name in summary.contenders:
        spreads = [summary.spread(workload, name, figure) for figure in columns.values()]
        if any(spreads):
            cells = [NOTHING if one is None else spread_text(one, _duration) for one in spreads]
            rows.append([f"{name} + fsync" if _syncs_nothing(summary, name) else name, *cells])
    return Table(["", *columns], rows)


def _syncs_nothing(summary: Summary, name: str) -> bool:
    return name in summary.results.traits and summary.results.traits[name].durable == "nothing"


def _unsynced(summary: Summary, workload: str, name: str, columns: Iterable[str]) -> list[str]:
    return [cell(summary, workload, name, UNSYNCED[one]) if one in UNSYNCED else NOTHING for one in columns]


def _to_best(summary: Summary, workload: str, figure: str) -> str:
    """Memory is held against that of those who take some: the asynchronous ones."""
    traits = summary.results.traits
    takes_memory = figure == figures.SAVING_MEMORY
    peer = summary.best_peer(workload, figure, lambda name: traits[name].asynchronous or not takes_memory)
    ratio = None if peer is None else summary.to_peer(workload, figure, peer)
    return NOTHING if ratio is None or ratio.median <= 0 else f"**{times(ratio.median)}** ({peer})"


def machine_table(summary: Summary) -> Table:
    """The raw limits: seconds, and bytes a second."""
    workloads = summary.results.workloads
    rows = [
        [title, *(_limit_cell(summary, one, figure) for one in workloads)]
        for title, figure in MACHINE_FIGURES.items()
        if any(summary.values(one.name, MACHINE, figure) for one in workloads)
    ]
    return Table(["", *(one.name for one in workloads)], rows)


def _limit_cell(summary: Summary, workload: Workload, figure: str) -> str:
    found = summary.spread(workload.name, MACHINE, figure)
    size = summary.spread(workload.name, HOLDFAST, figures.SIZE)
    if found is None:
        return NOTHING
    rate = f" · {wording.size(round(size.median / found.median))}/s" if size is not None else ""
    return spread_text(found, wording.duration) + rate


def target_table(summary: Summary) -> Table:
    rows = []
    for target in TARGETS:
        found = target.measure(summary)
        aim = f"{'≤' if target.bound == MOST else '≥'} {target.aim:.3g}"
        if found is None:
            rows.append([target.what, aim, NOTHING, "not measured"])
        else:
            measured = spread_text(found, lambda ratio: f"{ratio:.3g}")
            rows.append([target.what, aim, measured, "reached" if target.reached(found) else "**not reached**"])
    return Table(["holdfast", "target", "measured", ""], rows)


def trait_table(summary: Summary) -> Table:
    rows = [
        [
            name, ", ".join(f"{package} {version}" for package, version in traits.versions.items()),
            "yes" if traits.asynchronous else "no", traits.durable, traits.verifies,
        ]
        for name, traits in summary.results.traits.items()
    ]  # fmt: skip
    return Table(["", "versions", "asynchronous", "synced by itself", "verified by a load"], rows)
