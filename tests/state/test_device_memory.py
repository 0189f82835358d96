"""What lies on a device is read to it block by block, through memory that it reaches by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from holdfast import CorruptError, Run, checkpoints, latest
from holdfast.format.dtypes import DTYPES
from holdfast.state.torch import device_memory
from tests.damage import flip
from tests.harness.late_device import LateDevice

PLACES = [
    "late",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")),
]


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "cuda":
        return "cuda"
    monkeypatch.setattr(device_memory, "accelerator", LateDevice())
    return "cpu"


def tensors(device: str) -> dict[str, torch.Tensor]:
    """Every dtype that this torch has; longer than a block, not dense, tied, empty, of one element, very many."""
    generator = torch.Generator().manual_seed(0)

    def raw(size: int) -> torch.Tensor:
        return torch.randint(0, 2, (size * 16,), dtype=torch.uint8, generator=generator)

    dtypes = [getattr(torch, name) for name in DTYPES if hasattr(torch, name)]
    found = {str(dtype): raw(33).view(dtype).to(device) for dtype in dtypes}
    found["long"] = torch.rand(3_000_001, generator=generator).to(device)
    found["tied"] = found["long"]
    found["strided"] = torch.rand(401, 3, 203, generator=generator).to(device)[:, 1]
    found["transposed"] = torch.rand(300, 401, generator=generator).to(device).t()
    found["empty"] = torch.empty(0, 3, device=device)
    found["one"] = torch.rand((), generator=generator).to(device)
    return found | {f"small/{number}": torch.rand(7, generator=generator).to(device) for number in range(200)}


def saved(folder: Path, state: dict[str, Any]) -> None:
    with Run(folder, {"state": state}) as run:
        run.save()
        run.wait()


def image(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(-1).view(torch.uint8)


@pytest.mark.filterwarnings("ignore:ComplexHalf support")
def test_all_kinds_of_tensors_come_back_bit_for_bit(tmp_path: Path, place: str) -> None:
    """Straight to the device where they lie there in one stretch, and by way of the host where not."""
    state = tensors(place)
    wanted = {name: image(one).clone() for name, one in state.items()}
    saved(tmp_path / "run", state)
    for one in state.values():
        (one.view(torch.uint8) if one.dim() == 1 else one).zero_()  # of four bits, torch cannot make zeros on a device
    latest(tmp_path / "run").load_into(state=state)
    assert [name for name in wanted if not torch.equal(image(state[name]), wanted[name])] == []
    if isinstance(device_memory.accelerator, LateDevice):
        assert device_memory.accelerator.filled >= 12_000_004


def test_what_an_optimizer_keeps_is_read_to_where_its_parameters_are(tmp_path: Path, place: str) -> None:
    """Its count of steps stays where torch wants it; the moments of low precision keep their own."""
    results = []
    for fused in (False, True):
        torch.manual_seed(0)
        model = torch.nn.Linear(64, 64, device=place, dtype=torch.bfloat16)
        optimizer = torch.optim.AdamW(model.parameters(), fused=fused)
        model(torch.ones(1, 64, device=place, dtype=torch.bfloat16)).sum().backward()
        optimizer.step()
        for kept in optimizer.state.values():
            kept["exp_avg"] = kept["exp_avg"].float() + 1e-4
        folder = tmp_path / str(fused)
        with Run(folder, {"model": model, "optimizer": optimizer}) as run:
            run.save()
            run.wait()
        fresh = torch.optim.AdamW(model.parameters(), fused=fused)
        latest(folder).load_into(model=model, optimizer=fresh)
        results.append((optimizer, fresh))
    for optimizer, fresh in results:
        for parameter, kept in optimizer.state.items():
            for name, one in kept.items():
                found = fresh.state[parameter][name]
                assert (found.dtype, found.device) == (one.dtype, one.device), name
                assert torch.equal(found, one), name


def test_damage_is_found_before_a_block_reaches_the_device(tmp_path: Path, place: str) -> None:
    """The digest is that of the block in the host's memory."""
    state = {"long": torch.rand(3_000_001).to(place)}
    saved(tmp_path / "run", state)
    [file] = (tmp_path / "run").glob("step-*/state.safetensors")
    flip(file, file.stat().st_size - 100)
    state["long"].zero_()
    [checkpoint] = checkpoints(tmp_path / "run")
    with pytest.raises(CorruptError, match=r"bytes 8,388,608 to .* are not the ones"):
        checkpoint.load_into(state=state)
    assert not state["long"][-100_000:].any()
