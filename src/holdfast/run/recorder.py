"""What is logged between boundaries: to the journal, to the metrics of checkpoints, against a replay."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from holdfast.errors import ExactnessWarning
from holdfast.run.replay import Replay
from holdfast.run.voice import Voice
from holdfast.state.torch.scalars import HeldScalar, to_json
from holdfast.types import Json

Held = dict[str, list[HeldScalar]]


class Logged(Mapping[str, float]):
    """The last values of one interval. Only one that is looked at is waited for, if it is still on a device."""

    def __init__(self, held: Held) -> None:
        self._held = held

    def __getitem__(self, name: str) -> float:
        return self._held[name][-1].value()

    def __iter__(self) -> Iterator[str]:
        return iter(self._held)

    def __len__(self) -> int:
        return len(self._held)


@dataclass(slots=True)
class Recorder:
    """Collects logged values and writes one journal line for each boundary.

    Lines whose values are still on their way from a device wait, in order, for a later boundary: nothing here makes a
    device wait, except `flush`.
    """

    voice: Voice
    replay: Replay | None
    muted: bool = False
    metrics: dict[str, float] = field(default_factory=dict)
    _logged: Held = field(default_factory=dict)
    _latest: Held = field(default_factory=dict)
    _lines: deque[tuple[dict[str, Json], Held]] = field(default_factory=deque)

    def log(self, values: dict[str, Any]) -> None:
        """Holds ``values`` until the next boundary. While user code runs for the second time, it is muted."""
        if not self.muted:
            held = {name: HeldScalar(name, value) for name, value in values.items()}  # all of them, or it raises
            for name, one in held.items():
                self._logged.setdefault(name, []).append(one)

    def forget(self) -> None:
        """Drops what was logged since the last boundary, by code that ran once more."""
        self._logged = {}

    def take(self) -> Mapping[str, float]:
        """The last value of each name that was logged before the boundary just recorded; at the next call, nothing."""
        held, self._latest = self._latest, {}
        return Logged(held)

    def pending(self) -> Mapping[str, float]:
        """The last value of each name that was logged since the last boundary, where none may come any more.

        They are metrics of what is saved now. The next boundary's line has them all the same.
        """
        found = Logged(self._logged)
        self.flush()
        self.metrics.update(found)
        return found

    def record(self, record: dict[str, Json]) -> None:
        """The boundary's line: ``record`` with what was logged before it."""
        self._latest = self._logged
        self._lines.append((record, self._logged))
        self._logged = {}
        self._write(wait=False)

    def flush(self) -> None:
        """Writes every line, waiting for values that are still on their way."""
        self._write(wait=True)

    def finish(self) -> None:
        """The end of the run: says how the replay went, if it has not been said."""
        self.flush()
        if self.replay is not None and (self.replay.compared or self.replay.expected):
            self._report(self.replay)

    def _write(self, wait: bool) -> None:
        journal = self.voice.journal
        while self._lines and (wait or all(one.ready() for held in self._lines[0][1].values() for one in held)):
            record, held = self._lines.popleft()
            values = {name: [one.value() for one in ones] for name, ones in held.items()}
            self.metrics.update({name: ones[-1] for name, ones in values.items()})
            if values:
                record["log"] = {name: [to_json(one) for one in ones] for name, ones in values.items()}
            self._compare(record)
            if journal is not None:
                journal.add(record.pop("t"), **record)
        self.voice.flush()

    def _compare(self, record: dict[str, Json]) -> None:
        if self.replay is None:
            return
        epoch, loop, batch = record["at"]
        self.replay.check((epoch, loop, batch), record)
        if self.replay.done:
            self._report(self.replay)

    def _report(self, replay: Replay) -> None:
        self.replay = None
        kind = "replayed" if replay.difference is None else "replay_differs"
        self.voice.say(
            kind, replay.report(), compared=replay.compared, total=replay.total, difference=replay.difference
        )
        if replay.difference is not None:
            self.voice.warn(
                "not_exact", f"the resumed run differs from the one before: {replay.difference}", ExactnessWarning
            )
