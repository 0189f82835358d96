"""What one saver is due for, and what its policy remembers."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field

from holdfast.policies.deadline import BeforeDeadline
from holdfast.policies.moment import Event, Moment
from holdfast.policies.save import Choice, SavePolicy, measures, parts
from holdfast.run.costs import SaveCost
from holdfast.run.extent import Extent
from holdfast.run.remembered import Remembered
from holdfast.run.saver import Saver
from holdfast.types import Json, Progress

_NOTEWORTHY = 0.2
"""The part by which a chosen interval has to change to be told again."""


@dataclass(frozen=True, slots=True)
class Look:
    """How far the run was at some point: in counts, and as a share of its length where that is known."""

    progress: Progress = field(default_factory=Progress)
    share: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """A point at which all savers are asked: where the run is and was, and what there is to know of it."""

    before: Look
    now: Look
    event: Event
    logged: Mapping[str, float] = field(default_factory=dict)
    time: float = 0.0
    batch: float = 0.0
    deadlines: Mapping[str, float] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class Schedule:
    """Asks a saver's policy, and collects what is due until a snapshot is taken.

    ``here`` is the boundary that its newest save holds, unless that failed.
    """

    saver: Saver
    key: str
    folder: str
    extent: Extent
    cost: SaveCost = field(default_factory=SaveCost)
    due: list[str] = field(default_factory=list)
    insisted: bool = False
    """Whether what is due has to hold the boundary at which it became due."""
    memory: dict[str, Json] = field(default_factory=dict)
    here: Hashable | None = None
    _saved: Look = field(default_factory=Look)
    _confirmed: dict[str, Json] = field(default_factory=dict)
    _confirming: dict[str, Json] = field(default_factory=dict)
    ending: bool = False
    """Whether a deadline is near whose policy ends the run."""
    _measuring: tuple[SavePolicy, ...] = ()
    _deadlines: tuple[BeforeDeadline, ...] = ()
    _measured: tuple[float, float, bool] | None = None
    _chosen: dict[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        policies = parts(self.saver.save)
        self._measuring = tuple(one for one in policies if measures(one))
        self._deadlines = tuple(one for one in policies if isinstance(one, BeforeDeadline))

    def start(self, look: Look, remembered: Remembered | None) -> None:
        """Thresholds are crossed from here on; a saver that a checkpoint remembers goes on where it was."""
        self._saved = look
        if remembered is not None:
            self._saved = Look(remembered.saved, remembered.share)
            self.memory, self._confirmed = dict(remembered.memory), dict(remembered.memory)

    def moment(self, sight: Sight) -> Moment:
        """What its policy looks at."""
        return Moment(
            previous=sight.before.progress, progress=sight.now.progress, event=sight.event,
            saved=self._saved.progress, previous_share=sight.before.share, share=sight.now.share,
            saved_share=self._saved.share, logged=sight.logged, memory=dict(self.memory), now=sight.time,
            deadlines=sight.deadlines, costs=self.cost.seen(sight.batch),
        )  # fmt: skip

    def hurries(self, moment: Moment) -> list[str]:
        """A sentence for each deadline for which a save will hardly be durable in time."""
        return [text for one in self._deadlines if (text := one.hurry(moment)) is not None]

    def ask(self, moment: Moment) -> None:
        """Collects what the policy says is due."""
        reason = self.saver.should_save(moment)
        if reason is not None:
            self.ending = self.ending or any(one.stop and one.due(moment) is not None for one in self._deadlines)
            self.memory.update(self.saver.save.remember(moment))
            self.insisted = self.insisted or self.saver.save.insists(moment)
            self.request(reason)

    def request(self, reason: str) -> None:
        """Adds a reason to save at the next chance."""
        if reason not in self.due:
            self.due.append(reason)

    def drop(self) -> None:
        """Nothing is due any more."""
        self.due, self.insisted = [], False

    def fire(self, look: Look, here: Hashable, cost: SaveCost) -> tuple[str, ...]:
        """A snapshot is taken at ``look``: the reasons why, which are not due any more."""
        reasons = tuple(self.due)
        self.drop()
        self._saved, self.here, self.cost, self._confirming = look, here, cost, dict(self.memory)
        return reasons

    def confirm(self) -> None:
        """The save became durable."""
        self._confirmed, self._confirming = self._confirming, {}

    def fail(self) -> None:
        """The save did not: what was not saved is not the best that was, and the next better one has to be."""
        self.memory, self.here = dict(self._confirmed), None

    def remembered(self, fired: tuple[str, ...] | None, look: Look) -> Remembered:
        """What a checkpoint at ``look`` keeps of this saver, which takes part in it for the reasons ``fired``."""
        saved = self._saved if fired is None else look
        return Remembered(key=self.key, memory=self.memory, saved=saved.progress, share=saved.share, fired=fired or ())

    def choices(self, moment: Moment) -> list[Choice]:
        """Intervals that the policy has chosen since what saves cost was last known to have changed."""
        costs = moment.costs
        measured = costs.training, costs.persist, costs.measured
        if not self._measuring or measured == self._measured:
            return []
        self._measured, new = measured, []
        for index, policy in enumerate(self._measuring):
            choice = policy.choice(moment)
            if choice is not None and _differs(self._chosen.get(index), choice.seconds):
                self._chosen[index] = choice.seconds
                new.append(choice)
        return new


def _differs(before: float | None, now: float) -> bool:
    return before is None or abs(now - before) > _NOTEWORTHY * max(before, now)
