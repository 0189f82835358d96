"""``holdfast ls``: the checkpoints of a run."""

from __future__ import annotations

from dataclasses import replace

from holdfast.cli import arguments


def ls(run: arguments.Run, as_json: arguments.AsJson = False) -> None:
    """List the checkpoints of a run, oldest first, and which of them a resume would use."""
    from holdfast.cli.listing import page
    from holdfast.cli.output import console, print_all, print_json
    from holdfast.cli.records import summaries
    from holdfast.cli.survey import survey
    from holdfast.engine.place import find, reopen

    place = find(run)
    found = survey(place.storage)
    if place.name is not None:
        entry = reopen(place.storage, place.name)
        found = replace(found, entries=(entry,), broken=(), on_disk=entry.size)
    if as_json:
        print_json(summaries(found))
    else:
        target = console()
        print_all(target, *page(found, target.width))
