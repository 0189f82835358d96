"""Savers against a model that counts one by one, over any sequence of boundaries, failures, crashes and restarts."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections import deque
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from holdfast import Every, KeepBest, KeepEvery, KeepLast, Saver
from holdfast.engine.catalog import Catalog
from holdfast.engine.checkpointer import ItemDraft, _request
from holdfast.engine.identity import RunIdentity
from holdfast.engine.messages import Committed, Failed, Persist
from holdfast.engine.persist import Shards, refused
from holdfast.engine.pins import pin, unpin
from holdfast.engine.plan import make_plan
from holdfast.format.names import RUN_FILE, CheckpointName
from holdfast.run.drafts import Content, Identity
from holdfast.run.extent import make_extent
from holdfast.run.opening import ask_again
from holdfast.run.remembered import Remembered, match_remembered
from holdfast.run.saves import Saves
from holdfast.run.schedule import Schedule
from holdfast.run.target import Target
from holdfast.run.voice import Voice
from holdfast.storage.local import LocalStorage
from holdfast.types import Progress
from tests.harness.persisting import persist

RUN = "7f3a"
STEPS, SAMPLES = 7, 40
KEPT, MARKS, BEST = 2, 10, 2
NAMES = ("model", "optimizer")
Order = tuple[int, int]


class Silence(Voice):
    """Says nothing: what fails here fails on purpose."""

    def warn(self, *arguments: Any, **options: Any) -> None:
        return


class Engine:
    """The checkpointer and its writer, of which the test decides when and whether it writes."""

    def __init__(self) -> None:
        self.request: Any = None
        self.outcomes: deque[Committed | Failed] = deque()
        self.held: Any = None

    @property
    def busy(self) -> bool:
        return self.request is not None or bool(self.outcomes)

    def hold(self, items: Any, drafts: Any, *, begin: bool = False, behind: bool = False) -> Persist:
        plan = make_plan({name: {} for name in items}, [one.contents for one in drafts])
        self.held = _request(plan, items, drafts)
        names = {one.folder: str(one.manifest.name) for one in drafts}
        return Persist(names, drafts[0].manifest.ordinal, 0, 0)

    def commit(self, held: Persist) -> None:
        self.request = self.held

    def poll(self) -> Committed | Failed | None:
        return self.outcomes.popleft() if self.outcomes and self.request is None else None

    def wait(self, timeout: float | None = None) -> Committed | Failed | None:
        self.write(frozenset())
        return self.poll()

    def write(self, failing: frozenset[str]) -> list[str]:
        """What the writer does with the snapshot; the folders in which it became durable."""
        request, self.request = self.request, None
        done = []
        for commit in () if request is None else request.commits:
            if commit.folder in failing:
                self.outcomes.append(refused(commit, "no space left"))
                continue
            outcome = persist(LocalStorage(commit.folder), commit, Shards((), memoryview(b"")), [])
            assert isinstance(outcome, Committed), outcome
            self.outcomes.append(outcome)
            done.append(commit.folder)
        return done


class Model:
    """What one saver owes: it counts every single step, and looks back at nothing."""

    def __init__(self, unit: str, interval: int) -> None:
        self.unit, self.interval = unit, interval
        self.owed = False

    def advance(self, before: Progress, now: Progress) -> None:
        counts = range(getattr(before, self.unit) + 1, getattr(now, self.unit) + 1)
        self.owed = self.owed or any(count % self.interval == 0 for count in counts)


class Runs(RuleBasedStateMachine):
    """One run with a saver of everything and one of the model, in two folders or in one."""

    @initialize(together=st.booleans())
    def begin(self, together: bool) -> None:
        self.place = Path(tempfile.mkdtemp(prefix="holdfast-model-", dir="/dev/shm"))
        self.folders = [str(self.place / "run")] + ([] if together else [str(self.place / "models")])
        self.models = [Model("step", STEPS), Model("samples", SAMPLES)]
        self.stored: dict[Order, list[Remembered]] = {}
        self.where: dict[Order, Progress] = {}
        self.losses: dict[Order, float] = {}
        self.plans: dict[str, list[Order]] = {}
        self.fired: dict[Order, set[int]] = {}
        self.pins: set[str] = set()
        self.attempt = 0
        self.loss = 1.0
        for folder in self.folders:
            LocalStorage(folder).create(RUN_FILE, msgspec.json.encode(RunIdentity(1, RUN, "")))
        self.start()

    def teardown(self) -> None:
        if hasattr(self, "place"):
            shutil.rmtree(self.place)

    # The run.

    @property
    def storages(self) -> list[LocalStorage]:
        return [LocalStorage(one) for one in self.folders]

    def folder_of(self, saver: int) -> str:
        return self.folders[min(saver, len(self.folders) - 1)]

    def start(self) -> None:
        """A new attempt, from the newest whole checkpoint that is there."""
        self.attempt += 1
        savers = [
            Saver(save=Every(steps=STEPS), keep=KeepLast(KEPT) | KeepEvery(steps=MARKS)),
            Saver(save=Every(samples=SAMPLES), keep=KeepBest("loss", BEST) | KeepLast(1), items=["model"]),
        ]
        targets = [Target(one, Catalog(one, outlines=True)) for one in self.storages]
        for index, saver in enumerate(savers):
            target = next(one for one in targets if one.folder == self.folder_of(index))
            extent = make_extent(NAMES, saver.items, saver.exclude, "")
            target.schedules.append(Schedule(saver, f"{index}", target.folder, extent, identity=f"{index}"))
        self.engine = Engine()
        identity = Identity(run=RUN, attempt=self.attempt)
        self.saves = Saves(targets, self.engine, Silence(), identity, self.storages[0])  # type: ignore[arg-type]
        entries = [one for one in Catalog(self.storages[0]).list().entries if one.whole]
        self.progress = Progress()
        for model in self.models:
            model.owed = False
        if not entries:
            self.saves.start(Progress(), {}, None)
            return
        newest = entries[-1]
        self.progress = self.where[newest.order]
        stored = self.stored[newest.order]
        remembered = match_remembered(["0", "1"], stored)
        self.saves.start(self.progress, remembered, None)
        ask_again(targets, remembered, newest.order)
        for index, model in enumerate(self.models):
            lost = newest.order not in self.there(self.folder_of(index))
            model.owed = lost and index in self.fired[newest.order]

    @rule(steps=st.integers(0, 20), samples=st.integers(0, 50), loss=st.integers(1, 9))
    def boundary(self, steps: int, samples: int, loss: int) -> None:
        """The counts jump, then all savers are asked; what is due is saved if nothing is being written."""
        before = self.progress
        self.progress = msgspec.structs.replace(before, step=before.step + steps, samples=before.samples + samples)
        self.loss = float(loss)
        for model in self.models:
            model.advance(before, self.progress)
        self.saves.poll()
        while self.engine.outcomes and self.engine.request is None:
            self.saves.poll()
        self.saves.ask(self.progress, "boundary", {"loss": self.loss}, {}, lambda progress: None)
        owing = {index for index, model in enumerate(self.models) if model.owed}
        assert {index for index, one in enumerate(self.saves.schedules) if one.due} == owing
        if owing and not self.saves.checkpointer.busy:
            self.snapshot(None)

    def snapshot(self, last: str | None) -> None:
        firing = self.saves.firing(last)
        fired = {index for index, one in enumerate(self.saves.schedules) if any(one is each for each, _ in firing)}
        items = {name: ItemDraft("value", {}, {}) for name in (*NAMES, "values", "data", "rng")}
        stored = self.saves.remembered(firing)
        content = Content(items, self.progress, {"loss": self.loss}, {})
        assert self.saves.save(content, firing, object())
        order = (self.attempt, self.saves._ordinal)
        self.stored[order], self.where[order] = stored, self.progress
        self.fired[order], self.losses[order] = fired, self.loss
        self.plans = {one: self.promised(one, [*self.there(one), order]) for one in self.folders}
        for index in fired:
            self.models[index].owed = False

    @rule(failing=st.sets(st.integers(0, 1)))
    def write(self, failing: set[int]) -> None:
        """The writer gets to it; in some folders it fails."""
        self.written(frozenset(self.folders[min(index, len(self.folders) - 1)] for index in failing))

    def written(self, failing: frozenset[str]) -> None:
        """Lets the writer work, and compares what is left in each folder with what was promised at the snapshot."""
        order = (self.attempt, self.saves._ordinal)
        before = {folder: self.there(folder) for folder in self.folders}
        for folder in self.engine.write(failing):
            kept = {*self.plans[folder], *(self.pinned() if folder == self.folders[0] else ())}
            assert self.there(folder) == [one for one in [*before[folder], order] if one in kept]
        for folder in failing:
            assert self.there(folder) == before[folder]

    def promised(self, folder: str, orders: list[Order]) -> list[Order]:
        """Of ``orders``, oldest first, what the policies and the design promise to keep, found one by one."""
        kept = {orders[-1]}
        kept |= {one for one in orders if folder == self.folders[0] and one in self.pinned()}
        if folder == self.folder_of(0):
            mine = [one for one in orders if 0 in self.fired[one]]
            steps = [self.where[one].step for one in mine]
            marks = range(MARKS, max(steps, default=0) + 1, MARKS)
            kept |= {next(one for one, step in zip(mine, steps, strict=True) if step >= mark) for mark in marks}
            kept |= set(mine[-KEPT:])  # the newest to resume from among them
        if folder == self.folder_of(1):
            mine = [one for one in orders if 1 in self.fired[one]]
            kept |= {*_best(mine, self.losses), *mine[-1:]}
        return [one for one in orders if one in kept]

    def pinned(self) -> set[Order]:
        parsed = [CheckpointName.parse(name) for name in self.pins]
        return {one.order for one in parsed if one is not None}

    @rule(writer_survives=st.booleans(), first_only=st.booleans())
    def crash(self, writer_survives: bool, first_only: bool) -> None:
        """The trainer dies; what it handed over is committed, in one folder only, or lost with the machine."""
        if writer_survives:
            self.written(frozenset(self.folders[1:]) if first_only else frozenset())
        self.start()

    @rule()
    def end(self) -> None:
        """The run comes to its end: the final update is on disk, whatever the intervals."""
        self.saves.wait()
        while self.engine.outcomes:
            self.saves.poll()
        self.snapshot("at end")
        self.written(frozenset())
        newest = [one for one in Catalog(self.storages[0]).list().entries if one.whole][-1]
        assert newest.manifest.progress == self.progress
        self.start()
        assert self.progress == newest.manifest.progress

    @precondition(lambda self: Catalog(self.storages[0]).list().entries)
    @rule(index=st.integers(0, 9))
    def pin(self, index: int) -> None:
        """Somebody wants to keep one."""
        entries = Catalog(self.storages[0]).list().entries
        name = entries[index % len(entries)].name
        pin(self.storages[0], name)
        self.pins.add(name)

    @precondition(lambda self: self.pins)
    @rule()
    def unpin(self) -> None:
        """And not any more."""
        unpin(self.storages[0], self.pins.pop())

    @precondition(lambda self: len(Catalog(self.storages[0]).list().entries) > 1)
    @rule()
    def delete_by_hand(self) -> None:
        """Somebody removes the oldest checkpoint that is not pinned."""
        entries = [one for one in Catalog(self.storages[0]).list().entries if one.name not in self.pins]
        if len(entries) > 1:
            self.storages[0].delete(entries[0].name)

    @invariant()
    def pinned_ones_stay(self) -> None:
        """Whatever the policies say, and whatever happens."""
        if hasattr(self, "place"):
            assert self.pinned() <= set(self.there(self.folders[0]))

    def there(self, folder: str) -> list[Order]:
        return [one.order for one in Catalog(LocalStorage(folder)).list().entries]


def _best(orders: list[Order], losses: dict[Order, float]) -> list[Order]:
    """Of several with the very same value only the first counts."""
    first: dict[float, Order] = {}
    for order in orders:
        first.setdefault(losses[order], order)
    return [first[loss] for loss in itertools.islice(sorted(first), BEST)]


TestRuns = Runs.TestCase
TestRuns.settings = settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    # Not shrunk: that takes longer than a test may, and the limit would hide what failed.
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)
