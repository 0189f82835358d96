"""From the arena to a committed checkpoint, on storages that lie."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from holdfast.engine.messages import CommitRequest, Committed, Failed, ShardRequest
from holdfast.engine.persist import Removals, Shards
from holdfast.engine.plan import align
from holdfast.format.manifest import Manifest
from holdfast.storage.local import LocalStorage
from holdfast.storage.paths import is_debris
from holdfast.testing.faults import Fail, Fault, FaultyStorage, FlipBit, ShortWrite
from tests.harness.persisting import persist

SIZE = 10_000
FILE = "model.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run"


def saved(folder: Path, *faults: Fault, read_back: bool = True, label: str = "") -> Committed | Failed:
    """The outcome of a commit of one file, through ``faults``."""
    manifest = Manifest(run="7f3a", attempt=1, ordinal=1, try_id="t", created="2026-11-25T00:00:00Z", label=label)
    commit = CommitRequest(folder=str(folder), files=(FILE,), manifest=manifest, read_back=read_back)
    image = bytes(i % 251 for i in range(SIZE)) + bytes(align(SIZE) - SIZE)
    shards = Shards([ShardRequest(FILE, 0, SIZE, align(SIZE))], memoryview(image))
    storage: Any = FaultyStorage(LocalStorage(folder), *faults)
    return persist(storage, commit, shards, [])


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (FlipBit(verb="write", bit=8 * 5000, times=2), "bytes 0 to 10,000 are not the ones that were written"),
        (FlipBit(verb="read_back", bit=8 * (SIZE - 1), times=2), "are not the ones that were written"),
        (ShortWrite(verb="write", keep=0, times=2), "there are 0 bytes, where 10,000 were written"),
        (ShortWrite(verb="write", keep=4096, times=2), "are not the ones that were written"),
        (Fail(verb="read_back", error=errno.EIO, times=2), "cannot read_back"),
    ],
)
def test_a_medium_that_lies_twice_gets_no_checkpoint(folder: Path, fault: Fault, said: str) -> None:
    """Once more to fresh files, and then the save has failed, with nothing left of it."""
    outcome = saved(folder, fault)
    assert isinstance(outcome, Failed)
    assert said in outcome.message
    assert "Writing it once more" in outcome.notes[0]
    assert LocalStorage(folder).list() == []


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
def test_a_save_that_failed_took_its_time_too(folder: Path, error: int) -> None:
    """Who bounds what saves cost has to know it."""
    outcome = saved(folder, Fail(verb="commit", error=error, times=2))
    assert isinstance(outcome, Failed)
    assert outcome.seconds > 0


def test_a_medium_that_lies_once_gets_it_at_the_second_try(folder: Path) -> None:
    """And it is told."""
    outcome = saved(folder, FlipBit(verb="write", bit=0))
    assert isinstance(outcome, Committed)
    assert len(outcome.notes) == 1
    assert LocalStorage(folder).list() == [outcome.name]


def test_without_reading_back_only_sizes_are_looked_at(folder: Path) -> None:
    """A flipped bit is then found by the load."""
    assert isinstance(saved(folder, FlipBit(verb="write", bit=0), read_back=False), Committed)


def test_equal_content_has_an_equal_hash_in_its_name(tmp_path: Path) -> None:
    """Whenever and wherever it was saved; another byte makes another name."""
    names = []
    for place, fault in (("a", []), ("b", []), ("c", [FlipBit(verb="sync")])):
        outcome = saved(tmp_path / place, *fault, read_back=False, label="best-{hash}")
        assert isinstance(outcome, Committed)
        names.append(outcome.name)
    assert len(set(names)) == 1
    assert names[0].startswith("best-")
    assert "{" not in names[0]


def test_a_checkpoint_with_a_hash_in_its_name_is_found_by_who_is_asked_for_it_again(folder: Path) -> None:
    """A writer that died between its commit and its reply left it."""
    first, again = (saved(folder, label="best-{hash}") for _ in range(2))
    assert isinstance(first, Committed)
    assert isinstance(again, Committed)
    assert (again.name, again.digest) == (first.name, first.digest)


def test_what_may_go_is_gone_before_the_answer_and_its_space_after(folder: Path) -> None:
    """Nobody who waits for the checkpoint waits for the removal of another one's bytes too."""
    storage = LocalStorage(folder)
    old = "step-00000001.a0001.n0001"
    storage.begin(old, "old").commit(b"{}")
    manifest = Manifest(run="7f3a", attempt=1, ordinal=2, try_id="t", created="2026-11-25T00:00:00Z")
    commit = CommitRequest(folder=str(folder), files=(), manifest=manifest, delete=(old,))
    removals: Removals = []
    outcome = persist(storage, commit, Shards((), memoryview(b"")), removals)
    assert isinstance(outcome, Committed)
    assert outcome.deleted == (old,)
    names = storage.list()
    assert old not in names
    assert [name for name in names if is_debris(name)], "its bytes are still there"
    for remove in removals:
        remove()
    assert not any(map(is_debris, storage.list()))
