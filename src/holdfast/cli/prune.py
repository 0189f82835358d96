"""``holdfast prune``: deletes what a keep policy lets go, and says why the rest stays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.cli import arguments, wording
from holdfast.errors import UsageError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from holdfast.cli.survey import Survey
    from holdfast.storage.local import LocalStorage

Keep = Annotated[
    list[str] | None,
    typer.Option("--keep", metavar="PHRASE", help='What stays, such as "last 3"; may be given several times.'),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would stay and what would go.")]


def prune(run: arguments.Run, keep: Keep = None, dry_run: DryRun = False, as_json: arguments.AsJson = False) -> None:
    """Delete the checkpoints that no --keep phrase keeps. The one a resume continues from and pinned ones stay."""
    from holdfast.cli.output import console, print_all, print_json
    from holdfast.cli.survey import survey
    from holdfast.engine.place import find_run

    if not keep:
        raise UsageError('prune needs to know what stays: --keep "last 3", for example.')
    found = survey(find_run(run))
    reasons = _plan(found, keep)
    if not dry_run:
        reasons = {name: reason or _deleted(found.storage, name) for name, reason in reasons.items()}
    if as_json:
        print_json([{"name": name, "kept": reason is not None, "reason": reason} for name, reason in reasons.items()])
    else:
        print_all(console(), *_page(reasons, dry_run))


def _deleted(storage: LocalStorage, name: str) -> str | None:
    """Deletes it; or why it stays after all, if a reader has come or somebody has pinned it meanwhile."""
    from holdfast.engine.holds import delete_unless_held

    obstacle = delete_unless_held(storage, name)
    return None if obstacle is None else obstacle.removeprefix(f"{name} ")


def _plan(found: Survey, phrases: list[str]) -> dict[str, str | None]:
    """For each checkpoint, oldest first, why it stays, or None. What another run or a rollback left is not touched."""
    from holdfast.engine.holds import held
    from holdfast.engine.pins import pinned
    from holdfast.policies.keep import described, plan, protected
    from holdfast.policies.phrases import keep_policy

    policy = keep_policy(phrases, "--keep")
    own = [described(one) for one in found.entries if one.name not in found.abandoned]
    stay = protected(own, held(found.storage), pinned(found.storage))
    if found.resume is not None:
        stay[found.resume] = "a resume continues here"
    return plan(policy, own, stay)


def _page(reasons: dict[str, str | None], dry_run: bool) -> list[RenderableType]:
    from holdfast.cli.tables import marked, text

    gone = sum(reason is None for reason in reasons.values())
    lines: list[RenderableType] = [
        marked("✗" if reason is None else "✓", "red" if reason is None else "green", [f"{name}  {reason or 'goes'}"])
        for name, reason in reasons.items()
    ]
    verb = "would be deleted" if dry_run else "deleted"
    return [*lines, text(f"{wording.count(gone, 'checkpoint')} {verb}, {len(reasons) - gone} kept")]
