"""Runs of which most is frozen: it is neither copied nor written again, and every checkpoint holds what there was."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

import holdfast
from holdfast import AtEnd, Checkpoint, Every, HoldfastWarning, KeepLast, Run, Saver
from holdfast.engine.messages import Failed, Persist
from holdfast.engine.steady import WHOLE_EVERY
from holdfast.format.safetensors import ALIGNMENT
from holdfast.run.saves import Saves
from holdfast.state.torch.tensor import TensorSource
from holdfast.storage.local import LocalStorage
from tests.harness.adapter import FROZEN, WIDTH, Act, Adapted, adapt, adapted, inodes
from tests.harness.history import History

BASE = 4 * WIDTH * WIDTH
LINKED = ALIGNMENT + BASE


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The bytes of each copy out of a tensor as large as the base."""
    found: list[int] = []
    original = TensorSource.copy_into

    def counted(self: TensorSource, destination: memoryview, begin: int = 0) -> None:
        if self.spec.shape == (WIDTH, WIDTH):
            found.append(len(destination))
        original(self, destination, begin)

    monkeypatch.setattr(TensorSource, "copy_into", counted)
    return found


def linked(folder: Path) -> list[bool]:
    """Which saves, in order, linked the base."""
    return [line["linked"] == LINKED for line in History(folder).events("saved")]


def bases(folder: Path, number: int) -> torch.Tensor:
    """The base in the checkpoint of that number, read by safetensors' own reader."""
    path = folder / History(folder).checkpoints[number - 1]
    found: dict[str, torch.Tensor] = {}
    for file in path.glob("model*.safetensors"):
        found |= safetensors.torch.load_file(file)
    return found["base.weight"]


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.equal(*(tensor.detach().contiguous().view(torch.uint8) for tensor in (one, other)))


def recorded(folder: Path, batches: int, act: Act = lambda *_: None, **options: Any) -> None:
    """Runs, and compares the base in every checkpoint with what it was then, and every byte with its digests."""
    then: list[torch.Tensor] = []

    def note(number: int, model: Adapted) -> None:
        if number > 1:
            then.append(model.base.weight.detach().clone())
        act(number, model)

    model = adapt(folder, batches, note, **options)
    then.append(model.base.weight.detach().clone())
    History(folder).verify_all()
    assert [same(bases(folder, number), one) for number, one in enumerate(then, 1)] == [True] * batches


def test_what_is_frozen_is_copied_twice_and_then_linked(folder: Path, copies: list[int]) -> None:
    """Not copied, not written; every tenth save is whole by itself."""
    recorded(folder, WHOLE_EVERY + 4)
    assert linked(folder) == [False] * 2 + [True] * (WHOLE_EVERY - 1) + [False] + [True] * 2
    assert copies == [BASE] * 3
    assert len(set(inodes(folder))) == 3


def test_what_all_is_trained_has_one_file_as_ever(tmp_path: Path) -> None:
    """And none of it is linked."""

    def trained() -> tuple[Adapted, torch.optim.Optimizer]:
        model, _ = adapted()
        model.requires_grad_(True)
        return model, torch.optim.AdamW(model.parameters(), 1e-3)

    adapt(tmp_path / "run", 4, made=trained)
    assert not list((tmp_path / "run").glob(f"*/{FROZEN}"))
    assert {line["linked"] for line in History(tmp_path / "run").events("saved")} == {0}


