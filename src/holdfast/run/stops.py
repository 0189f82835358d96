"""Why a run ends before its time, and how: by a signal or before a deadline, with which exit code, requeued or not."""

from __future__ import annotations

import signal
from collections.abc import Iterable
from dataclasses import dataclass

from holdfast.errors import UsageError
from holdfast.policies.deadline import BeforeDeadline
from holdfast.policies.event import OnSignal
from holdfast.policies.save import SavePolicy, parts
from holdfast.run.deadlines import Deadlines
from holdfast.run.requeue import in_slurm, requeue
from holdfast.run.signals import StopSignals, stop_exception
from holdfast.run.voice import Voice
from holdfast.wording import duration

DEADLINE = "the deadline"


@dataclass(frozen=True, slots=True)
class Stop:
    """A reason to end: ``number`` is that of the signal, or of the one that it counts as."""

    cause: str
    number: int
    requeues: bool

    @classmethod
    def by_signal(cls, number: int) -> Stop:
        # What `sbatch --signal` sends; a SIGTERM may be an scancel, and what was cancelled has to stay so.
        return cls(f"signal {number}", number, number in (signal.SIGUSR1, signal.SIGUSR2))


class Stops:
    """Signals and deadlines of a run, as its savers' policies ask for them.

    Raises `UsageError` for policies that contradict each other: two exit codes, two notices with one name.
    """

    def __init__(self, policies: Iterable[SavePolicy], voice: Voice) -> None:
        found = [part for policy in policies for part in parts(policy)]
        on_signal = [one for one in found if isinstance(one, OnSignal)]
        self._exit_code = _exit_code(on_signal)
        self._requeue = any(one.requeue for one in on_signal)
        self._graces = [one.grace for one in on_signal if one.grace is not None]
        self._wanted = bool(on_signal)
        self._voice = voice
        self.signals = StopSignals(self._exit_code)
        self._deadlines = Deadlines([one for one in found if isinstance(one, BeforeDeadline)])

    def install(self) -> None:
        """From here on, a signal waits for the next boundary, and deadlines are watched."""
        self._deadlines.start()
        if self._wanted and not self.signals.install():
            self._voice.warn("signals", "not in the main thread, so signals will not save", once="signals")

    def remove(self) -> None:
        """Signals go where they went before."""
        self.signals.remove()

    def close(self) -> None:
        """Deadlines are not watched any more."""
        self._deadlines.stop()

    def deadlines(self) -> dict[str, float]:
        """The deadlines that are known now. What watching them has to say is said."""
        for message in self._deadlines.messages():
            if message.alarming:
                self._voice.warn("deadline", message.text)
            else:
                self._voice.say("deadline", message.text)
        return self._deadlines.known()

    def by_signal(self) -> Stop | None:
        """The signal that waits to be acted on."""
        number = self.signals.received
        return None if number is None else Stop.by_signal(number)

    def by_deadline(self) -> Stop:
        """A deadline whose policy ends the run: as on SIGTERM, but nobody has cancelled the job."""
        return Stop(DEADLINE, signal.SIGTERM, requeues=True)

    def hurry(self, needed: float) -> str | None:
        """A sentence where a save takes more seconds than there are between a signal and the kill."""
        left = min(self._graces, default=None)
        if left is None or needed <= left:
            return None
        takes = f"a save takes about {duration(needed)}"
        return f"{takes}, and {duration(left)} after the signal comes the kill: it may come too late"

    def end(self, stop: Stop) -> BaseException:
        """Puts the Slurm job back into the queue, if that was asked for; gives the exception that ends the loop."""
        self.signals.received = None
        if self._requeue and (stop.requeues or not in_slurm()):
            problem = requeue()
            if problem is None:
                self._voice.say("requeued", "the Slurm job is back in the queue")
            else:
                self._voice.warn("requeue_failed", f"the Slurm job is not requeued: {problem}")
        elif self._requeue:
            self._voice.say("not_requeued", _NOT_REQUEUED.format(signal.Signals(stop.number).name))
        return stop_exception(stop.number, self._exit_code)


_NOT_REQUEUED = (
    "the Slurm job is not requeued: {} may be a scancel, and what was cancelled has to stay so. sbatch "
    "--signal=USR1@120 gives a signal that requeues."
)


def _exit_code(policies: Iterable[OnSignal]) -> int | None:
    """The one that a process can end with."""
    codes = {one.exit_code for one in policies if one.exit_code is not None}
    if len(codes) > 1:
        shown = ", ".join(map(str, sorted(codes)))
        raise UsageError(f"OnSignal(exit_code=): savers ask for {shown}; a process ends with one. Give all the same.")
    return next(iter(codes), None)
