"""What of a frozen parameter is seen to change, and what is frozen at all."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from holdfast import Run, latest
from holdfast.state.array import ArraySource
from holdfast.state.torch.frozen import _steps
from holdfast.state.torch.tensor import TensorSource

SIZE = 100


def frozen(*shape: int, **options: Any) -> nn.Parameter:
    torch.manual_seed(1)
    return nn.Parameter(torch.randn(*(shape or (SIZE, SIZE)), **options), requires_grad=False)


def seen(parameter: torch.Tensor) -> object:
    source = TensorSource(parameter, "p")
    assert source.frozen
    return source.seen()


class Packed(nn.Parameter):
    """A parameter of a class of its own, as those of quantized models are."""


def thawed() -> nn.Parameter:
    return nn.Parameter(torch.zeros(3))


def with_a_gradient() -> nn.Parameter:
    """Frozen after a backward pass: the next step still changes it."""
    parameter = thawed()
    parameter.grad = torch.ones(3)
    return parameter.requires_grad_(False)


def without_a_counter() -> nn.Parameter:
    with torch.inference_mode():
        return nn.Parameter(torch.zeros(3), requires_grad=False)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (frozen, True),
        (lambda: Packed(torch.zeros(3, dtype=torch.uint8), requires_grad=False), True),
        (lambda: frozen(0), True),
        (thawed, False),
        (with_a_gradient, False),
        (without_a_counter, False),
        (lambda: torch.zeros(3), False),  # a buffer, or what an optimizer keeps
    ],
)
def test_parameters_without_a_gradient_that_get_none_are_frozen(
    make: Callable[[], torch.Tensor], expected: bool
) -> None:
    """Buffers change in forward passes, and what an optimizer keeps in each step, though they need no gradient."""
    assert TensorSource(make(), "p").frozen is expected


def test_arrays_are_not_frozen() -> None:
    """Nobody could tell, and what is seen of one equals nothing."""
    numpy = pytest.importorskip("numpy")
    source = ArraySource(numpy.zeros(3), "a")
    assert not source.frozen
    assert source.seen() != source.seen()


@pytest.mark.parametrize(
    "make",
    [
        frozen,
        lambda: frozen(0),
        lambda: frozen(1),
        lambda: frozen(3),
        lambda: nn.Parameter(torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last), requires_grad=False),
        lambda: nn.Parameter(torch.randn(9, 9).T[::2, 1::3], requires_grad=False),
        lambda: nn.Parameter(torch.randn(1).expand(5, 5), requires_grad=False),
        lambda: Packed(torch.zeros(300, dtype=torch.uint8), requires_grad=False),
    ],
)
def test_what_nobody_changes_is_seen_to_be_the_same(make: Callable[[], nn.Parameter]) -> None:
    """Whatever its layout; also by forward passes, and by an optimizer that has it and no gradient for it."""
    parameter = make()
    before = seen(parameter)
    optimizer = torch.optim.AdamW([parameter], weight_decay=0.5)
    optimizer.step()
    parameter.sum()
    assert seen(parameter) == before


def in_place(parameter: nn.Parameter) -> None:
    parameter[3, 5] = 7.0


def by_an_operation(parameter: nn.Parameter) -> None:
    parameter.mul_(1.0)


def through_a_view(parameter: nn.Parameter) -> None:
    parameter.view(-1)[:3].zero_()


def by_load_state_dict(parameter: nn.Parameter) -> None:
    module = nn.Module()
    module.weight = parameter
    module.load_state_dict({"weight": torch.zeros(SIZE, SIZE)})


def all_of_it_behind_torchs_back(parameter: nn.Parameter) -> None:
    parameter.data.add_(1.0)


def all_of_it_by_numpy(parameter: nn.Parameter) -> None:
    parameter.numpy()[:] = 0


def by_other_data(parameter: nn.Parameter) -> None:
    parameter.data = parameter.data.clone()


def by_other_data_at_the_same_address(parameter: nn.Parameter) -> None:
    """The allocator gives the memory out again as soon as it is free."""
    address = parameter.data_ptr()
    held = []
    while True:
        values = parameter.data.clone()
        parameter.data = torch.empty(0)
        parameter.data = values
        if parameter.data_ptr() == address or len(held) > 100:
            break
        held.append(values)


def by_a_step_that_moves_no_version(parameter: nn.Parameter) -> None:
    """Thawed, trained by a fused optimizer, and frozen again, all between two saves."""
    version = parameter._version
    optimizer = torch.optim.AdamW([parameter], weight_decay=0.0, fused=True)
    parameter.requires_grad_(True)
    parameter.grad = torch.zeros_like(parameter)
    parameter.grad[SIZE // 2, 1] = 1.0
    optimizer.step()
    optimizer.zero_grad()
    parameter.requires_grad_(False)
    assert parameter._version == version


@pytest.mark.parametrize(
    "change",
    [
        in_place, by_an_operation, through_a_view, by_load_state_dict, all_of_it_behind_torchs_back, all_of_it_by_numpy,
        by_other_data, by_other_data_at_the_same_address, by_a_step_that_moves_no_version,
    ],
)  # fmt: skip
@torch.no_grad()
def test_a_change_is_seen(change: Callable[[nn.Parameter], object]) -> None:
    """Whatever changes it; the last two and what goes through ``.data`` move no version counter."""
    parameter = frozen()
    before = seen(parameter)
    change(parameter)
    assert seen(parameter) != before


def test_another_parameter_in_its_place_is_seen() -> None:
    """Also one of the same values."""
    parameter = frozen()
    before = seen(parameter)
    assert seen(copy.deepcopy(parameter)) != before


def test_what_is_read_from_a_checkpoint_is_seen(tmp_path: Path) -> None:
    """It goes straight into the memory of the parameter, past its version counter, also if the load fails midway."""
    parameter = frozen()
    with Run(tmp_path / "run", {"weight": parameter}) as run:
        run.save()
    checkpoint = latest(tmp_path / "run")
    assert checkpoint is not None
    before = seen(parameter)
    checkpoint.load_into(weight=parameter)
    after = seen(parameter)
    assert after != before
    file = checkpoint.path / "weight.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(ValueError, match="not the ones that were committed"):
        checkpoint.load_into(weight=parameter)
    assert seen(parameter) != after


def test_a_step_of_another_parameter_is_none_of_this_one() -> None:
    """An optimizer that has both, as most do that are given all parameters of a model."""
    parameter, other = frozen(), thawed()
    before = seen(parameter)
    optimizer = torch.optim.SGD([parameter, other], lr=0.1, fused=True)
    other.grad = torch.ones(3)
    optimizer.step()
    assert seen(parameter) == before


def test_a_step_counts_whose_gradients_come_or_go_within_it() -> None:
    """They come in a closure, or a hook behind the step drops them: a fused step moves no version counter."""
    parameter = torch.nn.Parameter(torch.ones(4))

    def count() -> int:
        return _steps.of(parameter, parameter)[0]

    before = count()
    dropping = torch.optim.AdamW([parameter], fused=True)
    dropping.register_step_post_hook(lambda optimizer, *_: optimizer.zero_grad())
    parameter.grad = torch.ones(4)
    dropping.step()
    assert count() == before + 1

    def closure() -> torch.Tensor:
        (loss := parameter.square().sum()).backward()
        return loss

    torch.optim.SGD([parameter]).step(closure)
    assert count() == before + 2
    parameter.requires_grad_(False).grad = None
    dropping.step()
    assert count() == before + 2
