"""Save policies that answer to an event of the run."""

from __future__ import annotations

import math
from dataclasses import dataclass

from holdfast.errors import UsageError
from holdfast.format.reasons import AT_END, AT_START, ON_ERROR, ON_SIGNAL
from holdfast.policies.moment import Moment
from holdfast.policies.save import SavePolicy


@dataclass(frozen=True, slots=True, repr=False)
class AtStart(SavePolicy):
    """Due before the first batch of a run that starts anew: what everything began from."""

    def due(self, moment: Moment) -> str | None:
        return AT_START if moment.event == "start" else None

    def insists(self, moment: Moment) -> bool:
        return moment.event == "start"


@dataclass(frozen=True, slots=True, repr=False)
class AtEnd(SavePolicy):
    """Due when the run ends. A final save is made anyway; this says so."""

    def due(self, moment: Moment) -> str | None:
        return AT_END if moment.event == "end" else None


@dataclass(frozen=True, slots=True, repr=False, kw_only=True)
class OnSignal(SavePolicy):
    """Due when the process is asked to stop: SIGTERM, SIGINT, SIGUSR1, SIGUSR2. The run saves, then exits.

    It exits with ``exit_code``, from 0 to 255, or else with 128 + the signal's number. With ``requeue`` the Slurm job
    is put back into the queue first, if it was SIGUSR1 or SIGUSR2, which ``sbatch --signal`` sends, or a deadline with
    ``stop=True``. A SIGTERM may be an ``scancel``, and what was cancelled has to stay so. ``grace`` is how many seconds
    after the signal the process will be killed (Slurm's ``KillWait`` and Kubernetes' grace period are 30 by default):
    where a save takes longer, the run says so. Raises `UsageError` for anything else.

    >>> OnSignal(exit_code=75, requeue=True)
    OnSignal(exit_code=75, requeue=True)
    """

    exit_code: int | None = None
    requeue: bool = False
    grace: float | None = None

    def __post_init__(self) -> None:
        whole = isinstance(self.exit_code, int) and not isinstance(self.exit_code, bool)
        if self.exit_code is not None and not (whole and 0 <= self.exit_code <= 255):
            raise UsageError(f"OnSignal(exit_code={self.exit_code!r}): expected a whole number from 0 to 255.")
        if not isinstance(self.requeue, bool):
            raise UsageError(f"OnSignal(requeue={self.requeue!r}): expected True or False.")
        number = isinstance(self.grace, (int, float)) and not isinstance(self.grace, bool)
        if self.grace is not None and not (number and 0 < self.grace < math.inf):
            raise UsageError(f"OnSignal(grace={self.grace!r}): expected seconds above 0, such as 30.")

    def due(self, moment: Moment) -> str | None:
        return ON_SIGNAL if moment.event == "signal" else None


@dataclass(frozen=True, slots=True, repr=False)
class OnError(SavePolicy):
    """Due when an exception ends the loop: the last boundary is saved, if nothing has changed since."""

    def due(self, moment: Moment) -> str | None:
        return ON_ERROR if moment.event == "error" else None
