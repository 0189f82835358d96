"""``holdfast prune``: deletes what a keep policy lets go, and says why the rest stays."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from holdfast import wording
from holdfast.cli import arguments
from holdfast.errors import NotFoundError, UsageError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from holdfast.cli.survey import Survey
    from holdfast.policies.keep import KeepPolicy, Kept
    from holdfast.storage.local import LocalStorage

Keep = Annotated[
    list[str] | None,
    typer.Option("--keep", metavar="PHRASE", help='What stays, such as "last 3"; may be given several times.'),
]
Abandoned = Annotated[
    bool, typer.Option("--abandoned", help="Delete what a rollback left behind, which stays otherwise.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would stay and what would go.")]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a checkpoint stays, and why; ``gone`` before this command came to delete it."""

    kept: bool
    reason: str
    gone: bool = False

    @property
    def deleted(self) -> bool:
        """Whether this command deletes it."""
        return not self.kept and not self.gone


def prune(
    run: arguments.Run, keep: Keep = None, abandoned: Abandoned = False, dry_run: DryRun = False,
    as_json: arguments.AsJson = False,
) -> None:  # fmt: skip
    """Delete the checkpoints that no --keep phrase keeps. The one a resume continues from and pinned ones stay."""
    from holdfast.cli.output import console, print_all, print_json
    from holdfast.cli.survey import survey
    from holdfast.engine.sharing import on_disk

    if not keep and not abandoned:
        raise UsageError('prune needs to know what stays: --keep "last 3", for example; or what goes: --abandoned.')
    found = survey(arguments.run_folder(run))
    verdicts = _plan(found, keep or [], abandoned)
    _warn_of_last_copies(found.storage, [name for name, one in verdicts.items() if not one.kept])
    if not dry_run:
        verdicts = {name: one if one.kept else _deleted(found.storage, name, one) for name, one in verdicts.items()}
    if as_json:
        print_json([{"name": name, "kept": one.kept, "reason": one.reason} for name, one in verdicts.items()])
    else:
        staying = [one for one in found.entries if not verdicts[one.name].deleted]
        freed = found.on_disk - on_disk(found.files, staying)
        print_all(console(), *_page(verdicts, freed, len(found.broken), dry_run))


def _warn_of_last_copies(storage: LocalStorage, going: Sequence[str]) -> None:
    """Checkpoints that stay, and that share a file of which the only other copy goes."""
    from holdfast.engine.catalog import Catalog
    from holdfast.engine.sharing import left_with_one
    from holdfast.wording import printable

    for text in left_with_one(Catalog(storage), going):
        print(f"holdfast: {printable(text)}", file=sys.stderr)


def _deleted(storage: LocalStorage, name: str, verdict: Verdict) -> Verdict:
    """Deletes it; or why it stays after all, if a reader has come or somebody has pinned it meanwhile."""
    from holdfast.engine.holds import delete_unless_held

    try:
        obstacle = delete_unless_held(storage, name, missing_ok=False)
    except NotFoundError:
        return Verdict(False, "somebody else deleted it meanwhile", gone=True)
    return verdict if obstacle is None else Verdict(True, obstacle.removeprefix(f"{name} "))


def _plan(found: Survey, phrases: list[str], abandoned: bool) -> dict[str, Verdict]:
    """For each checkpoint, oldest first, whether it stays. Phrases count and choose among those that a resume may use.

    What a rollback left behind goes if ``abandoned`` ones are to go; what another run wrote, or what is corrupt and may
    be repaired from a copy, never does.
    """
    from holdfast.cli.listing import ABANDONED, DAMAGED, FOREIGN, LEGEND
    from holdfast.engine.holds import held
    from holdfast.engine.pins import pinned

    holds, pins = held(found.storage), pinned(found.storage)
    firm = {**holds, **dict.fromkeys(pins, "pinned")}
    kept = _kept(found, phrases, holds, pins)
    verdicts = dict[str, Verdict]()
    for one in found.entries:
        if one.name in found.foreign:
            verdicts[one.name] = Verdict(True, LEGEND[FOREIGN])
        elif one.name in found.damaged - found.abandoned:
            verdicts[one.name] = Verdict(True, LEGEND[DAMAGED])
        elif one.name in found.abandoned:
            reason = firm.get(one.name) if abandoned else "--abandoned deletes it"
            words = f"{LEGEND[ABANDONED]}, {reason}" if reason else LEGEND[ABANDONED]
            verdicts[one.name] = Verdict(reason is not None, words)
        else:
            verdicts[one.name] = Verdict(kept[one.name] is not None, kept[one.name] or "no phrase keeps it")
    return verdicts


def _kept(found: Survey, phrases: list[str], holds: Mapping[str, str], pins: Iterable[str]) -> dict[str, str | None]:
    """For each checkpoint that counts, why it stays, or None."""
    from holdfast.cli.listing import LEGEND, RESUME
    from holdfast.policies.keep import described, plan, protected
    from holdfast.policies.phrases import keep_policy

    if not phrases:
        return dict.fromkeys((one.name for one in found.own), "no --keep was given")
    policy = keep_policy(phrases, "--keep")
    own = [described(one) for one in found.own]
    _check_metrics(policy, own)
    stay = protected(own, holds, pins)
    if found.resume is not None:
        stay[found.resume] = LEGEND[RESUME]
    return plan(policy, own, stay)


def _check_metrics(policy: KeepPolicy, checkpoints: Sequence[Kept]) -> None:
    """Raises `UsageError` for a metric that none of them has: a slip of the pen must not delete the best ones."""
    from holdfast.hints import unknown_metric
    from holdfast.policies.keep import KeepAny
    from holdfast.policies.keep_marks import KeepBest

    known = {metric for one in checkpoints for metric in one.metrics}
    for one in policy.policies if isinstance(policy, KeepAny) else (policy,):
        if checkpoints and isinstance(one, KeepBest) and one.metric not in known:
            raise UsageError(f"--keep: nothing was deleted: {unknown_metric(one.metric, known)}")


def _page(verdicts: Mapping[str, Verdict], freed: int, broken: int, dry_run: bool) -> list[RenderableType]:
    from holdfast.cli.tables import marked, text

    kept = sum(one.kept for one in verdicts.values())
    deleted = sum(one.deleted for one in verdicts.values())
    verbs = ("would be deleted", "would be freed") if dry_run else ("deleted", "freed")
    lines: list[RenderableType] = [
        marked("✓", "green", [f"{name}  {one.reason}"])
        if one.kept
        else marked("✗", "red", [f"{name}  {_fate(one, dry_run)}: {one.reason}"])
        for name, one in verdicts.items()
    ]
    lines.append(
        text(f"{wording.count(deleted, 'checkpoint')} {verbs[0]}, {kept} kept; {wording.size(freed)} {verbs[1]}")
    )
    if broken:
        lines.append(
            text(f"{wording.count(broken, 'broken one')} left alone: holdfast ls names what is wrong", "yellow")
        )
    return lines


def _fate(verdict: Verdict, dry_run: bool) -> str:
    if verdict.gone:
        return "gone"
    return "goes" if dry_run else "deleted"
