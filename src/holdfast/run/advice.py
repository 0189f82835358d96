"""What the user should hear about policies once it can be known: that one of them cannot do what it seems to say."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from holdfast.policies.interval import Every
from holdfast.policies.save import parts
from holdfast.policies.sense import metrics_of, unreachable
from holdfast.run.saver import DEFAULT_SAVE
from holdfast.run.schedule import Schedule
from holdfast.run.voice import Voice

_NEVER = "{0}: no value of {1!r} has been logged{2}, so it has no effect. Log it with run.log({1}=...); {3}"

_NO_LENGTH = (
    "save=Every(fraction={:g}) never comes round in a loop by hand, whose length is not known; use Every(steps=...) or "
    "Every(minutes=...)"
)


@dataclass(slots=True)
class Advice:
    """Looks at the policies of all savers, and says each thing once."""

    schedules: Sequence[Schedule]
    voice: Voice
    _lengths: dict[str, int] = field(default_factory=dict)

    def length(self, **counts: int) -> None:
        """The run's length is known now, in these units: intervals beyond it never come round."""
        news = {unit: count for unit, count in counts.items() if self._lengths.get(unit) != count}
        self._lengths.update(news)
        for schedule in self.schedules if news else ():
            for sentence in unreachable(schedule.saver.save, news):
                text = f"save={sentence}; the final save is made anyway"
                self.voice.say("unreachable", text, once=sentence)

    def no_length(self) -> None:
        """The loop is somebody else's: how long the run is will never be known."""
        for schedule in self.schedules:
            for policy in parts(schedule.saver.save) if schedule.saver.save != DEFAULT_SAVE else ():
                if isinstance(policy, Every) and policy.fraction is not None:
                    text = _NO_LENGTH.format(policy.fraction)
                    self.voice.say("unreachable", text, once=text)

    def metrics(self, logged: Collection[str], *, end: bool) -> None:
        """Metrics that policies wait for: one with another spelling is told at once, others at the ``end``."""
        for schedule in self.schedules:
            wanted = metrics_of(schedule.saver.save, schedule.saver.keep)
            if schedule.saver.name is not None:
                wanted |= dict.fromkeys(schedule.saver.name.metrics, f"name={schedule.saver.name.text!r}")
            for metric, policy in wanted.items():
                near = difflib.get_close_matches(metric, logged, 1, 0.75)
                if metric not in logged and (near or end):
                    hint = f"was {near[0]!r} meant?" if near else f"logged are: {', '.join(logged) or 'none'}"
                    text = _NEVER.format(policy, metric, "" if end else " so far", hint)
                    self.voice.warn("metric_missing", text, once=f"metric {metric}")
