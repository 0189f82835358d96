"""What one saver is due for, and what its policy remembers."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field

from holdfast.format.reasons import ON_ERROR
from holdfast.policies.moment import Event, Moment
from holdfast.policies.save import Choice, parts
from holdfast.run.costs import SaveCost
from holdfast.run.extent import Extent
from holdfast.run.remembered import Remembered
from holdfast.run.saver import Saver
from holdfast.types import Json, Progress

_NOTEWORTHY = 0.2
"""The part by which a chosen interval has to change to be told again."""


Share = Callable[[Progress], float | None]
"""How much of the run was done at some progress, from 0 to 1, by what is known of its length now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """A point at which all savers are asked: where the run is and was, and what there is to know of it."""

    before: Progress
    now: Progress
    event: Event
    share: Share = lambda progress: None
    logged: Mapping[str, float] = field(default_factory=dict)
    time: float = 0.0
    batch: float = 0.0
    deadlines: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Situation:
    """What is due for a saver at some point."""

    due: tuple[str, ...]
    pending: Mapping[str, Json]
    insisted: bool
    urgent: bool
    ending: bool


@dataclass(slots=True, eq=False)
class Schedule:
    """Asks a saver's policy, and collects what is due until a snapshot is taken.

    ``identity`` tells savers of one folder apart, ``key`` all savers of the run; both are the same in later attempts.
    ``here`` is the boundary that its newest save holds, unless that ``failed``. What the policy remembers once a save
    that is due is made waits with it, in ``pending``: a save that is given up must not be remembered.
    """

    saver: Saver
    key: str
    folder: str
    extent: Extent
    identity: str = ""
    cost: SaveCost = field(default_factory=SaveCost)
    due: list[str] = field(default_factory=list)
    insisted: bool = False
    """Whether what is due has to hold the boundary at which it became due."""
    urgent: bool = False
    """Whether it cannot even wait for the end of the epoch."""
    ending: bool = False
    """Whether the run ends itself once it is durable."""
    memory: dict[str, Json] = field(default_factory=dict)
    pending: dict[str, Json] = field(default_factory=dict)
    here: Hashable | None = None
    failed: bool = False
    chosen: dict[int, Choice] = field(default_factory=dict)
    """Intervals that the policy's parts have chosen by what they measured."""
    _saved: Progress = field(default_factory=Progress)
    _confirmed: dict[str, Json] = field(default_factory=dict)
    _measured: tuple[float, float, bool] | None = None

    def start(self, progress: Progress, remembered: Remembered | None) -> None:
        """Thresholds are crossed from here on; a saver that a checkpoint remembers goes on where it was."""
        self._saved = progress
        if remembered is not None:
            self._saved = remembered.saved
            self.memory, self._confirmed = dict(remembered.memory), dict(remembered.memory)

    def moment(self, sight: Sight) -> Moment:
        """What its policy looks at."""
        return Moment(
            previous=sight.before, progress=sight.now, event=sight.event, saved=self._saved,
            previous_share=sight.share(sight.before), share=sight.share(sight.now),
            saved_share=sight.share(self._saved), logged=sight.logged, memory=self.memory | self.pending,
            now=sight.time, deadlines=sight.deadlines, costs=self.cost.seen(sight.batch), failed=self.failed,
        )  # fmt: skip

    def ask(self, moment: Moment) -> bool:
        """Collects what the policy says is due: whether anything is."""
        reason = self.saver.should_save(moment)
        if reason is None:
            return False
        policy = self.saver.save
        self.pending.update(policy.remember(moment))
        self.insisted = self.insisted or policy.insists(moment)
        self.urgent = self.urgent or policy.urgent(moment)
        self.ending = self.ending or policy.ends(moment)
        # A resume passes over what was saved on an error that comes again: nobody else may use the word.
        self.request(f"«{reason}»" if reason == ON_ERROR and moment.event != "error" else reason)
        return True

    def situation(self) -> Situation:
        """What is due, to go back to."""
        return Situation(tuple(self.due), dict(self.pending), self.insisted, self.urgent, self.ending)

    def go_back(self, to: Situation) -> None:
        """As if the policy had not been asked since."""
        self.due, self.pending = list(to.due), dict(to.pending)
        self.insisted, self.urgent, self.ending = to.insisted, to.urgent, to.ending

    def request(self, reason: str) -> None:
        """Adds a reason to save at the next chance."""
        # Somebody's own policy may return what cannot be written.
        reason = str(reason).encode(errors="backslashreplace").decode()
        # One that had to wait is due again at the next boundary, with other numbers in its brackets.
        if reason.partition(" (")[0] not in [one.partition(" (")[0] for one in self.due]:
            self.due.append(reason)

    def drop(self) -> None:
        """Nothing is due any more, and nothing of what was is remembered."""
        self.due, self.pending = [], {}
        self.insisted = self.urgent = self.ending = False

    def fire(self, progress: Progress, here: Hashable, cost: SaveCost) -> None:
        """A snapshot at ``progress`` was taken for what is due."""
        self.memory, before = self.memory | self.pending, self.cost
        self.drop()
        self._saved, self.here, self.cost, self.failed = progress, here, cost, False
        if cost is not before:
            cost.follow(before)

    def confirm(self) -> None:
        """The newest save became durable."""
        self._confirmed = self.memory

    def fail(self) -> None:
        """It did not: what was not saved is not the best that was, and the next better one has to be."""
        self.memory, self.here, self.failed = self._confirmed, None, True
        self.cost.failed = True

    def remembered(self, fired: tuple[str, ...] | None, progress: Progress) -> Remembered:
        """What a checkpoint at ``progress`` keeps of this saver, which takes part in it for the reasons ``fired``."""
        saved, memory = (self._saved, self.memory) if fired is None else (progress, self.memory | self.pending)
        return Remembered(key=self.key, memory=memory, saved=saved, fired=fired or ())

    def choices(self, moment: Moment) -> list[Choice]:
        """Intervals that the policy has chosen since what saves cost was last known to have changed."""
        costs = moment.costs
        measured = costs.training, costs.persist, costs.measured
        if measured == self._measured or type(self.saver).should_save is not Saver.should_save:
            return []
        self._measured, new = measured, []
        for index, policy in enumerate(parts(self.saver.save)):
            choice = policy.choice(moment)
            if choice is None:
                continue
            if _differs(self.chosen.get(index), choice):
                new.append(choice)
            self.chosen[index] = choice
        return new


def _differs(before: Choice | None, now: Choice) -> bool:
    return before is None or abs(now.seconds - before.seconds) > _NOTEWORTHY * max(before.seconds, now.seconds)
