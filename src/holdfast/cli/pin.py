"""``holdfast pin`` and ``holdfast unpin``: what stays whatever the policies say."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from holdfast.cli import arguments
from holdfast.errors import NotFoundError, UsageError

if TYPE_CHECKING:
    from holdfast.engine.place import Place
    from holdfast.storage.local import LocalStorage


def pin(
    run: arguments.RunOrCheckpoint, checkpoint: arguments.OneCheckpoint = None, as_json: arguments.AsJson = False
) -> None:
    """Keep a checkpoint, whatever the keep policy of the run says, until it is unpinned."""
    from holdfast.cli.output import print_outcome
    from holdfast.engine import pins

    storage, name = _chosen(run, checkpoint)
    _require(storage, name)
    pins.pin(storage, name)
    print_outcome(as_json, {"pinned": name}, f"{name} stays until it is unpinned")


def unpin(
    run: arguments.RunOrCheckpoint, checkpoint: arguments.OneCheckpoint = None, as_json: arguments.AsJson = False
) -> None:
    """Leave a checkpoint to the keep policy again: the next save may delete it."""
    from holdfast.cli.output import print_outcome
    from holdfast.engine import pins

    storage, name = _chosen(run, checkpoint)
    if name not in pins.pinned(storage):  # the checkpoint of a pin may be gone or broken, that of a slip is named
        _require(storage, name)
    pins.unpin(storage, name)
    print_outcome(as_json, {"unpinned": name}, f"{name} is left to the keep policy again")


def _chosen(run: str, checkpoint: str | None) -> tuple[LocalStorage, str]:
    """The checkpoint that is meant, whether or not it is there."""
    place = _place(run)
    name = place.name or checkpoint
    if name is None:
        raise UsageError(f"{run}: is a run; name one of its checkpoints too. `holdfast ls {run}` lists them.")
    return place.storage, name


def _place(run: str) -> Place:
    """The run folder or checkpoint at this path; a checkpoint may be gone, if its run is there."""
    from holdfast.engine.place import Place, find, find_run
    from holdfast.format.names import CheckpointName

    try:
        return find(run)
    except NotFoundError:
        folder, name = os.path.split(os.path.abspath(os.path.expanduser(run)))
        if CheckpointName.parse(name) is None:
            raise
        return Place(find_run(folder), name)


def _require(storage: LocalStorage, name: str) -> None:
    from holdfast.engine.place import reopen

    reopen(storage, name)
