"""Tensors of every kind go through a run and back bit for bit, or are refused by name in a save that fails alone."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from holdfast import Every, HoldfastWarning, KeepAll, OnError, Run, SaveError, checkpoints, latest
from holdfast.format.dtypes import DTYPES
from tests.harness.history import History

pytestmark = pytest.mark.filterwarnings("ignore:ComplexHalf")

Make = Callable[[int], torch.Tensor]
"""Given about how many bytes."""


def some(name: str, size: int) -> torch.Tensor:
    """Any bits of a dtype, in rows of six elements."""
    dtype = getattr(torch, name)
    rows = max(4, size // (6 * torch.empty(0, dtype=dtype).element_size()))
    raw = torch.randint(0, 2 if dtype == torch.bool else 256, (rows, 6 * torch.empty(0, dtype=dtype).element_size()))
    return raw.to(torch.uint8).view(dtype)


def complex64(size: int) -> torch.Tensor:
    return some("complex64", size)


KINDS: dict[str, Make] = {
    **{name: lambda size, name=name: some(name, size) for name in DTYPES},
    **{f"{name}_transposed": lambda size, name=name: some(name, size).t() for name in DTYPES},
    **{f"{name}_strided": lambda size, name=name: some(name, 3 * size)[::3] for name in DTYPES},
    **{f"{name}_expanded": lambda size, name=name: some(name, 24)[:1].expand(max(4, size // 24), 6) for name in DTYPES},
    "conjugate": lambda size: complex64(size).conj(),
    "conjugate_transposed": lambda size: complex64(size).mH,
    "conjugate_of_halves": lambda size: some("complex32", size).conj(),
    "negative": lambda size: complex64(2 * size).conj().imag,
    "real_part": lambda size: complex64(2 * size).real,
    "as_real": lambda size: torch.view_as_real(complex64(size)),
    "channels_last": lambda size: torch.randn(max(2, size // 240), 3, 4, 5).to(memory_format=torch.channels_last),
    "middle": lambda size: torch.randn(max(20, size // 4))[7:-7],
    "unaligned": lambda size: torch.randint(0, 256, (max(9, size),), dtype=torch.uint8)[1:],
    "windows": lambda size: torch.randn(max(9, size // 12)).unfold(0, 3, 1),
    "diagonal": lambda size: torch.randn(5, 5).diagonal(),
    "one_element_repeated": lambda size: torch.tensor(2.5).expand(3, max(4, size // 12)),
    "empty": lambda size: torch.empty(0, 3),
    "empty_transposed": lambda size: torch.empty(3, 0, 2).permute(2, 0, 1),
    "empty_expanded": lambda size: torch.empty(1, 0).expand(5, 0),
    "without_axes": lambda size: torch.randn(()),
    "one_of_many": lambda size: torch.randn(5)[2],
}  # fmt: skip


def tensors(seed: int, size: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return {name: make(size) for name, make in KINDS.items()}


class Holder(nn.Module):
    """Has each kind that a parameter can be as one, all others as buffers, and two parameters that are tied."""

    def __init__(self, seed: int, size: int) -> None:
        super().__init__()
        for name, tensor in tensors(seed, size).items():
            if tensor.is_floating_point() and tensor.element_size() > 1:
                self.register_parameter(f"a_{name}", nn.Parameter(tensor))
            else:
                self.register_buffer(f"a_{name}", tensor)
        self.tied = self.get_parameter("a_float32_transposed")


def bits(tensor: torch.Tensor) -> torch.Tensor:
    tensor = tensor.detach().resolve_conj().resolve_neg()
    # Torch has no copy between layouts for four bits.
    tensor = tensor.view(torch.uint8) if tensor.element_size() == 1 else tensor
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def assert_same(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape), name
        assert torch.equal(bits(found[name]), bits(tensor)), name


SIZES = {"whole": (100, None), "streamed": (200_000, "17 MiB")}
"""Bytes of a tensor, and of the arena: each of its pieces begins somewhere in one of them."""


@pytest.fixture(scope="module", params=list(SIZES))
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """A run folder with one checkpoint of all kinds, in a dict and in a module; the bytes of each tensor."""
    (size, arena), folder = SIZES[request.param], tmp_path_factory.mktemp("kinds") / "run"
    with Run(folder, {"dict": tensors(0, size), "module": Holder(0, size)}, arena=arena) as run:
        run.save()
        run.wait()
    assert bool(History(folder).events("streams")) == (request.param == "streamed")
    latest(folder).verify(tampering=True)  # type: ignore[union-attr]
    return folder, size


def nothing(size: int) -> dict[str, torch.Tensor]:
    return {}


def straight(size: int) -> dict[str, torch.Tensor]:
    return {name: torch.empty(one.shape, dtype=one.dtype) for name, one in tensors(1, size).items()}


def alike(size: int) -> dict[str, torch.Tensor]:
    return tensors(1, size)


@pytest.mark.parametrize("fresh", [nothing, straight, alike])
def test_every_kind_comes_back_into_a_dict(saved: tuple[Path, int], fresh: Any) -> None:
    """As a new tensor, into one that lies straight in memory, and into a view like the one that was saved."""
    folder, size = saved
    found = fresh(size)
    latest(folder).load_into(dict=found)
    assert_same(found, tensors(0, size))


def test_every_kind_comes_back_into_a_module(saved: tuple[Path, int]) -> None:
    """Parameters and buffers stay where they are, whatever they look like, and what was tied is."""
    folder, size = saved
    found = Holder(1, size)
    places = [one.data_ptr() for one in (*found.parameters(), *found.buffers())]
    latest(folder).load_into(module=found)
    assert_same(found.state_dict(), Holder(0, size).state_dict())
    assert places == [one.data_ptr() for one in (*found.parameters(), *found.buffers())]
    assert found.tied is found.a_float32_transposed


def test_tensors_made_in_inference_mode_are_saved(tmp_path: Path) -> None:
    """A teacher that was loaded so, and predictions that are kept: their changes are not counted, nor looked for."""
    with torch.inference_mode():
        teacher, predictions = nn.Linear(3, 2), torch.randn(5).expand(2, 5)
    history = {"predictions": predictions}
    with Run(tmp_path / "run", {"teacher": teacher, "history": history}, save=Every(batches=2)) as run:
        for _ in run.epochs(1):
            for _ in run.batches(range(4)):
                run.wait()
    again, found = nn.Linear(3, 2), dict[str, Any]()
    latest(tmp_path / "run").load_into(teacher=again, history=found)
    assert torch.equal(again.weight, teacher.weight)
    assert torch.equal(found["predictions"], predictions)


class Shares:
    """Tensors that show one memory in many ways, in two items."""

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        self.base = torch.randn(40_000)
        self.module = nn.Linear(100, 100, bias=False)
        self.views = {
            "base": self.base,
            "the_same": self.base,
            "alike": self.base[:],
            "first": self.base[:30_000],
            "last": self.base[10_000:],
            "apart": [self.base[:100], self.base[100:200]],
            "square": self.base.view(200, 200),
            "turned": self.base.view(200, 200).t(),
            "even": self.base[::2],
            "bytes": self.base.view(torch.uint8),
            "weight": self.module.weight,
            "row": self.module.weight.detach()[3],
            "turned_weight": self.module.weight.detach().t(),
        }

    @property
    def state(self) -> dict[str, Any]:
        return {"module": self.module, "views": self.views}

    def values(self) -> list[torch.Tensor]:
        flat = [part for one in self.views.values() for part in (one if isinstance(one, list) else [one])]
        return [one.detach().clone() for one in (self.base, self.module.weight, *flat)]


def test_tensors_that_share_their_memory_come_back_sharing_it(tmp_path: Path) -> None:
    """Overlapping or not, of another shape or another dtype, in another item; what is the same is stored once."""
    shares, fresh = Shares(0), Shares(1)
    with Run(tmp_path / "run", shares.state) as run:
        run.save()
        run.wait()
    checkpoint = latest(tmp_path / "run")
    checkpoint.load_into(**fresh.state)
    assert all(map(torch.equal, fresh.values(), shares.values()))
    fresh.base.add_(1)
    assert torch.equal(fresh.views["turned"], fresh.base.view(200, 200).t())
    assert fresh.views["the_same"] is fresh.views["base"]
    assert {"alike", "weight"} <= checkpoint.manifest.items["views"].aliases.keys()
    assert "the_same" not in checkpoint.manifest.items["views"].tensors


def quantized() -> torch.Tensor:
    return torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)


def jagged() -> torch.Tensor:
    return torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged)


def freed() -> torch.Tensor:
    tensor = torch.ones(3)
    tensor.untyped_storage().resize_(0)
    return tensor


REFUSED: dict[str, tuple[Callable[[], torch.Tensor], str]] = {
    "meta": (lambda: torch.ones(2, device="meta"), "meta device"),
    "sparse": (lambda: torch.eye(2).to_sparse(), "sparse_coo"),
    "sparse_csr": (lambda: torch.eye(2).to_sparse_csr(), "sparse_csr"),
    "quantized": (quantized, "quantized"),
    "nested": (lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), "nested"),
    "jagged": (jagged, "is not one plain block of memory"),
    "lazy": (lambda: nn.LazyLinear(2).weight, "lazy module"),
    "freed": (freed, "its storage was freed"),
}


BUFFERS = {**REFUSED, "subclass": (lambda: torch.ones(2).as_subclass(Own), "")}


class Own(torch.Tensor):
    """A kind of somebody's own that is plain memory."""


