"""Which file a new checkpoint is linked to, and which never: two copies stay, and what is not whole is not shared."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.engine.catalog import Catalog, Entry
from holdfast.engine.linking import Links, fewest
from holdfast.engine.messages import CommitRequest, Committed, Failed, ShardRequest
from holdfast.engine.persist import Shards
from holdfast.engine.sharing import Body, Name, bodies, left_with_one, shared
from holdfast.format.digests import BLOCK_SIZE, FileDigest
from holdfast.format.manifest import Manifest, seal_document
from holdfast.storage.base import FileStatus
from holdfast.storage.local import LocalStorage
from holdfast.testing.faults import Fail, Fault, FaultyStorage, failing_call
from holdfast.types import FileRecord
from tests.harness.persisting import persist

FILE, OTHER, TWIN = "model-2.safetensors", "model.safetensors", "teacher.safetensors"
RUN = "7f3a"

# The choice.


def manifest(ordinal: int, run: str = RUN) -> Manifest:
    return Manifest(run=run, attempt=1, ordinal=ordinal, try_id="t", created="2026-11-25T00:00:00Z")


@dataclass
class Folder:
    """Checkpoints by ordinal, each with the number of the file on disk that it has; what is linked is never written."""

    files: dict[int, int] = field(default_factory=dict)
    newest: int = 0
    written: int = 0

    def bodies(self) -> list[Body]:
        found: dict[int, Body] = {}
        record = FileRecord(size=1, block_size=1, blocks=("",), digest="d")
        for ordinal, number in self.files.items():
            body = found.setdefault(number, Body(FileStatus(size=1, modified=0, body=number)))
            body.names.append(Name(Entry(str(ordinal), manifest(ordinal), 1), FILE, record))
        return list(found.values())

    def save(self, going: Sequence[int]) -> bool:
        """A new checkpoint, after which those go. Whether it was linked."""
        chosen = fewest(self.bodies(), [str(one) for one in going])
        self.newest += 1
        if chosen is None:
            self.written += 1
        self.files[self.newest] = self.written if chosen is None else int(str(chosen.status.body))
        for one in going:
            del self.files[one]
        return chosen is not None


@given(st.data())
def test_two_or_more_checkpoints_have_two_files_or_more(data: st.DataObject) -> None:
    """Whatever retention deletes and when, and the two newest never have the same."""
    folder = Folder()
    for _ in range(data.draw(st.integers(1, 25))):
        going = data.draw(st.sets(st.sampled_from(sorted(folder.files)))) if folder.files else set()
        folder.save(sorted(going))
        files = [folder.files[one] for one in sorted(folder.files)]
        assert len(set(files)) >= min(len(files), 2)
        assert len(files) < 2 or files[-1] != files[-2]


@pytest.mark.parametrize(
    ("kept", "linked"),
    [
        (1, [False, True, True, True, True, True]),
        (2, [False, False, True, True, True, True]),
        (3, [False, False, True, True, True, True]),
        (99, [False, False, True, True, True, True]),
    ],
)
def test_only_the_first_ones_are_written(kept: int, linked: list[bool]) -> None:
    """As many as two copies need: one checkpoint needs one."""
    folder = Folder()
    found = []
    for number in range(1, len(linked) + 1):
        found.append(folder.save([number - kept] if number > kept else []))
    assert found == linked
    assert len(folder.files) == min(kept, len(linked))


def test_the_one_that_the_fewest_have_is_taken() -> None:
    """But not the one of the newest, whose damage would leave nothing recent to fall back on."""
    folder = Folder({1: 0, 2: 1, 3: 0, 4: 2, 5: 0, 6: 1}, newest=6, written=2)
    folder.save([])
    assert folder.files[7] == 2
    folder.save([])
    assert folder.files[8] == 1


# The links.


def image(size: int = 3 * BLOCK_SIZE + 100, seed: int = 0) -> bytes:
    return bytes((index * 7 + seed) % 251 for index in range(4096)) * (size // 4096) + bytes(size % 4096)


FROZEN = image()


def digest_of(data: bytes) -> str:
    digest = FileDigest()
    for begin in range(0, len(data), BLOCK_SIZE):
        digest.update(data[begin : begin + BLOCK_SIZE])
    return digest.record(len(data)).digest


KNOWN = digest_of(FROZEN)


@dataclass
class Run:
    """Commits checkpoints of one frozen file and one other, as a writer does."""

    folder: Path
    faults: tuple[Fault, ...] = ()
    ordinal: int = 0
    links: Links | None = None

    @property
    def storage(self) -> Any:
        storage = LocalStorage(self.folder)
        return FaultyStorage(storage, *self.faults) if self.faults else storage

    def save(
        self, known: str = KNOWN, *, delete: Sequence[str] = (), avoid: Sequence[str] = (), data: bytes = FROZEN,
        read_back: bool = False, run: str = RUN, twin: bool = False,
    ) -> Committed | Failed:  # fmt: skip
        """With a ``twin``, the frozen bytes are in two files of the checkpoint."""
        self.ordinal += 1
        self.links = self.links or Links(LocalStorage(self.folder))
        arena = data + bytes(-len(data) % 4096) + b"other".ljust(4096, b"\0")
        end = len(arena) - 4096
        frozen = (FILE, TWIN) if twin else (FILE,)
        shards = Shards(
            [ShardRequest(OTHER, end, 5, 4096), *(ShardRequest(one, 0, len(data), end, True, known) for one in frozen)],
            memoryview(arena),
        )
        commit = CommitRequest(
            folder=str(self.folder), files=(OTHER, *frozen), manifest=manifest(self.ordinal, run),
            delete=tuple(delete), avoid=tuple(avoid), read_back=read_back,
        )  # fmt: skip
        return persist(self.storage, commit, shards, [], self.links)

    def saved(self, *arguments: Any, **options: Any) -> Committed:
        outcome = self.save(*arguments, **options)
        assert isinstance(outcome, Committed), outcome
        return outcome

    def path(self, ordinal: int, file: str = FILE) -> Path:
        return self.folder / name_of(ordinal) / file

    def files(self) -> list[int]:
        """Which file on disk each checkpoint has, as small numbers in the order in which they come first."""
        numbers: dict[int, int] = {}
        paths = [self.path(one) for one in range(1, self.ordinal + 1) if self.path(one).exists()]
        return [numbers.setdefault(path.stat().st_ino, len(numbers)) for path in paths]


def name_of(ordinal: int) -> str:
    return str(manifest(ordinal).name)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "run")


def flip(path: Path, position: int) -> None:
    """Flips a bit, and leaves the time of the last change as it was: the medium has lost it."""
    times = path.stat()
    with open(path, "r+b") as file:
        file.seek(position)
        byte = file.read(1)
        file.seek(position)
        file.write(bytes([byte[0] ^ 1]))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_what_is_known_is_linked_and_the_rest_is_written(run: Run) -> None:
    """The outcome tells how much, and the digests of what is frozen. Every checkpoint is whole by itself."""
    outcomes = [run.saved(known=""), run.saved(), run.saved(), run.saved()]
    assert [one.linked for one in outcomes] == [0, 0, len(FROZEN), len(FROZEN)]
    assert [one.digests for one in outcomes] == [{FILE: KNOWN}] * 4
    assert run.files() == [0, 1, 0, 1]
    assert len({run.path(one, OTHER).stat().st_ino for one in range(1, 5)}) == 4
    assert all(run.path(one).read_bytes() == FROZEN for one in range(1, 5))


def test_what_is_linked_is_not_reserved(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """It needs no room."""
    run.saved(), run.saved()
    storage = FaultyStorage(run.storage)
    monkeypatch.setattr(Run, "storage", storage)
    run.saved()
    assert (storage.calls["reserve"], storage.calls["write"], storage.calls["link"]) == (1, 1, 1)


def test_what_is_linked_is_read_back_where_that_is_asked_for(run: Run) -> None:
    """All of it: a medium that has lost a bit of it gets no checkpoint."""
    run.saved(), run.saved()
    assert run.saved(read_back=True).linked
    flip(run.path(2), BLOCK_SIZE - 1)
    run.links = Links(LocalStorage(run.folder))
    outcome = run.save(read_back=True)
    assert not isinstance(outcome, Committed) or outcome.linked == 0


def test_what_is_read_back_as_damaged_is_written_again(run: Run) -> None:
    """By the same save, though the blocks that are read before a link are all good: no checkpoint is lost for it."""
    big = image(12 * BLOCK_SIZE)
    known = digest_of(big)
    for _ in range(4):
        run.saved(known, data=big)
    run.links = Links(LocalStorage(run.folder))
    assert run.files() == [0, 1, 0, 1]
    flip(run.path(3), 10 * BLOCK_SIZE)  # the fifth save reads the blocks behind number 5, its second try the next ones
    outcome = run.saved(known, data=big, read_back=True)
    assert outcome.linked == 0
    told = f"{FILE} is the same file in {name_of(1)}, {name_of(3)}. It is not linked to again."
    assert outcome.notes[0] == told
    assert len(outcome.notes) == 2
    for _ in range(4):
        assert run.saved(known, data=big, read_back=True).notes == ()
    assert run.files().count(0) == 2


def touched(run: Run) -> None:
    os.utime(run.path(1))


def cut(run: Run) -> None:
    os.truncate(run.path(1), len(FROZEN) - 1)


def gone(run: Run) -> None:
    run.path(1).unlink()


def of_another_run(run: Run) -> None:
    path = run.path(1, "manifest.json")
    document = msgspec.json.decode(path.read_bytes())
    path.write_bytes(seal_document(document | {"run": "other"}))


def without_a_manifest(run: Run) -> None:
    run.path(1, "manifest.json").unlink()


@pytest.mark.parametrize("harm", [touched, cut, gone, of_another_run, without_a_manifest])
def test_a_file_that_is_not_surely_the_committed_one_is_not_linked_to(run: Run, harm: Callable[[Run], object]) -> None:
    """Of another size, written to since, of another run: the bytes are written, as they still are in the arena."""
    run.saved(), run.saved()
    harm(run)
    run.links = None
    assert run.saved().linked == 0
    # Now there are two good ones besides.
    assert run.saved().linked == len(FROZEN)
    assert run.path(4).stat().st_ino == run.path(2).stat().st_ino


def test_a_copy_of_a_run_is_not_linked_to(run: Run, tmp_path: Path) -> None:
    """A plain copy gives every file a time of its own, later than its manifest's: nobody knows what was copied."""
    run.saved(), run.saved()
    for number in (1, 2):
        for file in (FILE, "manifest.json"):
            os.utime(run.path(number, file), ns=(0, {FILE: 2, "manifest.json": 1}[file]))
    assert run.saved().linked == 0


