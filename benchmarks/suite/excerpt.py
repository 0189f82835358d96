"""The README's table: what one wants to know first, out of the same results as the page."""

from __future__ import annotations

from holdfast import wording
from suite import figures
from suite.contenders import HOLDFAST
from suite.records import Results
from suite.summary import Summary
from suite.tables import markdown, plain_table
from suite.workload import DENSE

BEGIN = "<!-- Made by `make bench` from benchmarks/results/speed.json. -->\n"
END = "<!-- Up to here. -->\n"

COLUMNS = {
    "the loop waits": figures.STALL,
    "the loop is longer by": figures.OVERHEAD,
    "durable": figures.BESIDE,
    "load, cold": figures.COLD,
    "load, warm": figures.WARM,
}


def excerpt(results: Results) -> str:
    summary = Summary(results)
    size = summary.spread(DENSE, HOLDFAST, figures.SIZE)
    state = "A state" if size is None else f"{wording.size(round(size.median))} of state"
    repetitions = wording.count(results.repetitions, "interleaved repetition")
    words = f"{state}, all of it trained by AdamW and saved beside the training; {', '.join(results.machine.values())}."
    measured = f"Median (least-most) of {repetitions}, by `{results.command}`. Only holdfast verifies what it loads."
    return f"{words}\n{measured}\n\n{markdown(plain_table(summary, DENSE, COLUMNS))}\n"


def with_excerpt(readme: str, results: Results) -> str:
    """The README with this table in it. Raises `ValueError` if it has no place for one.

    Everything that lay between the two comments is replaced.
    """
    if readme.count(BEGIN) != 1 or readme.count(END) != 1:
        raise ValueError(f"README.md needs the lines {BEGIN.strip()} and {END.strip()}, once each, around its table")
    before, rest = readme.split(BEGIN)
    return f"{before}{BEGIN}{excerpt(results)}{END}{rest.split(END)[1]}"
