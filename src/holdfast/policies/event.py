"""Save policies that answer to an event of the run."""

from __future__ import annotations

from dataclasses import dataclass

from holdfast.policies.moment import Moment
from holdfast.policies.save import SavePolicy


@dataclass(frozen=True, slots=True)
class AtStart(SavePolicy):
    """Due before the first batch of a run that starts anew: what everything began from."""

    def due(self, moment: Moment) -> str | None:
        return "at start" if moment.event == "start" else None

    def insists(self, moment: Moment) -> bool:
        return moment.event == "start"


@dataclass(frozen=True, slots=True)
class AtEnd(SavePolicy):
    """Due when the run ends. A final save is made anyway; this says so."""

    def due(self, moment: Moment) -> str | None:
        return "at end" if moment.event == "end" else None


@dataclass(frozen=True, slots=True)
class OnSignal(SavePolicy):
    """Due when the process is asked to stop: SIGTERM, SIGINT, SIGUSR1. The run saves, then exits."""

    def due(self, moment: Moment) -> str | None:
        return "on signal" if moment.event == "signal" else None


@dataclass(frozen=True, slots=True)
class OnError(SavePolicy):
    """Due when an exception ends the loop: the last boundary is saved, if nothing has changed since."""

    def due(self, moment: Moment) -> str | None:
        return "on error" if moment.event == "error" else None