@pytest.mark.parametrize("block", [0, 3, 4, 7])
def test_damage_is_found_at_the_latest_when_its_block_has_its_turn(run: Run, block: int) -> None:
    """It is told, with those that share the file, and the file is never linked to again, whichever blocks are read."""
    big = image(8 * BLOCK_SIZE)
    known = digest_of(big)
    for _ in range(4):
        run.saved(known, data=big)
    assert run.files() == [0, 1, 0, 1]
    flip(run.path(1), block * BLOCK_SIZE + 1)
    notes: list[str] = []
    while not notes:
        notes += run.saved(known, data=big).notes
        assert run.ordinal < 10
    (note,) = notes
    assert f"{FILE}: bytes {block * BLOCK_SIZE:,} to {(block + 1) * BLOCK_SIZE:,} are not the ones" in note
    sharers = [one for one in range(1, run.ordinal + 1) if run.path(one).stat().st_ino == run.path(1).stat().st_ino]
    assert all(name_of(one) in note for one in sharers)
    for _ in range(6):
        assert run.saved(known, data=big).notes == ()
        assert run.path(run.ordinal).stat().st_ino != run.path(1).stat().st_ino


def test_damaged_files_do_not_count_as_copies(run: Run) -> None:
    """One good file for two checkpoints is not enough."""
    for _ in range(2):
        run.saved()
    flip(run.path(1), 0)
    outcome = run.saved()
    assert (outcome.linked, len(outcome.notes)) == (0, 1)
    assert run.saved().linked == len(FROZEN)
    assert run.path(4).stat().st_ino == run.path(2).stat().st_ino


