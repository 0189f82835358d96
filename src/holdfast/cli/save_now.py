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
    from holdfast.engine.identity import home_of, trainer_of
    from holdfast.engine.requests import request_save

    storage = home_of(arguments.run_folder(run))
    if trainer_of(storage) is None:
        raise NotFoundError(f"{run}: no trainer is running in this folder, so nobody could save.")
    start = _end(storage)
    request_save(storage)
    if wait is None:
        print_outcome(as_json, {"asked": True}, f"{run}: asked; the run saves at its next safe boundary")
        return
    name = _await(storage, start, wait)
    print_outcome(as_json, {"asked": True, "checkpoint": name}, f"{run}: saved {name}")


def _end(storage: LocalStorage) -> tuple[int, int]:
    """The newest attempt, and how long its journal is."""
    from holdfast.engine.journal import journal_path
    from holdfast.engine.run_folder import read_attempts

    attempt = max((one.attempt for one in read_attempts(storage)), default=0)
    try:
        return attempt, storage.size(journal_path(attempt))
    except NotFoundError:
        return attempt, 0


def _await(storage: LocalStorage, start: tuple[int, int], seconds: float) -> str:
    """The name of the checkpoint that the request has led to, in whatever folder: the run's journal tells it."""
    from holdfast.engine.journal import read_journal
    from holdfast.format.reasons import ON_REQUEST

    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        attempt, _ = _end(storage)
        for line in read_journal(storage, attempt, start=start[1] if attempt == start[0] else 0):
            if line.get("t") == "saved" and ON_REQUEST in line.get("reason", ()):
                return str(line["name"])
            if line.get("t") == "save_failed" and ON_REQUEST in line.get("reason", ()):
                raise SaveError(f"{storage.url}: {line.get('message')}")
        time.sleep(_POLL_SECONDS)
    raise SaveError(
        f"{storage.url}: no checkpoint came within {seconds:g} s. The request stands; it is fulfilled at the next safe "
        "boundary. Look at the run's own output if it saves at all."
    )
