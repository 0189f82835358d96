"""One picture: how long the loop waits for each saver, and how long it takes until a checkpoint is durable."""

from __future__ import annotations

from pathlib import Path

from suite import figures
from suite.contenders import HOLDFAST
from suite.records import MACHINE
from suite.summary import Summary

OWN, OTHER, LIMIT = "#0b6e4f", "#8d99ae", "#d1495b"
PANELS = (
    (figures.STALL, figures.COPY_WARM, "The loop waits", "copy in warm memory"),
    (figures.DURABLE, figures.RAW_WRITE, "Until durable, alone", "raw write + fsync"),
)


def draw(summary: Summary, workload: str, path: Path) -> None:
    """Writes an SVG, the same for the same results. Needs matplotlib."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "holdfast"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(PANELS), figsize=(11, 4.2), sharey=True, layout="constrained")
    for axis, (what, limit, title, limit_title) in zip(axes, PANELS, strict=True):
        _bars(axis, summary, workload, what)
        at = summary.spread(workload, MACHINE, limit)
        if at is not None:
            axis.axvline(at.median, color=LIMIT, linestyle="--", linewidth=1.2, label=f"this machine: {limit_title}")
            axis.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), fontsize=8, frameon=False)
        axis.set_title(title, fontsize=11, loc="left")
        axis.set_xlabel("seconds, median; the line from the least to the most")
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def _bars(axis: object, summary: Summary, workload: str, what: str) -> None:
    from matplotlib.axes import Axes

    assert isinstance(axis, Axes)
    names = [name for name in summary.contenders if summary.spread(workload, name, figures.DURABLE) is not None]
    for place, name in enumerate(names):
        found = summary.spread(workload, name, what)
        if found is None:
            continue
        reach = [[found.median - found.least], [found.most - found.median]]
        colour = OWN if name == HOLDFAST else OTHER
        axis.barh(place, found.median, xerr=reach, color=colour, height=0.65, error_kw={"linewidth": 1})
        axis.text(found.most, place, f"  {found.median:.3g}", va="center", fontsize=8)
    axis.set_yticks(range(len(names)), [_label(summary, name) for name in names])
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.margins(x=0.12)


def _label(summary: Summary, name: str) -> str:
    return f"{name} + fsync" if summary.results.traits[name].durable == "nothing" else name
