"""How a run is ended: a save policy that counts boundaries, and what happens once its checkpoint is durable."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

from holdfast import AtEnd, Every, OnError, OnSignal
from holdfast.policies.moment import Moment
from holdfast.policies.save import SavePolicy

Listener = Callable[[Any], object]


class Boundary(SavePolicy):
    """Calls ``reach`` at every boundary with its number; says what that returns."""

    __slots__ = ("number", "reach")

    def __init__(self, reach: Callable[[int], str | None]) -> None:
        self.reach = reach
        self.number = 0

    def due(self, moment: Moment) -> str | None:
        if moment.event not in ("boundary", "epoch_end"):
            return None
        self.number += 1
        return self.reach(self.number)


def policy_of(kill: tuple[str, int] | None, number: int) -> tuple[SavePolicy, Callable[[Any], Listener]]:
    """The policy of attempt ``number``, and the listener to its events, given the run.

    - ``at``: a signal at the boundary forces a save of exactly that one; SIGKILL once it is durable.
    - ``after``: an ordinary save due there, taken when it can be; SIGKILL at the boundary after.
    - ``asked``: the script saves for itself; SIGKILL at the boundary, once the last save is durable.
    - ``raise``: the script fails in a batch, and the save is the one on an error.
    - None: it runs to its end, in the first attempt with a save at every boundary.
    """
    if kill is None:
        return (Every(batches=1) if number == 1 else AtEnd()), lambda run: _ignore
    how, target = kill
    if how == "raise":
        return OnError(), lambda run: _ignore
    return {"at": _at, "after": _after, "asked": _asked}[how](target)


def _ignore(event: Any) -> None:
    return None


def _at(target: int) -> tuple[SavePolicy, Callable[[Any], Listener]]:
    def reach(number: int) -> None:
        if number == target:
            os.kill(os.getpid(), signal.SIGTERM)

    def listen(event: Any) -> None:
        if event.kind == "saved":
            os.kill(os.getpid(), signal.SIGKILL)

    return Boundary(reach) | OnSignal(), lambda run: listen


def _after(target: int) -> tuple[SavePolicy, Callable[[Any], Listener]]:
    durable: list[bool] = []

    def reach(number: int) -> str | None:
        if durable:
            os.kill(os.getpid(), signal.SIGKILL)
        return "due" if number == target else None

    def listener(run: Any) -> Listener:
        def listen(event: Any) -> None:
            if event.kind == "snapshot":
                run.wait()
                durable.append(True)

        return listen

    return Boundary(reach), listener


def _asked(target: int) -> tuple[SavePolicy, Callable[[Any], Listener]]:
    runs: list[Any] = []

    def reach(number: int) -> None:
        if number == target:
            runs[0].wait()
            os.kill(os.getpid(), signal.SIGKILL)

    def listener(run: Any) -> Listener:
        runs.append(run)
        return _ignore

    return Boundary(reach), listener