def test_what_a_resume_found_damaged_is_avoided_with_all_that_share_it(run: Run) -> None:
    """Not only the checkpoint that was tried."""
    for _ in range(4):
        run.saved()
    assert run.files() == [0, 1, 0, 1]
    run.saved(avoid=[name_of(3)])
    assert run.files() == [0, 1, 0, 1, 2]
    run.saved(avoid=[name_of(3)])
    assert run.files() == [0, 1, 0, 1, 2, 1]


def test_an_unreadable_file_is_told_and_not_linked_to(run: Run) -> None:
    """The medium refuses to give its bytes back."""
    run.saved(), run.saved()
    run.links = Links(FaultyStorage(LocalStorage(run.folder), Fail(verb="read_into", error=errno.EIO)))
    outcome = run.saved()
    assert (outcome.linked, len(outcome.notes)) == (0, 1)
    assert "cannot read_into" in outcome.notes[0]


@pytest.mark.parametrize("error", [errno.EPERM, errno.EMLINK])
def test_without_hard_links_it_is_written(run: Run, error: int) -> None:
    """The bytes are in the arena."""
    run.saved(), run.saved()
    with failing_call("link", times=99, error=error):
        outcome = run.saved()
    assert (outcome.linked, outcome.notes) == (0, ())
    assert run.files() == [0, 1, 2]


