"""What a run folder tells of a run that was killed and restarted, read around the code that wrote it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from holdfast.engine.catalog import Catalog
from holdfast.engine.verify import verify
from holdfast.storage.local import LocalStorage

_NAME = re.compile(r"step-(\d{8})\.a(\d{4})\.n(\d{4})")
_COMMITTED = re.compile(r"Committed\(ordinal=\d+, name='([^']+)'")

Order = tuple[int, int]


def order(name: str) -> Order:
    """(attempt, ordinal): the higher, the newer."""
    match = _NAME.fullmatch(name)
    assert match, name
    return int(match[2]), int(match[3])


@dataclass(frozen=True, slots=True)
class History:
    """The run in ``folder``."""

    folder: Path

    @property
    def checkpoints(self) -> list[str]:
        """Those that are there, oldest first."""
        return sorted((one.name for one in self.folder.iterdir() if _NAME.fullmatch(one.name)), key=order)

    @property
    def debris(self) -> list[str]:
        """Names in the folder that no finished run has."""
        usual = {"attempts", "journal", "holdfast.json", *self.checkpoints}
        usual |= {".trainer.lock", ".writer.lock", ".readers.lock"}
        return [one.name for one in self.folder.iterdir() if one.name not in usual]

    @property
    def attempts(self) -> list[dict[str, Any]]:
        """The records of the attempts, oldest first."""
        return [json.loads(one.read_text()) for one in sorted(self.folder.glob("attempts/*.json"))]

    def journal(self, attempt: int) -> list[dict[str, Any]]:
        """The lines of an attempt's journal; it may have died before it had one."""
        path = self.folder / "journal" / f"{attempt:04d}.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def events(self, kind: str) -> list[dict[str, Any]]:
        """The journal lines of one kind, of all attempts."""
        return [line for one in self.attempts for line in self.journal(one["attempt"]) if line["t"] == kind]

    @property
    def writer_log(self) -> str:
        """What all writers have written."""
        path = self.folder / "journal" / "writer.log"
        return path.read_text() if path.exists() else ""

    @property
    def announced(self) -> set[str]:
        """Every checkpoint that anyone was ever told of."""
        return {line["name"] for line in self.events("saved")} | set(_COMMITTED.findall(self.writer_log))

    def verify_all(self) -> None:
        """Reads every checkpoint that is there in full, cryptographic digests included."""
        storage = LocalStorage(self.folder)
        listing = Catalog(storage).list()
        assert not listing.broken, listing.broken
        assert [entry.name for entry in listing.entries] == self.checkpoints
        for entry in listing.entries:
            verify(storage, entry, tampering=True)


def assert_nothing_lost(history: History, kept: int) -> None:
    """Each announced checkpoint is there and whole, or gone for ``kept`` newer ones; each resume used the newest."""
    history.verify_all()
    there = history.checkpoints
    known = sorted(history.announced | set(there), key=order)
    assert set(known[-kept:]) <= set(there), (known, there)
    for record in history.attempts:
        before = [name for name in known if order(name)[0] < record["attempt"]]
        newest = max(before, key=order, default=None)
        assert record["resumed_from"] == newest, (record, known)


def assert_same_bits(result: Path, twin: Path) -> None:
    """Every tensor and number of both files has the same bits."""
    _compare(torch.load(result, weights_only=True), torch.load(twin, weights_only=True), "")


def _compare(one: Any, other: Any, path: str) -> None:
    assert type(one) is type(other), path
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype and one.shape == other.shape, path  # noqa: PT018  # one fact
        assert _bits(one).equal(_bits(other)), path
    elif isinstance(one, dict):
        assert list(one) == list(other), path
        for key in one:
            _compare(one[key], other[key], f"{path}/{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), path
        for index, (left, right) in enumerate(zip(one, other, strict=True)):
            _compare(left, right, f"{path}/{index}")
    else:
        assert repr(one) == repr(other), path


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def assert_same_losses(history: History, twin: Path) -> None:
    """Every batch of every attempt, killed ones included, logged the loss that it has in the twin."""
    losses = [float(line) for line in Path(f"{twin}.losses").read_text().split()]
    seen = {}
    for line in history.events("batch"):
        assert line["log"]["loss"] == [losses[line["n"] - 1]], line
        seen[line["n"]] = True
    assert sorted(seen) == list(range(1, len(losses) + 1))
    assert not history.events("replay_differs")
