"""The proof of one scenario: its twin, the undisturbed run, and a kill and a resume at every boundary that counts."""

from __future__ import annotations

import re
import shutil
import signal
from pathlib import Path
from typing import Any

import torch

from holdfast.engine.journal import read_journal
from holdfast.storage.local import LocalStorage
from tests.exactness.attempts import Attempt, run_all
from tests.exactness.pictures import differences
from tests.exactness.scripts import Scenario

Record = tuple[str, list[int], dict[str, list[Any]]]
"""A boundary in a journal: its kind, its key, what was logged before it."""
Kill = tuple[str, int]
EPOCH = 1
"""The epoch that is killed at each of its boundaries."""

ENDINGS = {"at": -signal.SIGKILL, "after": -signal.SIGKILL, "asked": -signal.SIGKILL, "raise": 1, "finish": 0}
OUTCOME = ("state", "values", "extras", "random")


class Proof:
    """Collects what is wrong with a scenario; empty ``problems`` are the proof."""

    def __init__(self, folder: Path, scenario: Scenario) -> None:
        self._folder, self._scenario = folder, scenario
        self.problems: list[str] = []
        self.kills: list[Kill] = []

    def run(self) -> None:
        twin = self._attempt("twin", holdfast=False)
        whole = self._attempt("whole")
        if not self._ended_well([twin, whole], [0, 0]):
            return
        self._twin, self._boundaries = _load(twin), records(whole)
        self._check_footprint(whole)
        self.kills = kills_of(self._boundaries, self._scenario.ways)
        first = [self._first(kill) for kill in self.kills]
        if self._ended_well(first, [ENDINGS[how] for how, _ in self.kills]):
            second = [self._second(kill) for kill in self.kills]
            if self._ended_well(second, [0] * len(second)):
                for kill, one, other in zip(self.kills, first, second, strict=True):
                    self._check_resumed(kill, one, other)

    def _attempt(self, place: str, **fields: Any) -> Attempt:
        return Attempt(scenario=self._scenario.name, folder=str(self._folder / place), **fields)

    def _first(self, kill: Kill) -> Attempt:
        return self._attempt(_place(kill), kill=None if kill[0] == "finish" else kill, options=self._scenario.first)

    def _second(self, kill: Kill) -> Attempt:
        return self._attempt(_place(kill), number=2, seed=100 + kill[1])

    def _ended_well(self, attempts: list[Attempt], expected: list[int]) -> bool:
        for one, status, wanted in zip(attempts, run_all(attempts), expected, strict=True):
            if status != wanted:
                text = one.said.read_text()[-3000:]
                self.problems.append(f"{one.folder}, attempt {one.number}: ended with {status}, not {wanted}:\n{text}")
        return not self.problems

    def _check_footprint(self, whole: Attempt) -> None:
        """A run under holdfast, saving at every boundary, is the run without it."""
        where = "the undisturbed run and its twin"
        self._compare(where, whole)
        logged = by_name(
            (name, one) for _, _, log in self._boundaries for name, values in log.items() for one in values
        )
        self.problems += [f"{where}: {what}" for what in differences(by_name(self._twin["logged"]), logged, "logged")]
        self._check_said(where, whole)

    def _check_resumed(self, kill: Kill, first: Attempt, second: Attempt) -> None:
        where = f"{kill[0]} {kill[1]}"
        before, after, whole = records(first), records(second), self._boundaries
        again = len(before) + len(after) - len(whole)
        if before != whole[: len(before)] or after != whole[len(whole) - len(after) :]:
            self.problems.append(f"{where}: what was logged is not what the undisturbed run logged")
        elif again < 0 or (again and kill[0] == "at"):
            self.problems.append(f"{where}: {len(before)} boundaries before and {len(after)} after it, of {len(whole)}")
        if kill[0] == "after" and not self._scenario.waits and len(before) != kill[1] + 1:
            self.problems.append(f"{where}: the save was taken only after {len(before) - 1} boundaries")
        self._compare(where, second)
        self._check_said(where, second)
        said = second.said.read_text()
        proven = "replayed batches compared" in said and "first difference" not in said
        if kill[0] == "after" and not proven and not self._scenario.says:
            self.problems.append(f"{where}: the resume did not prove itself: {said}")
        if not self.problems:
            shutil.rmtree(first.folder)

    def _compare(self, where: str, attempt: Attempt) -> None:
        found = _load(attempt)
        for part in OUTCOME:
            self.problems += [f"{where}: {what}" for what in differences(self._twin[part], found[part], part)]

    def _check_said(self, where: str, attempt: Attempt) -> None:
        said = re.findall(r"(?:Exactness|Holdfast)Warning: (.*)", attempt.said.read_text())
        unexpected = [line for line in said if not any(phrase in line for phrase in self._scenario.says)]
        missing = [phrase for phrase in self._scenario.says if not any(phrase in line for line in said)]
        self.problems += [f"{where}: warned: {line}" for line in unexpected]
        self.problems += [f"{where}: did not warn of {phrase!r}" for phrase in missing]


def _place(kill: Kill) -> str:
    return f"{kill[0]}-{kill[1]}"


def kills_of(boundaries: list[Record], ways: tuple[str, ...]) -> list[Kill]:
    """Every boundary of one epoch, and those around it; the ways other than ``at`` at a few of these."""
    if ways == ("finish",):
        return [("finish", 0)]
    epochs = [key[0] - (kind == "tail") for kind, key, _ in boundaries]
    own = [number for number, epoch in enumerate(epochs, 1) if epoch == EPOCH]
    around = [own[0] - 2, own[0] - 1, own[-1] + 1]
    ends = [number for number, (kind, _, _) in enumerate(boundaries, 1) if kind == "tail"]
    chosen = {"at": [*own, *around], "after": [own[1]], "asked": own, "raise": own, "ends": ends}
    return [
        ("at" if way == "ends" else way, number)
        for way in ways
        for number in sorted(set(chosen[way]))
        if 0 < number < len(boundaries)
    ]


def records(attempt: Attempt) -> list[Record]:
    storage = LocalStorage(Path(attempt.folder) / "run")
    lines = read_journal(storage, attempt.number)
    return [(line["t"], line["at"], line.get("log", {})) for line in lines if line.get("t") in ("batch", "tail")]


def by_name(logged: Any) -> dict[str, list[float]]:
    """Values by name, in order: two names logged together have no order in a journal."""
    found: dict[str, list[float]] = {}
    for name, value in logged:
        found.setdefault(name, []).append(float(value))
    return found


def _load(attempt: Attempt) -> dict[str, Any]:
    outcome: dict[str, Any] = torch.load(attempt.outcome)
    return outcome
