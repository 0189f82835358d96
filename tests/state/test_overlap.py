"""What shares its memory here and not in the checkpoint, and the other way round."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from holdfast import Checkpoint, MisfitError, Run, latest


class Pair(nn.Module):
    def __init__(self, width: int = 4, *, tied: bool = False) -> None:
        super().__init__()
        self.first = nn.Linear(width, width, bias=False)
        self.second = nn.Linear(width, width, bias=False)
        if tied:
            self.second.weight = self.first.weight


class Buffer(nn.Module):
    def __init__(self, x: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("x", x)


@pytest.fixture
def checkpoint(tmp_path):
    def saved(**state) -> Checkpoint:
        with Run(tmp_path / "run", state) as run:
            run.save()
        newest = latest(tmp_path / "run")
        assert newest is not None
        return newest

    return saved


def test_the_best_weights_so_far_may_begin_as_those_of_the_model(checkpoint):
    """A script keeps `model.state_dict()` at its start, the model's own memory, and copies later on."""
    model = nn.Linear(4, 4)
    best = {name: one + 1 for name, one in model.state_dict().items()}
    newest = checkpoint(model=model, best=best)

    fresh = nn.Linear(4, 4)
    weight, kept = fresh.weight, dict(fresh.state_dict())
    newest.load_into(model=fresh, best=kept)

    assert fresh.weight is weight
    assert all(torch.equal(one, model.state_dict()[name]) for name, one in fresh.state_dict().items())
    assert all(torch.equal(one, best[name]) for name, one in kept.items())


def test_they_share_the_memory_again_if_they_did_when_they_were_saved(checkpoint):
    """What was tied stays tied."""
    model = nn.Linear(4, 4)
    newest = checkpoint(model=model, best=dict(model.state_dict()))

    fresh = nn.Linear(4, 4)
    kept = dict(fresh.state_dict())
    newest.load_into(model=fresh, best=kept)

    assert torch.equal(fresh.weight, model.weight)
    assert kept["weight"].data_ptr() == fresh.weight.data_ptr()


def test_what_is_trained_keeps_its_memory_and_a_view_of_it_gives_way(checkpoint):
    """Also within one container, and for the state of an optimizer."""
    weight = nn.Parameter(torch.randn(5))
    optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
    weight.sum().backward()
    optimizer.step()
    state = {"weight": weight, "best": weight.detach() + 1}
    newest = checkpoint(state=state, optimizer=optimizer, velocity={"it": torch.full((5,), 9.0)})

    fresh = nn.Parameter(torch.zeros(5))
    other = torch.optim.SGD([fresh], lr=0.1, momentum=0.9)
    fresh.sum().backward()
    other.step()
    loaded = {"weight": fresh, "best": fresh.detach()}
    velocity = {"it": other.state[fresh]["momentum_buffer"]}
    newest.load_into(state=loaded, optimizer=other, velocity=velocity)

    assert loaded["weight"] is fresh
    assert torch.equal(fresh, weight)
    assert torch.equal(loaded["best"], state["best"])
    assert torch.equal(other.state[fresh]["momentum_buffer"], torch.ones(5))
    assert torch.equal(velocity["it"], torch.full((5,), 9.0))


def test_what_was_not_tied_is_not_read_into_one_memory_by_two_threads(checkpoint):
    """Neither a mixture of both nor an error that calls the files damaged: a refusal, and nothing is changed."""
    newest, tied = checkpoint(model=Pair(2048)), Pair(2048, tied=True)
    before = tied.first.weight.detach().clone()
    for _ in range(5):
        with pytest.raises(MisfitError, match="nothing was changed") as caught:
            newest.load_into(model=tied)
        assert [one.partition(":")[0] for one in caught.value.problems] == ["model/first.weight"]
        assert torch.equal(tied.first.weight, before)


def test_what_is_tied_here_takes_equal_values(checkpoint):
    """A copy of a tied model may have been saved."""
    model, tied = Pair(), Pair(tied=True)
    with torch.no_grad():
        model.second.weight.copy_(model.first.weight)
    checkpoint(model=model).load_into(model=tied)
    assert torch.equal(tied.first.weight, model.first.weight)
    assert tied.second.weight is tied.first.weight


@pytest.mark.parametrize(
    "make",
    [lambda: torch.zeros(3).expand(4, 3), lambda: torch.zeros(10).as_strided((4, 3), (1, 1))],
    ids=["expanded", "overlapping"],
)
def test_a_tensor_that_overlaps_itself_takes_only_what_it_can_hold(checkpoint, make):
    """Torch refuses to load different elements into one place; a dict gets a tensor that can hold them."""
    newest = checkpoint(module=Buffer(torch.randn(4, 3)), dict={"x": torch.arange(12.0).view(4, 3)})
    module, values = Buffer(make()), {"x": make()}
    with pytest.raises(MisfitError, match="nothing was changed"):
        newest.load_into(module=module)
    assert not module.x.any()
    newest.load_into(dict=values)
    assert torch.equal(values["x"], torch.arange(12.0).view(4, 3))


def test_views_of_a_part_stay_views(checkpoint):
    """What is stored of a tensor and of a view of it goes into both; if it contradicts itself, it is refused."""
    whole = torch.arange(10.0)
    newest = checkpoint(state={"whole": whole, "part": whole[2:5]}, apart={"whole": whole, "part": torch.ones(3)})
    array = np.zeros(10)
    fresh = torch.from_numpy(array).float()
    state = {"whole": fresh, "part": fresh[2:5]}
    newest.load_into(state=state)
    assert torch.equal(fresh, whole)
    assert state["part"].data_ptr() == fresh[2:].data_ptr()
    fresh.zero_()
    with pytest.raises(MisfitError, match="shares its memory here with apart"):
        newest.load_into(apart=state)
    assert not fresh.any()


def test_arrays_that_share_their_memory_get_their_own_values(checkpoint):
    """Of numpy, or one of numpy and one of torch."""
    newest = checkpoint(state={"a": np.arange(5.0), "b": np.arange(5.0) + 7, "c": torch.ones(5, dtype=torch.float64)})
    array = np.zeros(5)
    state = {"a": array, "b": array[:], "c": torch.from_numpy(array)}
    newest.load_into(state=state)
    assert np.array_equal(state["a"], np.arange(5.0))
    assert np.array_equal(state["b"], np.arange(5.0) + 7)
    assert torch.equal(state["c"], torch.ones(5, dtype=torch.float64))
