"""SIGKILL of the trainer or its writer, right before or right after any of their system calls."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from holdfast import checkpoints
from tests.harness.digits import BATCHES, EPOCHS
from tests.harness.history import History, assert_nothing_lost, assert_same_bits, assert_same_losses
from tests.harness.trainers import Trainer, start

TRAIN, TWIN = "tests.harness.digits:train", "tests.harness.digits:twin"
KEPT = 2
KILLED = -9


@dataclass(frozen=True, slots=True)
class Kill:
    """Of ``process``, right ``when`` its ``call``-th call."""

    process: str
    call: int
    when: str


@dataclass(frozen=True, slots=True)
class Reference:
    """The twin's result, and how many calls an undisturbed run makes."""

    twin: Path
    trainer_calls: int
    writer_calls: int

    def draw(self, choice: random.Random) -> Kill:
        """One kill, uniformly over all calls of both processes."""
        number = choice.randrange(self.trainer_calls + self.writer_calls)
        process, call = ("trainer", number) if number < self.trainer_calls else ("writer", number - self.trainer_calls)
        return Kill(process, call + 1, choice.choice(("before", "after")))


def measure(folder: Path, workers: int, other: str | None = None) -> Reference:
    """Trains once without holdfast, and once with it to count."""
    assert start(TWIN, folder / "twin.out", result=str(folder / "twin"), workers=workers).wait() == 0
    counts = {name: folder / name for name in ("trainer", "writer")}
    faults = {name: [{"action": "count", "token": str(path)}] for name, path in counts.items()}
    counted = start(
        TRAIN, folder / "counted.out", folder=str(folder / "counted"), result=str(folder / "counted.result"),
        workers=workers, faults=faults["trainer"], writer_faults=faults["writer"], other=other,
    )  # fmt: skip
    assert counted.wait() == 0, counted.text
    calls = {name: len(path.read_text().splitlines()) for name, path in counts.items()}
    return Reference(folder / "twin", calls["trainer"], calls["writer"])


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    return measure(tmp_path_factory.mktemp("reference"), workers=0)


class Campaign:
    """One run, started again and again until it ends by itself."""

    def __init__(self, place: Path, reference: Reference, workers: int = 0, two: bool = False) -> None:
        self.place, self.reference, self.workers = place, reference, workers
        self.other = str(place / "other") if two else None
        place.mkdir()
        self.history = History(place / "run")
        self.struck = 0

    def finish(self, kills: Iterator[Kill]) -> None:
        """Each attempt meets the next kill, and the one after it is started at once."""
        attempt = self._start(next(kills, None))
        while (code := attempt.wait()) == KILLED:
            attempt = self._start(next(kills, None))
        assert code == 0, attempt.text
        self.struck = len(list(self.place.glob("kill*.0")))

    def _start(self, kill: Kill | None) -> Trainer:
        number = len(list(self.place.glob("*.out")))
        fault = kill and {"action": "kill", "call": kill.call, "when": kill.when, "token": f"{self.place}/kill{number}"}
        faults = {kill.process: [fault]} if kill else {}
        return start(
            TRAIN, self.place / f"{number}.out", folder=str(self.place / "run"), result=str(self.place / "result"),
            workers=self.workers, faults=faults.get("trainer"), writer_faults=faults.get("writer"), other=self.other,
        )  # fmt: skip

    def check(self) -> None:
        """Nothing that was announced is lost, nothing is left over, and the end is that of the twin."""
        outputs = "\n".join(one.read_text() for one in sorted(self.place.glob("*.out")))
        assert "Traceback" not in outputs + self.history.writer_log, outputs + self.history.writer_log
        assert_nothing_lost(self.history, KEPT)
        assert self.history.debris == []
        assert_same_bits(self.place / "result", self.reference.twin)
        assert_same_losses(self.history, self.reference.twin)
        if self.other is not None:
            models = History(Path(self.other))
            models.verify_all()
            assert models.debris == []
            assert [one.progress.batches for one in checkpoints(self.other)][-1] == BATCHES * EPOCHS


def strike(total: int, seed: int, place: Path, reference: Reference, workers: int = 0, two: bool = False) -> None:
    """Runs of one kill, and of up to four in a row, until ``total`` kills have struck."""
    choice = random.Random(seed)
    struck = 0
    while struck < total:
        kills = [reference.draw(choice) for _ in range(choice.choice((1, 1, 1, 4)))]
        campaign = Campaign(place / f"{struck}-{choice.randrange(1 << 30):x}", reference, workers, two)
        try:
            campaign.finish(iter(kills))
            campaign.check()
        except BaseException as error:
            error.add_note(f"seed {seed}, in {campaign.place}: {kills}")
            raise
        struck += campaign.struck


def test_kills_at_any_system_call(tmp_path: Path, reference: Reference) -> None:
    """25 SIGKILLs: no restart refused, nothing announced is lost, no debris, and the end is the twin's, bit for bit."""
    strike(25, 1, tmp_path, reference)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 9))
def test_more_kills_at_any_system_call(tmp_path: Path, reference: Reference, seed: int) -> None:
    """The same, to 200 SIGKILLs with those of the test before."""
    strike(25, seed, tmp_path, reference)


def test_kills_with_loader_workers_alive(tmp_path: Path) -> None:
    """The workers of a killed trainer outlive it by seconds, and hold neither its locks nor its writer."""
    reference = measure(tmp_path, workers=2)
    strike(4, 1, tmp_path, reference, workers=2)


def test_kills_with_two_savers(tmp_path: Path) -> None:
    """Each folder is whole at every instant, and both have their last checkpoint at the end."""
    strike(6, 1, tmp_path, measure(tmp_path, workers=0, other=str(tmp_path / "counted.other")), two=True)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [2, 3])
def test_more_kills_with_two_savers(tmp_path: Path, seed: int) -> None:
    """The same, at more calls."""
    strike(20, seed, tmp_path, measure(tmp_path, workers=0, other=str(tmp_path / "counted.other")), two=True)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [2, 3])
def test_more_kills_with_loader_workers_alive(tmp_path: Path, seed: int) -> None:
    """The same, at more calls."""
    strike(10, seed, tmp_path, measure(tmp_path, workers=2), workers=2)