@pytest.mark.filterwarnings("ignore:(Sparse CSR|torch.quantize|The PyTorch API of nested)")
@pytest.mark.parametrize("kind", [one for one in BUFFERS if one != "lazy"])
@pytest.mark.parametrize("late", [False, True], ids=["from_the_start", "in_mid_run"])
def test_buffers_of_any_kind_that_are_not_saved_disturb_nothing(tmp_path: Path, kind: str, late: bool) -> None:
    """A graph that is kept as a sparse buffer, for one: the boundary before an error can be saved all the same."""
    job, make, folder = Job(), BUFFERS[kind][0], tmp_path / "run"
    job.model.register_buffer("graph", torch.zeros(5) if late else make(), persistent=False)
    wanted: list[torch.Tensor] = []

    def train() -> None:
        with Run(folder, job.state, save=Every(batches=2) | OnError(), keep=KeepAll()) as run:
            for _ in run.epochs(1):
                for number in run.batches(range(6)):
                    if late and number == 1:
                        job.model.graph = make()
                    if number == 5:
                        wanted.append(job.model.weight.detach().clone())
                        raise RuntimeError("a bug")
                    job.batch()
                    run.wait()

    with pytest.raises(RuntimeError, match="a bug"):
        train()
    assert [one.progress.batches for one in checkpoints(folder)] == [2, 4, 5]
    again = nn.Linear(2, 1)
    again.register_buffer("extra", torch.zeros(2))
    latest(folder).load_into(model=again)
    assert torch.equal(again.weight, wanted[0])


