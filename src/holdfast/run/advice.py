"""What the user should hear about policies once it can be known: that one of them cannot do what it seems to say."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from holdfast.engine.checkpointer import ItemDraft
from holdfast.engine.messages import Persist
from holdfast.errors import HoldfastError
from holdfast.hints import did_you_mean
from holdfast.policies.sense import metrics_of, uncounted, unforeseeable, unreachable
from holdfast.policies.written import written
from holdfast.run.drafts import Firing
from holdfast.run.name_template import FIELDS
from holdfast.run.saver import DEFAULT_SAVE
from holdfast.run.schedule import Schedule
from holdfast.run.target import Target
from holdfast.run.voice import Voice
from holdfast.types import Progress
from holdfast.wording import duration, size

_NEVER = "{0}: no value of {1!r} has been logged{2}, so it has no effect. Log it with run.log({1}=...).{3}"
_UNMATCHED = (
    "exclude={0!r}: no tensor of {1} matches, so nothing is left out by it, and the checkpoint is still not one to "
    "resume from.{2}"
)
_SHORTAGE = (
    "{0}: what keep= asks for will need {1} more than now after {2} more saves, and so much is not free "
    "there: saves will fail then. Keep fewer checkpoints, save less often, or free some space."
)
_STREAMS = (
    "a snapshot of the state needs {} of memory, more than it may take, so it streams through {}: training stops until "
    "a save is written, and what is frozen is written each time. Raise arena= or the memory limit beyond that."
)
_CLOCK = (
    "the clock of this machine was set {} by {} since the start; the times of checkpoints go on without that, so "
    "hours and days that are kept do not shift. Deadlines follow the clock."
)


_LINKED_FROM = 3
"""The save, in the order of an attempt, that is the first to link what is frozen."""


@dataclass(slots=True)
class Advice:
    """Looks at the policies of all savers and at their folders, and says each thing once."""

    targets: Sequence[Target]
    voice: Voice
    _lengths: dict[str, int] = field(default_factory=dict)
    _commits: dict[str, int] = field(default_factory=dict)

    @property
    def schedules(self) -> list[Schedule]:
        return [one for target in self.targets for one in target.schedules]

    def length(self, **counts: int) -> None:
        """The run's length is known now, in these units: intervals beyond it never come round."""
        news = {unit: count for unit, count in counts.items() if self._lengths.get(unit) != count}
        self._lengths.update(news)
        for schedule in self.schedules if news else ():
            for sentence in unreachable(schedule.saver.save, news):
                self.voice.say("unreachable", f"save={sentence}; the final save is made anyway", once=sentence)

    def no_length(self, *, epochs: bool) -> None:
        """How long the run is will never be known, and how many ``epochs`` it has perhaps not either."""
        # The default counts minutes too, and nobody has asked for a fraction.
        for policy in (one.saver.save for one in self.schedules if one.saver.save != DEFAULT_SAVE):
            for sentence in unforeseeable(policy, epochs=epochs):
                self.voice.say("unreachable", f"save={sentence}", once=sentence)

    def metrics(self, logged: Collection[str], *, end: bool) -> None:
        """Metrics that policies wait for: one with another spelling is told at once, others at the ``end``."""
        for schedule in self.schedules:
            for metric, policy in metrics_of(schedule.saver.save, schedule.saver.keep).items():
                self._metric(metric, policy, logged, logged, end=end)
            template = schedule.saver.name
            if template is not None:
                for metric in template.metrics:
                    # A field that is misspelt looks like a metric.
                    self._metric(metric, f"name={template.text!r}", logged, (*logged, *FIELDS), end=end)

    def _metric(
        self, metric: str, policy: str, logged: Collection[str], known: Collection[str], *, end: bool
    ) -> None:  # fmt: skip
        meant = did_you_mean(metric, known, 0.75)
        if metric not in logged and (meant or end):
            hint = meant or f" Logged are: {', '.join(logged) or 'none'}."
            text = _NEVER.format(policy, metric, "" if end else " so far", hint)
            self.voice.warn("metric_missing", text, once=f"metric {metric}")

    def counts(self, progress: Progress) -> None:
        """The run ends at ``progress``: samples or tokens that a policy waits for, and that nobody has counted."""
        for schedule in self.schedules:
            for sentence in uncounted(schedule.saver.save, progress):
                self.voice.say("unreachable", f"save={sentence}", once=sentence)

    def nothing_saved(self) -> None:
        """The run ends: folders in which there is no checkpoint, though a saver has them."""
        for target in self.targets:
            with contextlib.suppress(HoldfastError):
                if not self._commits.get(target.folder) and not target.catalog.list().entries:
                    policies = ", ".join(written(one.saver.save) for one in target.schedules)
                    text = f"{target.folder}: no checkpoint was saved there, because {policies} never came round"
                    self.voice.warn("nothing_saved", text)

    def patterns(self, firing: Firing, items: Mapping[str, ItemDraft]) -> None:
        """Tensors that a saver means to leave out, and that are not there."""
        for schedule, _ in firing:
            for item in schedule.extent.left:
                tensors = list(items[item].sources)
                for pattern in schedule.extent.unmatched(item, tensors):
                    text = _UNMATCHED.format(f"{item}/{pattern}", item, did_you_mean(pattern, tensors))
                    self.voice.warn("pattern", text, once=text)

    def space(self, target: Target, frozen: Collection[str]) -> None:
        """A checkpoint was committed there: says that the disk will be full, before it is, after 1, 2, 4, 8 … saves.

        Files of it that are ``frozen`` cannot be linked yet by the first two.
        """
        count = self._commits[target.folder] = self._commits.get(target.folder, 0) + 1
        if count & (count - 1):
            return
        try:
            shortage = target.shortage(frozen if count < _LINKED_FROM else ())
        except HoldfastError:
            return
        if shortage is not None:
            text = _SHORTAGE.format(target.folder, size(shortage.needed), shortage.saves)
            self.voice.warn("space", text, once=f"space {target.folder}")

    def streams(self, snapshot: Persist) -> None:
        """A snapshot was larger than the memory that it may take."""
        text = _STREAMS.format(size(snapshot.size), size(snapshot.ring))
        self.voice.say("streams", text, once="streams")

    def clock(self, jump: float) -> None:
        """The machine's clock was set by so many seconds."""
        if jump:
            self.voice.warn("clock", _CLOCK.format("ahead" if jump > 0 else "back", duration(abs(jump))), once="clock")
