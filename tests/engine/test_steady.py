"""Which frozen shards are known without being copied or digested: trusted late, not for ever, doubted for good."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from holdfast.engine.messages import Committed, Failed
from holdfast.engine.plan import Plan, make_plan
from holdfast.engine.steady import WHOLE_EVERY, Steadiness
from holdfast.types import TensorSpec

FILE = "model.safetensors"


LARGE = TensorSpec("float32", (128, 128))


@dataclass
class Tensor:
    """A frozen source whose bytes, and what is seen of them, a test sets."""

    spec: TensorSpec = LARGE
    identity: Any = None
    frozen: bool = True
    version: Any = 0
    bytes: str = "original"

    def seen(self) -> Any:
        return self.version


@dataclass
class Trainer:
    """Takes snapshots, as a checkpointer does, and says what of each was known and what lay in the arena."""

    items: dict[str, dict[str, Tensor]]
    steadiness: Steadiness = field(default_factory=Steadiness)
    batch: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def plan(self) -> Plan:
        return make_plan(self.items)

    def digest(self, file: str) -> str:
        """Of all bytes of a file."""
        item = file.split(".")[0]
        return " ".join(one.bytes for one in self.items[item].values())

    def save(
        self, *, trained: int = 1, urgent: bool = False, plan: Plan | None = None, committed: bool = True
    ) -> tuple[set[str], set[str]]:
        """The files that are known, and of those the ones that are not even copied."""
        self.batch += trained
        plan = plan or self.plan
        known = dict(self.steadiness.look(plan, self.items, self.batch, urgent=urgent))
        lying = set(self.steadiness.lying())
        self.steadiness.filled()
        assert lying <= known.keys()
        digests = {one.file: known.get(one.file, self.digest(one.file)) for one in plan.shards if one.frozen}
        name = f"step-{self.batch}"
        done = Committed(ordinal=1, name=name, folder="/run", digest="", size=1, digests=digests)
        self.notes += self.steadiness.hear(done).notes if committed else ()
        return set(known), lying


@pytest.fixture
def tensor() -> Tensor:
    return Tensor()


@pytest.fixture
def trainer(tensor: Tensor) -> Trainer:
    return Trainer({"model": {"base": tensor}})


BOTH = ({FILE}, {FILE})
NEITHER: tuple[set[str], set[str]] = (set(), set())
COPIED = ({FILE}, set[str]())


def test_a_shard_is_known_once_two_digests_in_a_row_are_equal(trainer: Trainer) -> None:
    """Then it lies in the arena, where it was copied to last, and is copied no more."""
    assert [trainer.save() for _ in range(4)] == [NEITHER, NEITHER, BOTH, BOTH]


def test_two_digests_of_one_moment_prove_nothing(trainer: Trainer) -> None:
    """Training has to have had a chance to change it."""
    assert [trainer.save(), trainer.save(trained=0), trainer.save(), trainer.save()] == [NEITHER] * 3 + [BOTH]


def test_every_tenth_save_is_whole(trainer: Trainer) -> None:
    """Copied, digested and written, whatever was seen."""
    saves = [trainer.save() for _ in range(3 * WHOLE_EVERY)]
    assert [number for number, one in enumerate(saves, 1) if one == NEITHER] == [1, 2, 12, 22]
    assert trainer.notes == []


def test_all_that_is_frozen_is_whole_together() -> None:
    """Else no checkpoint might ever be whole by itself."""
    trainer = Trainer({"model": {"base": Tensor()}})
    for _ in range(5):
        trainer.save()
    trainer.items["teacher"] = {"base": Tensor()}
    saves = [trainer.save()[0] for _ in range(WHOLE_EVERY + 10)]
    teacher = "teacher.safetensors"
    assert [saves.index(set()), saves.index({FILE, teacher})] == [6, 2]
    assert {frozenset(one) for one in saves[2:]} == {frozenset(), frozenset({FILE, teacher})}


def test_one_that_always_changes_makes_no_other_whole() -> None:
    """It is not known, and so its turn never comes."""
    moving = Tensor()
    trainer = Trainer({"model": {"base": Tensor()}, "average": {"base": moving}})
    saves = []
    for number in range(8):
        moving.bytes = f"{number}"
        saves.append(trainer.save()[0])
    assert saves == [set(), set(), *[{FILE}] * 6]
    assert trainer.notes == []


def test_what_is_urgent_leaves_the_whole_one_to_the_next(trainer: Trainer) -> None:
    """A save before a deadline was measured to be a short one."""
    for _ in range(WHOLE_EVERY + 1):
        trainer.save()
    assert trainer.save(urgent=True) == BOTH
    assert trainer.save() == NEITHER


def test_what_is_seen_to_change_is_copied_until_it_stays(trainer: Trainer, tensor: Tensor) -> None:
    """Two equal digests in a row, again."""
    for _ in range(4):
        trainer.save()
    tensor.version, tensor.bytes = 1, "changed"
    assert [trainer.save() for _ in range(3)] == [NEITHER, NEITHER, BOTH]
    tensor.version = 2  # written to, with what it held
    assert [trainer.save() for _ in range(2)] == [NEITHER, BOTH]
    assert trainer.notes == []


def test_a_change_that_nobody_saw_is_reported_and_never_trusted_again(trainer: Trainer, tensor: Tensor) -> None:
    """The digest of the tenth save finds it; the note names the last checkpoint that is surely right."""
    for _ in range(5):
        trainer.save()
    tensor.bytes = "behind torch's back"
    while trainer.save() != NEITHER:
        assert trainer.notes == []
    (note,) = trainer.notes
    assert "frozen tensors of model were changed" in note
    assert f"{FILE} is not what it was in step-2" in note
    assert "The 9 saves between them may hold the older bytes" in note
    assert [trainer.save() for _ in range(30)] == [NEITHER] * 30
    assert len(trainer.notes) == 1


def test_what_changes_unseen_from_the_start_is_never_trusted(trainer: Trainer, tensor: Tensor) -> None:
    """As an average that is kept through ``.data`` does: every save has held it as it was, so nothing is reported."""
    trainer.save()
    tensor.bytes = "averaged"
    assert [trainer.save() for _ in range(9)] == [NEITHER] * 9
    assert trainer.notes == []


def test_the_checkpoint_that_was_restored_counts_as_one_in_a_row(trainer: Trainer) -> None:
    """If training has gone on since, the first save of an attempt proves it."""
    trainer.steadiness.expect({"original"}, 0)
    assert [trainer.save() for _ in range(2)] == [NEITHER, BOTH]
    other = Trainer(trainer.items)
    other.steadiness.expect({"original"}, 1)
    assert [other.save() for _ in range(3)] == [NEITHER, NEITHER, BOTH]


def test_another_plan_in_the_arena_has_it_copied_again(trainer: Trainer) -> None:
    """Its digest stays known. The same plan again finds it where it was; one that overwrote it does not."""
    for _ in range(3):
        trainer.save()
    longer = {"ahead": {"head": Tensor(identity="b", frozen=False)}, **trainer.items}
    trainer.items = longer
    assert [trainer.save() for _ in range(2)] == [COPIED, BOTH]
    trainer.items = {"model": longer["model"]}
    assert [trainer.save() for _ in range(2)] == [COPIED, BOTH]
    without = make_plan({"ahead": longer["ahead"]})
    assert trainer.save(plan=without) == NEITHER
    assert trainer.save() == COPIED


def test_a_new_arena_holds_nothing(trainer: Trainer) -> None:
    """Nor does one that a device failed to copy into."""
    for _ in range(3):
        trainer.save()
    trainer.steadiness.lose()
    assert [trainer.save() for _ in range(2)] == [COPIED, BOTH]


def test_a_snapshot_that_streams_leaves_nothing_in_the_arena(trainer: Trainer) -> None:
    """Its ring goes over everything."""
    for _ in range(3):
        trainer.save()
    trainer.steadiness.look_at_none()
    assert not trainer.steadiness.lying()
    assert [trainer.save() for _ in range(2)] == [COPIED, BOTH]


def test_a_copy_that_fails_halfway_leaves_only_what_it_did_not_touch(trainer: Trainer) -> None:
    """What lay there still does; the rest is not what it was copied for."""
    for _ in range(3):
        trainer.save()
    trainer.items["teacher"] = {"base": Tensor()}
    trainer.steadiness.look(trainer.plan, trainer.items, 9)
    assert set(trainer.steadiness.lying()) == {FILE}
    assert trainer.save() == BOTH


def test_a_save_that_is_not_committed_teaches_nothing(trainer: Trainer, tensor: Tensor) -> None:
    """The whole one that failed is whole when it is tried again, and what it held is not what is known."""
    for _ in range(WHOLE_EVERY + 1):
        trainer.save()
    assert [trainer.save(committed=False), trainer.save(), trainer.save()] == [NEITHER, NEITHER, BOTH]
    tensor.version, tensor.bytes = 1, "changed"
    trainer.save(committed=False)
    tensor.version, tensor.bytes = 2, "and again"
    assert [trainer.save() for _ in range(3)] == [NEITHER, NEITHER, BOTH]


def test_a_whole_save_that_failed_is_not_tried_again_at_once(trainer: Trainer) -> None:
    """On a disk that is almost full, those that link still find room."""
    for _ in range(WHOLE_EVERY + 1):
        trainer.save()
    for _ in range(3):
        assert trainer.save(committed=False) == NEITHER
        trainer.steadiness.hear(Failed(ordinal=1, name="", folder="/run", message="no space"))
        assert trainer.save() == BOTH
    assert [trainer.save() for _ in range(2)] == [NEITHER, BOTH]


def test_an_arena_that_does_not_hold_what_was_known_is_filled_anew(trainer: Trainer) -> None:
    """The writer has found out, and refused to commit it; a full disk is no reason to copy anything again."""
    for _ in range(3):
        trainer.save()
    trainer.save(committed=False)
    full = Failed(ordinal=1, name="", folder="/run", message="no space")
    trainer.steadiness.hear(full)
    assert trainer.save(committed=False) == BOTH
    trainer.steadiness.hear(Failed(ordinal=1, name="", folder="/run", message="other bytes", again=True))
    assert [trainer.save(urgent=True), trainer.save()] == [NEITHER, BOTH]


def test_of_two_folders_each_counts_once(trainer: Trainer) -> None:
    """A snapshot is one save, whatever becomes of it where."""
    for number in range(WHOLE_EVERY + 1):
        trainer.save()
        if number:
            again = Committed(ordinal=1, name="", folder="/b", digest="", size=1, digests={FILE: "original"})
            trainer.steadiness.hear(again)
    assert trainer.save() == NEITHER