@pytest.mark.parametrize("from_the_middle", [0, 3, 2000])
def test_a_buffer_whose_memory_is_given_back_and_comes_again(tmp_path: Path, from_the_middle: int) -> None:
    """It is not read meanwhile, and is saved as it is once it is there again."""
    job, folder = Job(), tmp_path / "run"
    buffer = torch.ones(4000)[from_the_middle:]
    size = buffer.untyped_storage().nbytes()
    job.model.register_buffer("mean", buffer, persistent=False)
    with Run(folder, job.state, save=Every(batches=1) | OnError(), keep=KeepAll()) as run:
        for _ in run.epochs(1):
            for number in run.batches(range(6)):
                buffer.untyped_storage().resize_(size if number % 3 == 2 else 0)
                job.batch()
                run.wait()
    assert len(checkpoints(folder)) == 6


class Job:
    """A model whose layer and an optimizer whose state get a strange tensor for a while, and a dict that does."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = nn.Linear(2, 1)
        self.model.register_buffer("extra", torch.zeros(2))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), 0.1)
        self.history: dict[str, Any] = {"seen": torch.zeros(3)}

    @property
    def state(self) -> dict[str, Any]:
        return {"model": self.model, "optimizer": self.optimizer, "history": self.history}

    def batch(self) -> None:
        self.model(torch.ones(4, 2)).square().mean().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def into_the_model(job: Job, tensor: torch.Tensor | None) -> str:
    job.model._buffers["extra"] = torch.zeros(2) if tensor is None else tensor
    return "model/extra"


def into_the_optimizer(job: Job, tensor: torch.Tensor | None) -> str:
    job.optimizer.state[job.model.weight]["extra"] = torch.zeros(2) if tensor is None else tensor
    return "optimizer/state/0/extra"


def into_a_dict(job: Job, tensor: torch.Tensor | None) -> str:
    job.history["deep"] = [1, torch.zeros(2) if tensor is None else tensor]
    return "history/deep/1"


@pytest.mark.filterwarnings("ignore:(Sparse CSR|torch.quantize|The PyTorch API of nested)")
@pytest.mark.parametrize("put", [into_the_model, into_the_optimizer, into_a_dict])
@pytest.mark.parametrize("kind", list(REFUSED))
def test_what_cannot_be_saved_is_refused_by_a_save_that_fails_alone(tmp_path: Path, kind: str, put: Any) -> None:
    """With the path to it and what it is; training goes on, and what comes once it is gone is saved."""
    job, (make, said), folder = Job(), REFUSED[kind], tmp_path / "run"
    path: list[str] = []

    def train() -> None:
        with Run(folder, job.state, save=Every(batches=1), keep=KeepAll()) as run:
            for _ in run.epochs(1):
                for number in run.batches(range(6)):
                    job.batch()
                    if number in (2, 4):
                        path.append(put(job, make() if number == 2 else None))
                    with contextlib.suppress(SaveError):
                        run.wait()

    with pytest.warns(HoldfastWarning, match=r"failed.*Training goes on") as caught:
        train()
    told = [str(one.message) for one in caught if issubclass(one.category, HoldfastWarning)]
    assert len(told) == 2
    assert all(f"{path[0]}: " in one and said in one for one in told)
    assert [one.progress.batches for one in checkpoints(folder)] == [1, 2, 5, 6]
    for one in checkpoints(folder):
        one.verify()
    assert History(folder).debris == []
