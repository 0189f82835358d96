"""Arguments and options that several commands take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.errors import NotFoundError

if TYPE_CHECKING:
    from holdfast.storage.local import LocalStorage

Run = Annotated[str, typer.Argument(metavar="RUN", help="A run folder.", show_default=False)]
RunOrCheckpoint = Annotated[
    str, typer.Argument(metavar="RUN", help="A run folder, or one checkpoint.", show_default=False)
]
OneCheckpoint = Annotated[
    str | None, typer.Argument(metavar="CHECKPOINT", help="One of the run's checkpoints.", show_default=False)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs. Errors become JSON too.")]


def run_folder(run: str) -> LocalStorage:
    """The folder of a run, for commands that can do nothing with one checkpoint. Raises what `find` raises."""
    from holdfast.engine.place import find

    place = find(run)
    if place.name is not None:
        raise NotFoundError(f"{run}: is a checkpoint, not a run folder; give the one it is in: {place.storage.root}")
    return place.storage
