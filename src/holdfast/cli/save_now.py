"""``holdfast save-now``: a checkpoint of a run that is under way."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.cli import arguments
from holdfast.errors import NotFoundError, SaveError

if TYPE_CHECKING:
    from holdfast.storage.local import LocalStorage

Wait = Annotated[
    float | None, typer.Option("--wait", metavar="SECONDS", help="Wait so long for the checkpoint to be there.")
]
_POLL_SECONDS = 0.2


def save_now(run: arguments.Run, wait: Wait = None, as_json: arguments.AsJson = False) -> None:
    """Ask a live trainer for a checkpoint at its next safe boundary. Exit code 3: no trainer has the folder."""
    from holdfast.cli.output import print_outcome
    from holdfast.engine.place import find_run
    from holdfast.engine.requests import request_save
    from holdfast.engine.run_folder import home_of, trainer_of

    storage = home_of(find_run(run))
    if trainer_of(storage) is None:
        raise NotFoundError(f"{run}: no trainer is running in this folder, so nobody could save.")
    before = _newest(storage)
    request_save(storage)
    if wait is None:
        print_outcome(as_json, {"asked": True}, f"{run}: asked; the run saves at its next safe boundary")
        return
    name = _await(storage, before, wait)
    print_outcome(as_json, {"asked": True, "checkpoint": name}, f"{run}: saved {name}")


def _newest(storage: LocalStorage) -> str | None:
    from holdfast.engine.catalog import Catalog

    entries = Catalog(storage).list().entries
    return entries[-1].name if entries else None


def _await(storage: LocalStorage, before: str | None, seconds: float) -> str:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        newest = _newest(storage)
        if newest is not None and newest != before:
            return newest
        time.sleep(_POLL_SECONDS)
    raise SaveError(
        f"{storage.url}: no checkpoint came within {seconds:g} s. The request stands; it is fulfilled at the next safe "
        "boundary. Look at the run's own output if it saves at all."
    )
