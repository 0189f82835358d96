"""Arguments and options that several commands take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.errors import NotFoundError, UsageError

if TYPE_CHECKING:
    from holdfast.engine.place import Place
    from holdfast.storage.local import LocalStorage

Run = Annotated[str, typer.Argument(metavar="RUN", help="A run folder.", show_default=False)]
RunOrCheckpoint = Annotated[
    str, typer.Argument(metavar="RUN", help="A run folder, or one checkpoint.", show_default=False)
]
OneCheckpoint = Annotated[
    str | None, typer.Argument(metavar="CHECKPOINT", help="One of the run's checkpoints.", show_default=False)
]
_LARGEST = 10**18
"""Bytes of the largest size that is taken for one."""
_LONGEST = 1e10
"""Seconds, some centuries, of the longest time that is taken for one."""
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs. Errors become JSON too.")]


def size(text: str, option: str, least: int = 1) -> int:
    """Bytes. Raises `UsageError`, which names ``option``, for what is no size, or less than ``least``."""
    from holdfast import wording
    from holdfast.policies.keep_newest import parse_size

    found = parse_size(text)
    if found is None or not least <= found <= _LARGEST:
        bounds = f"from {wording.size(least)} to {wording.size(_LARGEST)}"
        raise UsageError(f'{option} {text!r}: expected a size {bounds}, such as "2 GiB" or "500MB".')
    return found


def duration(text: str, option: str) -> float:
    """Seconds. Raises `UsageError`, which names ``option``, for what is no time above 0."""
    from holdfast.policies.units import parse_duration

    found = parse_duration(text)
    if found is None or found > _LONGEST:
        raise UsageError(f'{option} {text!r}: expected a time above 0, such as "24 hours" or "90 min".')
    return found


def place(run: str, checkpoint: str | None) -> Place:
    """What a run and perhaps the name of one of its checkpoints mean. Raises what `find` raises."""
    from holdfast.engine.place import Place, find

    found = find(run)
    if checkpoint is None:
        return found
    if found.name is not None:
        raise UsageError(f"{run}: is a checkpoint already; leave out {checkpoint!r}.")
    return Place(found.storage, checkpoint)


def run_folder(run: str) -> LocalStorage:
    """The folder of a run, for commands that can do nothing with one checkpoint. Raises what `find` raises."""
    from holdfast.engine.place import find

    found = find(run)
    if found.name is not None:
        raise NotFoundError(f"{run}: is a checkpoint, not a run folder; give the one it is in: {found.storage.root}")
    return found.storage
