"""The page that ``holdfast probe`` prints: what was measured, one column for each folder, and what it means."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from rich.console import RenderableType
from rich.text import Text

from holdfast import wording
from holdfast.cli.output import message_of
from holdfast.cli.tables import GAP, Column, column, fitting, table, text
from holdfast.cli.verdicts import Verdict
from holdfast.errors import StorageError
from holdfast.policies.estimate import Estimate
from holdfast.storage.probe import Probe
from holdfast.storage.speed import Speed

GOOD, BAD = "✓", "✗"
_CLOSE = 1.1
"""Times as long as the fastest that still count as equally fast: measured again, it may be the other way round."""
_NARROWEST = 12
"""Characters of a path that are shown in any case."""


@dataclass(frozen=True, slots=True)
class Question:
    """What was asked: about a state of ``size`` bytes, in a run that fails every so many seconds."""

    size: int
    sample: int
    mean_time_between_failures: float


@dataclass(frozen=True, slots=True)
class Report:
    """What is known about one ``path``. ``estimate`` is None where no checkpoint can be committed."""

    path: str
    there: bool
    probe: Probe
    verdicts: Sequence[Verdict]
    estimate: Estimate | None

    @property
    def usable(self) -> bool:
        """Whether a run can be kept there."""
        return not any(one.fatal for one in self.verdicts)

    def has_room(self, size: int) -> bool:
        """Whether a state of ``size`` bytes fits, as far as is known."""
        return self.probe.free is None or self.probe.free >= size


Row = tuple[str, Callable[[Report], str]]
"""A label, and what stands behind it for each folder."""


def page(
    reports: Sequence[Report], failures: Mapping[str, StorageError], asked: Question, width: int
) -> Iterator[RenderableType]:
    """All that was found, in ``width`` columns of text; last, which folders could not be tried out."""
    several = len(reports) + len(failures) > 1
    for report in reports:
        yield from _heading(report, asked)
    if reports:
        yield ""
        yield from _measured(reports, asked, width)
        for report in reports:
            yield from _judged(report, len(reports) > 1, width)
        yield ""
        yield from _advice(reports, several, asked)
    for path, error in failures.items():
        yield Text.assemble(text(f"{path}: was not tried out: {message_of(error)}", "bold red"), overflow="fold")


def fastest(reports: Sequence[Report], asked: Question) -> Report | None:
    """The one where a save is durable first; None without at least two to compare."""
    comparable = _comparable(reports, asked)
    return min(comparable, key=_durable) if len(comparable) > 1 else None


def _comparable(reports: Sequence[Report], asked: Question) -> list[Report]:
    return [one for one in reports if one.usable and one.estimate is not None and one.has_room(asked.size)]


def _heading(report: Report, asked: Question) -> Iterator[Text]:
    found = report.probe
    yield Text.assemble(text(report.path, "bold"), overflow="fold")
    if not report.there:
        yield text(f"is not there yet: tried out in {found.folder}, the nearest folder above", "yellow")
    system = [f"{found.mount.type} on {found.mount.point}"] if found.mount is not None else []
    if found.free is not None and found.total is not None:
        system.append(f"{wording.size(found.free)} of {wording.size(found.total)} free")
    yield text(", ".join(system), "dim")
    if found.sample < asked.sample:
        yield text(f"sample of {wording.size(found.sample)}, a quarter of what is free", "dim")


def _measured(reports: Sequence[Report], asked: Question, width: int) -> Iterator[RenderableType]:
    rows = _rows(reports, asked)
    labels = column("measured", [label for label, _ in rows])
    room = (width - labels.width) // len(reports) - GAP
    columns = [_column(one, max(room, _NARROWEST), rows, rank) for rank, one in enumerate(reports)]
    shown, left_out = fitting([labels, *columns], width)
    yield table(shown, width)
    yield ""
    yield text(f"best interval: by Young and Daly, √(2 × wait × {_mtbf(asked)} between failures)", "dim")
    yield text("Overhead(0.01): as often as it takes at most 1 % of the time of training", "dim")
    if any(one.estimate is not None and one.estimate.streams for one in reports):
        larger = "larger than the memory that is left, so it would stream: training waits until it is written"
        yield text(f"a state of {wording.size(asked.size)} is {larger}", "yellow")
    if left_out:
        yield text(f"No room for {', '.join(left_out)}: widen the terminal, or use --json.", "dim")


def _column(report: Report, room: int, rows: Sequence[Row], rank: int) -> Column:
    path = report.path if len(report.path) <= room else f"…{report.path[1 - room :]}"
    return column(path, [cell(report) for _, cell in rows], right=True, rank=rank)


def _rows(reports: Sequence[Report], asked: Question) -> list[Row]:
    """With several folders, what each can do is compared too; with one, the verdicts below say it."""
    names = dict.fromkeys(one.name for report in reports for one in report.verdicts) if len(reports) > 1 else ()
    return [
        ("sample", _of_speed(lambda speed: wording.size(speed.write.size))),
        ("write", _of_speed(lambda speed: _rate(speed.write.rate))),
        ("read", _of_speed(lambda speed: _rate(speed.read.rate))),
        ("fsync", _of_speed(lambda speed: wording.duration(speed.sync.median))),
        ("  at worst", _of_speed(lambda speed: wording.duration(speed.sync.worst))),
        ("rename", _of_speed(lambda speed: wording.duration(speed.rename.median))),
        ("  at worst", _of_speed(lambda speed: wording.duration(speed.rename.worst))),
        *([("tried", _nothing)] if names else []),
        *((f"  {name}", _mark(name)) for name in names),
        (f"state of {wording.size(asked.size)}", _nothing),
        ("  training waits", _of_estimate(lambda found: wording.duration(found.stall))),
        ("  durable after", _of_estimate(lambda found: wording.duration(found.durable))),
        ("  loaded after", _of_estimate(lambda found: wording.duration(found.load))),
        ("  best interval", _of_estimate(lambda found: wording.duration(found.best))),
        ("  Overhead(0.01)", _of_estimate(lambda found: wording.duration(found.bounded.seconds))),
    ]


def _nothing(report: Report) -> str:
    return ""


def _of_speed(show: Callable[[Speed], str]) -> Callable[[Report], str]:
    return lambda report: "-" if report.probe.speed is None else show(report.probe.speed)


def _of_estimate(show: Callable[[Estimate], str]) -> Callable[[Report], str]:
    return lambda report: "-" if report.estimate is None else show(report.estimate)


def _mark(name: str) -> Callable[[Report], str]:
    return lambda report: next((GOOD if one.good else BAD for one in report.verdicts if one.name == name), "")


def _rate(rate: float) -> str:
    return f"{wording.size(int(rate))}/s"


def _mtbf(asked: Question) -> str:
    return wording.duration(asked.mean_time_between_failures)


def _judged(report: Report, several: bool, width: int) -> Iterator[RenderableType]:
    """Every verdict on the only folder; of several, those that are bad news."""
    shown = [one for one in report.verdicts if not (several and one.good)]
    if not shown:
        return
    yield ""
    if several:
        yield Text.assemble(text(report.path, "bold"), overflow="fold")
    names = [text(f"{GOOD if one.good else BAD} {one.name}", _style(one)) for one in shown]
    yield table([column("tried", names), column("what it means", [one.means for one in shown], elastic="fold")], width)


def _style(verdict: Verdict) -> str:
    return "green" if verdict.good else "bold red" if verdict.fatal else "yellow"


def _advice(reports: Sequence[Report], several: bool, asked: Question) -> Iterator[Text]:
    best = fastest(reports, asked)
    if best is not None:
        yield Text.assemble(text(_compared(best, reports, asked)), overflow="fold")
        yield Text("")
    for report in reports:
        before = f"{report.path}: " if several else ""
        if not report.usable:
            names = " and ".join(one.name for one in report.verdicts if one.fatal)
            yield text(f"{before}holdfast cannot keep a run here, for {names}. Choose another folder.", "bold red")
        elif not report.has_room(asked.size):
            words = f"{before}a state of {wording.size(asked.size)} does not fit here. --size says how large yours is."
            yield Text.assemble(text(words, "bold red"), overflow="fold")
        elif report.estimate is not None:
            phrase = text(f'save="{report.estimate.phrase}"', "bold")
            yield Text.assemble(text(before), phrase, text(_why(report.estimate), "dim"), overflow="fold")


def _why(found: Estimate) -> str:
    """Where the interval is not the one that loses the least time."""
    return f"  (it takes {wording.duration(found.persist)} to write a save)" if found.best < found.persist else ""


def _compared(best: Report, reports: Sequence[Report], asked: Question) -> str:
    others = [f"{one.path} {_behind(one, best)}" for one in _comparable(reports, asked) if one is not best]
    remark = ". It does not survive the machine, though" if _in_memory(best) else ""
    words = f"A save of {wording.size(asked.size)} is durable first in {best.path}, after"
    return f"{words} {wording.duration(_durable(best))}; {', '.join(others)}{remark}."


def _durable(report: Report) -> float:
    assert report.estimate is not None
    return report.estimate.durable


def _behind(report: Report, best: Report) -> str:
    if report.probe.mount is not None and report.probe.mount == best.probe.mount:
        return "is on the same file system"
    factor = _durable(report) / _durable(best)
    return f"takes {factor:.1f} times as long" if factor >= _CLOSE else "takes about as long"


def _in_memory(report: Report) -> bool:
    return report.probe.mount is not None and report.probe.mount.in_memory