def test_a_link_that_fails_is_tried_once_more_in_a_fresh_try(run: Run) -> None:
    """As any I/O error is; then the save has failed, and nothing of it is left."""
    run.saved(), run.saved()
    with failing_call("link", error=errno.EIO):
        assert run.saved().linked == len(FROZEN)
    with failing_call("link", times=2, error=errno.EIO):
        assert isinstance(run.save(), Failed)
    assert LocalStorage(run.folder).list() == [name_of(one) for one in (1, 2, 3)]


def test_written_once_more_after_an_io_error_it_is_linked_again(run: Run) -> None:
    """To the fresh try."""
    run.saved(), run.saved()
    run.faults = (Fail(verb="commit", error=errno.EIO),)
    outcome = run.saved()
    assert (outcome.linked, len(outcome.notes)) == (len(FROZEN), 1)
    assert run.files() == [0, 1, 0]


def test_a_checkpoint_that_is_deleted_at_that_moment_is_no_obstacle(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    """Before the link, its bytes are written; behind it, they stay."""
    run.saved(), run.saved()
    link, storage = os.link, LocalStorage(run.folder)

    def deleted_before(source: str, *arguments: Any, **options: Any) -> None:
        storage.delete(name_of(1))
        link(source, *arguments, **options)

    monkeypatch.setattr(os, "link", deleted_before)
    assert run.saved().linked == 0

    def deleted_behind(source: str, *arguments: Any, **options: Any) -> None:
        link(source, *arguments, **options)
        storage.delete(name_of(2))

    monkeypatch.setattr(os, "link", deleted_behind)
    assert run.saved().linked == len(FROZEN)
    assert run.path(4).read_bytes() == FROZEN


def test_bytes_that_are_not_what_they_were_known_to_be_are_not_committed(run: Run) -> None:
    """The arena was damaged: the trainer fills it again, for the next boundary."""
    outcome = run.save(data=image(len(FROZEN), seed=1))
    assert isinstance(outcome, Failed)
    assert outcome.again
    assert f"{FILE}: the snapshot holds other bytes of it than it was known to" in outcome.message
    assert LocalStorage(run.folder).list() == []


@pytest.mark.parametrize("kept", [2, 3])
def test_items_that_are_alike_leave_the_newest_checkpoints_no_file_in_common(run: Run, kept: int) -> None:
    """Damage to any file on disk leaves one of the two newest whole."""
    for number in range(1, 8):
        going = [name_of(number - kept)] if number > kept else []
        assert run.saved(known=KNOWN if number > 2 else "", delete=going, twin=True).notes == ()
        if number > 1:
            two = [{run.path(one, file).stat().st_ino for file in (FILE, TWIN)} for one in (number - 1, number)]
            assert not two[0] & two[1]


def test_a_checkpoint_shares_no_file_with_itself(run: Run) -> None:
    """Where it has two names for one file on disk, only others are told to have it too."""
    for number in range(1, 4):
        going = [name_of(number - 1)] if number > 1 else []
        assert run.saved(known=KNOWN if number > 2 else "", delete=going, twin=True).notes == ()
    assert run.path(3).stat().st_ino == run.path(3, TWIN).stat().st_ino
    storage = LocalStorage(run.folder)
    assert shared(bodies(storage, Catalog(storage).list().entries)) == {}
    run.saved(twin=True)
    flip(run.path(3), 0)
    (note,) = run.saved(twin=True).notes
    assert note.count(name_of(3)) == 1


def test_the_last_other_copy_of_what_is_not_saved_any_more_is_told(run: Run) -> None:
    """Tensors that were frozen once: nothing writes a second copy of them again."""
    for _ in range(3):
        run.saved()
    thawed = image(len(FROZEN), seed=9)
    going = [name_of(2)]
    catalog = Catalog(LocalStorage(run.folder))
    assert left_with_one(catalog, [name_of(1)]) == []
    outcome = run.saved(known="", data=thawed, delete=going)
    assert outcome.deleted == (name_of(2),)
    (note,) = outcome.notes
    assert note.startswith(f"{name_of(1)}, {name_of(3)} have one file {FILE} between them")


def test_a_source_that_is_deleted_meanwhile_is_no_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The save takes another file, or writes its own: it does not fail."""
    run = Run(tmp_path)
    for _ in range(3):
        run.saved()
    check = Links._check

    def late(self: Links, source: Name, index: int) -> None:
        shutil.rmtree(tmp_path / source.entry.name, ignore_errors=True)
        check(self, source, index)

    monkeypatch.setattr(Links, "_check", late)
    outcome = run.saved()
    assert not outcome.notes
    assert run.path(4).read_bytes() == FROZEN
