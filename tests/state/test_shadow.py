"""What is remembered of the buffers at a boundary."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from holdfast.state.torch.shadow import Shadow

BUFFERS = {
    "plain": lambda: torch.randn(4, 5),
    "transposed": lambda: torch.randn(4, 5).t(),
    "conjugate": lambda: torch.randn(4, 5, dtype=torch.complex64).conj(),
    "negative": lambda: torch.randn(4, 5, dtype=torch.complex64).conj().imag,
    "without_elements": lambda: torch.randn(0, 5),
}


@pytest.mark.parametrize("kind", list(BUFFERS))
def test_a_buffer_of_any_layout_is_put_back_as_it_was_at_the_last_mark(kind):
    """For as long as it is being saved; then it is again as it is now."""
    model = nn.Module()
    model.register_buffer("mean", BUFFERS[kind]())
    shadow = Shadow({"model": model})
    for _ in range(3):
        model.mean.add_(1)
        shadow.mark()
    marked = model.mean.clone()
    model.mean.mul_(2)
    changed = model.mean.clone()
    assert shadow.unchanged()
    with shadow.put_back():
        assert torch.equal(model.mean, marked)
    assert torch.equal(model.mean, changed)


@pytest.mark.parametrize("length", [4, 6, 3])
def test_a_buffer_that_is_given_other_memory_is_read_there(length):
    """The same tensor, whose data was exchanged, of the same shape or another."""
    model = nn.Module()
    model.register_buffer("mean", torch.zeros(4))
    shadow = Shadow({"model": model})
    shadow.mark()
    model.mean.data = torch.ones(length)
    shadow.mark()
    shadow.mark()
    model.mean.add_(1)
    assert shadow.unchanged()
    with shadow.put_back():
        assert torch.equal(model.mean, torch.ones(length))


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
def test_a_scripted_module_is_watched_like_any_other():
    """It keeps what it has in tables of its own."""
    model = torch.jit.script(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))
    shadow = Shadow({"model": model})
    shadow.mark()
    mean = model.state_dict()["1.running_mean"].clone()
    model(torch.randn(4, 2))
    assert shadow.unchanged()
    with shadow.put_back():
        assert torch.equal(model.state_dict()["1.running_mean"], mean)
    assert not torch.equal(model.state_dict()["1.running_mean"], mean)
    with torch.no_grad():
        model.state_dict()["0.weight"].add_(1)
    assert not shadow.unchanged()