def test_little_more_is_written_than_what_changed(tmp_path: Path) -> None:
    """At most 1.1 times the bytes of what is trained and what its optimizer keeps, between whole ones."""
    folder, width, batches = tmp_path / "run", 1024, WHOLE_EVERY + 2

    class Large(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.base = nn.Linear(width, 16 * width, bias=False).requires_grad_(False)
            self.head = nn.Linear(width, 160, bias=False)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            outputs: torch.Tensor = self.head(inputs)
            return outputs

    model = Large()
    optimizer = torch.optim.AdamW(model.head.parameters())
    changed = 3 * model.head.weight.nbytes
    assert model.head.weight.nbytes <= 0.01 * model.base.weight.nbytes
    written: list[int] = []
    with Run(folder, {"model": model, "optimizer": optimizer}, save=Every(batches=1), keep=KeepLast(3)) as run:
        for _ in run.epochs(1):
            for inputs in run.batches([torch.ones(1, width)] * batches):
                run.wait()
                written.append(_used(folder))
                model(inputs).mean().backward()
                optimizer.step()
                optimizer.zero_grad()
    events = History(folder).events("saved")
    own = [line["bytes"] - line["linked"] for line in events]
    assert [one <= 1.1 * changed for one in own] == [False] * 2 + [True] * (WHOLE_EVERY - 1) + [False]
    # On the disk itself: of three checkpoints, the base is there twice.
    base = model.base.weight.nbytes
    assert all(2 * base < one < 2 * base + 4 * 1.1 * changed for one in written[4:])


def _used(folder: Path) -> int:
    """Bytes on disk, each file counted once, without what is on its way out."""
    files = [path.stat() for path in folder.glob("step-*/*") if ".partial-" not in path.parent.name]
    return sum({one.st_ino: 512 * one.st_blocks for one in files}.values())


def in_place(model: Adapted) -> None:
    with torch.no_grad():
        model.base.weight.mul_(2.0)


def in_one_element(model: Adapted) -> None:
    with torch.no_grad():
        model.base.weight[5, 7] += 1.0


def by_load_state_dict(model: Adapted) -> None:
    model.base.load_state_dict({"weight": torch.ones(WIDTH, WIDTH)})


def by_assignment(model: Adapted) -> None:
    model.base.load_state_dict({"weight": torch.ones(WIDTH, WIDTH)}, assign=True)


def by_another_parameter(model: Adapted) -> None:
    model.base.weight = nn.Parameter(torch.zeros(WIDTH, WIDTH), requires_grad=False)


def by_other_data(model: Adapted) -> None:
    model.base.weight.data = model.base.weight.data * 3.0


def by_a_write_through_data(model: Adapted) -> None:
    """All of it: on the CPU, a few bytes of it are looked at each time."""
    model.base.weight.data.add_(1.0)


def thawed_stepped_and_frozen_again(model: Adapted) -> None:
    """By an optimizer that the run does not know, and that moves no version counter."""
    step_once(model.base.weight)


def step_once(weight: nn.Parameter) -> None:
    """Changes one element."""
    optimizer = torch.optim.SGD([weight], lr=1.0, fused=True)
    weight.requires_grad_(True)
    weight.grad = torch.zeros(WIDTH, WIDTH)
    weight.grad[5, 7] = 1.0
    optimizer.step()
    weight.grad = None
    weight.requires_grad_(False)


CHANGES = [
    in_place, in_one_element, by_load_state_dict, by_assignment, by_another_parameter, by_other_data,
    by_a_write_through_data, thawed_stepped_and_frozen_again,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_changed_is_saved_as_it_is_then(folder: Path, change: Callable[[Adapted], object]) -> None:
    """And is linked again once it has stayed the same."""
    recorded(folder, 9, lambda number, model: change(model) if number == 5 else None)
    assert linked(folder) == [False] * 2 + [True] * 2 + [False] * 2 + [True] * 3


def test_memory_that_is_trained_by_another_of_its_names_is_saved_as_it_is_then(folder: Path) -> None:
    """A parameter of its own over the memory of the base is thawed, stepped and frozen again between two saves."""

    def made() -> tuple[Any, torch.optim.Optimizer]:
        model, optimizer = adapted()
        model.tied = nn.Linear(WIDTH, WIDTH, bias=False)
        model.tied.weight = nn.Parameter(model.base.weight.detach(), requires_grad=False)
        return model, optimizer

    def act(number: int, model: Any) -> None:
        if number == 5:
            step_once(model.tied.weight)

    recorded(folder, 9, act, made=made)
    assert linked(folder) == [False] * 2 + [True] * 2 + [False] * 2 + [True] * 3


@pytest.mark.parametrize("view", [lambda whole: whole[:180], torch.t])
def test_memory_of_which_another_parameter_is_trained_is_saved_as_it_is_then(
    folder: Path, view: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    """The base shows a part of it, or all in another order, and the optimizer moves no version counter."""

    def made() -> tuple[Any, torch.optim.Optimizer]:
        model, _ = adapted()
        model.trained = nn.Linear(WIDTH, WIDTH, bias=False)
        model.base.weight = nn.Parameter(view(model.trained.weight.detach()), requires_grad=False)
        model.head = nn.Linear(len(model.base.weight), 1)
        return model, torch.optim.SGD([model.trained.weight, *model.head.parameters()], 0.1, fused=True)

    def act(number: int, model: Any) -> None:
        if number > 4:
            model.trained.weight.grad = torch.zeros(WIDTH, WIDTH)
            model.trained.weight.grad[5, 7] = 1.0

    recorded(folder, 7, act, made=made)


def test_thawed_in_the_middle_it_is_trained_and_saved(folder: Path) -> None:
    """Each checkpoint holds it as it was; a resume takes up both. Frozen again, it is linked again."""

    def made() -> tuple[Adapted, torch.optim.Optimizer]:
        model, _ = adapted()
        return model, torch.optim.AdamW(model.parameters(), 1e-2)

    def act(number: int, model: Adapted) -> None:
        if number in (4, 7):
            model.base.requires_grad_(number == 4)

    recorded(folder, 11, act, made=made)
    # What is linked: frozen, twice digested in full, and not changed since.
    assert linked(folder) == [False, False, True] + [False] * 3 + [False, False] + [True] * 3
    assert not (folder / History(folder).checkpoints[4] / FROZEN).exists()
    assert len({bases(folder, number).sum().item() for number in (3, 4, 5, 6)}) == 4
    assert same(bases(folder, 7), bases(folder, 6))


def test_a_write_that_torch_does_not_notice_is_found_by_the_tenth_save(folder: Path) -> None:
    """One element, through ``.data``: the checkpoints until then hold the older bytes, and that is said."""

    def act(number: int, model: Adapted) -> None:
        if number == 5:
            model.base.weight.data[5, 7] += 1.0

    with pytest.warns(HoldfastWarning, match="frozen tensors of model were changed") as caught:
        model = adapt(folder, WHOLE_EVERY + 5, act)
    assert len(caught) == 1
    history = History(folder)
    whole = history.checkpoints[WHOLE_EVERY + 1]
    said = str(caught[0].message)
    assert said.startswith(f"{whole}: ")
    assert f"{FROZEN} is not what it was in {history.checkpoints[1]}" in said
    assert "The 9 saves between them may hold the older bytes" in said
    assert [line["message"] for line in history.events("save_note")] == [said]
    history.verify_all()
    before = adapted()[0].base.weight
    assert all(same(bases(folder, number), before) for number in range(1, WHOLE_EVERY + 2))
    assert all(same(bases(folder, number), model.base.weight) for number in range(WHOLE_EVERY + 2, WHOLE_EVERY + 6))
    assert linked(folder)[WHOLE_EVERY + 1 :] == [False] * 4


def averages() -> tuple[Any, Any]:
    """A model with an average of itself that is kept through ``.data``, in an item of its own."""
    torch.manual_seed(1)
    return nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH).requires_grad_(False)


def test_an_average_that_is_kept_through_data_is_never_trusted(folder: Path) -> None:
    """It looks frozen. Not even where two saves hold the same boundary, and so the same average."""
    model, average = averages()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    values: list[torch.Tensor] = []
    state = {"model": model, "average": average, "optimizer": optimizer}
    with Run(folder, state, save=Every(batches=1) | Every(epochs=1), keep=KeepLast(99)) as run:
        for _ in run.epochs(4):
            for inputs in run.batches([torch.ones(1, WIDTH)] * 2):
                run.wait()
                model(inputs).square().mean().backward()
                optimizer.step()
                for one, other in zip(average.parameters(), model.parameters(), strict=True):
                    one.data.mul_(0.9).add_(other.data, alpha=0.1)
                values.append(average.weight.clone())
    saved = History(folder).events("saved")
    assert {line["linked"] for line in saved} == {0}
    for line in saved:
        loaded = nn.Linear(WIDTH, WIDTH)
        Checkpoint.open(folder / line["name"]).load_into(average=loaded)
        assert same(loaded.weight, values[line["step"] - 1])


def test_two_folders_link_each_to_its_own(tmp_path: Path, copies: list[int]) -> None:
    """One copy into the arena does for both; what one folder lacks is written there."""
    savers = [
        Saver(tmp_path / place, save=Every(batches=1), keep=KeepLast(keep)) for place, keep in (("a", 9), ("b", 2))
    ]
    adapt(tmp_path / "a", 7, savers=savers)
    assert copies == [BASE] * 2
    assert (inodes(tmp_path / "a"), inodes(tmp_path / "b")) == ([0, 1, 0, 1, 0, 1, 0], [0, 1])
    assert not {one.st_ino for one in _stats(tmp_path / "a")} & {one.st_ino for one in _stats(tmp_path / "b")}


def _stats(folder: Path) -> Iterator[os.stat_result]:
    return (path.stat() for path in folder.glob(f"*/{FROZEN}"))


def test_savers_that_come_at_different_times_copy_and_still_link(tmp_path: Path, copies: list[int]) -> None:
    """The place in the arena is another one when both come, so it is copied; its digest is known all the same."""
    savers = [
        Saver(tmp_path / "a", save=Every(batches=1), keep=KeepLast(99)),
        Saver(tmp_path / "b", save=Every(batches=3), keep=KeepLast(99), items=["model"]),
    ]
    adapt(tmp_path / "a", 9, savers=savers)
    own = [line["linked"] > 0 for line in History(tmp_path / "a").events("saved") if line["folder"].endswith("a")]
    assert own == [False] * 2 + [True] * 7
    assert inodes(tmp_path / "b")[:3] == [0, 1, 0]


@pytest.mark.parametrize(("keep", "copies_there"), [(1, 1), (2, 2), (3, 2)])
def test_two_copies_stay_whatever_retention_deletes(folder: Path, keep: int, copies_there: int) -> None:
    """As long as there is more than one checkpoint."""
    found: list[list[int]] = []
    adapt(folder, 8, lambda *_: found.append(inodes(folder)), keep=KeepLast(keep))
    found.append(inodes(folder))
    assert [len(set(one)) for one in found[keep:]] == [copies_there] * (9 - keep)
    assert all(len(set(one)) == min(len(one), 2) for one in found)
    events = History(folder).events("saved")
    assert [line["linked"] > 0 for line in events][2:] == [True] * 6


def test_a_restart_writes_it_once_more_and_then_links(folder: Path, copies: list[int]) -> None:
    """Memory is new, so all of it is looked at once: what the checkpoint holds is the other half of the proof."""

    def crash(number: int, model: Adapted) -> None:
        if number == 5:
            raise RuntimeError("crash")

    with pytest.raises(RuntimeError, match="crash"):
        adapt(folder, 8, crash)
    copies.clear()
    twin = adapted()[0].base.weight
    assert same(adapt(folder, 8).base.weight, twin)
    assert len(copies) == 1
    assert linked(folder)[4:] == [False] + [True] * 3
    History(folder).verify_all()


def test_what_streams_through_a_small_arena_is_written_each_time(folder: Path) -> None:
    """Its bytes stay nowhere, so there is nothing to fall back on but writing."""

    def large() -> tuple[Any, Any]:
        model, optimizer = adapted()
        model.more = nn.Linear(3000, 3000, bias=False).requires_grad_(False)
        return model, optimizer

    adapt(folder, 4, made=large, arena="20 MiB")
    assert {line["linked"] for line in History(folder).events("saved")} == {0}
    History(folder).verify_all()


def test_what_streamed_through_the_arena_is_not_what_lay_there(folder: Path, writer_fault: Any) -> None:
    """A state that is too large for a while goes over all of it; where nothing can be linked, that would be written."""
    writer_fault(action="error", function="link", errno=errno.EPERM, times=99)

    def act(number: int, model: Adapted) -> None:
        if number in (3, 4, 8, 9):
            model.large = nn.Parameter(torch.zeros(6 << 20)) if number in (3, 8) else None

    recorded(folder, 12, act, arena="20 MiB")


def test_a_state_that_grows_takes_a_new_arena_and_loses_nothing(folder: Path, copies: list[int]) -> None:
    """What is known stays known; it is copied once more, into the new memory."""
    model, optimizer = adapted()
    history: dict[str, Any] = {}
    with Run(folder, {"model": model, "optimizer": optimizer, "history": history}, save=Every(batches=1)) as run:
        for _ in run.epochs(1):
            for inputs in run.batches([torch.ones(2, WIDTH)] * 6):
                if run.progress.batch == 3:
                    history["large"] = torch.ones(1 << 20)
                model(inputs).square().mean().backward()
                optimizer.step()
                optimizer.zero_grad()
                run.wait()
    assert len(copies) == 3
    assert linked(folder) == [False] * 2 + [True] * 4
    History(folder).verify_all()


def test_a_save_in_a_hurry_is_not_the_one_that_writes_everything(folder: Path) -> None:
    """A deadline was promised by what saves have taken until now."""
    hold = Saves.hold

    def hurried(self: Saves, *arguments: Any, **options: Any) -> Any:
        for schedule in self.schedules:
            schedule.urgent = self._ordinal + 1 == WHOLE_EVERY + 2
        return hold(self, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Saves, "hold", hurried)
        adapt(folder, WHOLE_EVERY + 4)
    assert linked(folder) == [False] * 2 + [True] * WHOLE_EVERY + [False, True]


def test_a_linked_checkpoint_is_complete_by_itself(folder: Path, tmp_path: Path) -> None:
    """A plain copy of its directory verifies and loads, wherever it is; each file is plain safetensors."""
    model = adapt(folder, 4)
    name = History(folder).checkpoints[-1]
    assert os.stat(folder / name / FROZEN).st_nlink == 2
    copy = tmp_path / "elsewhere" / name
    shutil.copytree(folder / name, copy)
    shutil.rmtree(folder)
    checkpoint, loaded = Checkpoint.open(copy), adapted()[0]
    nn.init.zeros_(loaded.base.weight)
    checkpoint.verify(tampering=True)
    checkpoint.load_into(model=loaded)
    assert same(loaded.base.weight, model.base.weight)
    assert same(loaded.head.weight, model.head.weight)
    assert set(safetensors.torch.load_file(copy / FROZEN)) == {"base.weight"}


def test_weights_that_are_brought_back_are_saved(folder: Path) -> None:
    """`load_into` reads straight into memory, past what torch notices: what it has read is what is saved then."""
    other = folder.parent / "other"
    adapt(other, 1, lambda number, model: in_place(model))
    best = holdfast.latest(other)
    assert best is not None
    recorded(folder, 8, lambda number, model: best.load_into(model=model) if number == 5 else None)


def test_the_forecast_counts_what_is_linked_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The 64 saves that it looks ahead fit, though their sizes together do not."""
    monkeypatch.setattr(LocalStorage, "free", lambda self: 40 * LINKED)
    adapt(folder, 9)
    sizes = [line["bytes"] for line in History(folder).events("saved")]
    assert 64 * min(sizes) > 60 * LINKED


def test_held_snapshots_never_reached_the_writer(folder: Path) -> None:
    """A snapshot that was only held has copied other bytes: the next one does not take them for its own."""
    seen: list[Persist] = []

    def act(number: int, model: Adapted) -> None:
        if number == 5:
            in_place(model)
            session = run_of[0]._session
            held = session.saves.hold(*arguments[-1], begin=False)
            seen.append(held.persist)
            with torch.no_grad():
                model.base.weight.mul_(0.5)

    run_of: list[Run] = []
    arguments: list[Any] = []
    original, begin = Saves.hold, Run.__enter__

    def noted(self: Saves, content: Any, firing: Any, here: Any, **options: Any) -> Any:
        arguments.append((content, firing, here))
        return original(self, content, firing, here, **options)

    def entered(self: Run) -> Run:
        run_of.append(self)
        return begin(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Saves, "hold", noted)
        patch.setattr(Run, "__enter__", entered)
        recorded(folder, 8, act)
    assert len(seen) == 1


def test_a_last_save_that_found_other_bytes_is_made_once_more(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No boundary comes behind it that could be saved in its place."""
    hear, failed = Saves._hear, []

    def once(self: Saves, outcome: Any) -> None:
        last = self._under_way is not None and self._under_way.progress.epoch == 1
        if last and not failed:
            failed.append(outcome.name)
            outcome = Failed(
                ordinal=outcome.ordinal, folder=outcome.folder, name=outcome.name, message="other bytes", again=True
            )  # fmt: skip
        hear(self, outcome)

    monkeypatch.setattr(Saves, "_hear", once)
    with pytest.warns(HoldfastWarning, match="other bytes"):
        adapt(folder, 3, save=AtEnd())
    first, again = History(folder).checkpoints
    assert failed == [first]
    assert again == "step-00000003.a0001.n0002"
