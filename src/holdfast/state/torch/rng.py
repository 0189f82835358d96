"""The process's own random numbers: Python, numpy, torch on the CPU and on every CUDA device.

Capturing reads states and draws nothing, so a run with holdfast sees the same numbers as without.
"""

from __future__ import annotations

import random
import sys
from array import array
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xxhash

from holdfast.errors import CorruptError
from holdfast.state.generator import find_generators, generator_state, set_generator_state

__all__ = [
    "RngState",
    "capture",
    "digest",
    "find_generators",
    "from_tree",
    "generator_state",
    "restore",
    "same",
    "set_generator_state",
    "to_tree",
]


@dataclass(frozen=True, slots=True, eq=False)
class RngState:
    """All global generators at one moment. ``numpy`` is None where nothing had used its generators yet."""

    python: tuple[Any, ...]
    numpy: dict[str, Any] | None
    cpu: torch.Tensor
    cuda: tuple[torch.Tensor, ...] = ()


def capture() -> RngState:
    """The state of every global generator now, in some 30 microseconds.

    >>> state = capture()
    >>> first = random.random(), float(torch.rand(()))
    >>> notes = restore(state)
    >>> first == (random.random(), float(torch.rand(())))
    True
    """
    # numpy loads its generators on first use: one that was never loaded has no state that anyone has seen.
    used = "numpy.random" in sys.modules
    return RngState(
        random.getstate(),
        dict(np.random.get_state(legacy=False)) if used else None,
        torch.default_generator.get_state(),
        tuple(torch.cuda.get_rng_state_all()) if torch.cuda.is_initialized() else (),  # type: ignore[no-untyped-call]
    )


def restore(state: RngState) -> tuple[str, ...]:
    """Puts every global generator back. Returns what could not be restored here, in words."""
    random.setstate(state.python)
    torch.default_generator.set_state(state.cpu)
    return (*_restore_numpy(state.numpy), *_restore_cuda(state.cuda))


def same(a: RngState, b: RngState) -> bool:
    """Whether both would give the same numbers.

    >>> same(capture(), capture())
    True
    """
    return (
        a.python == b.python
        and _numpy_image(a.numpy) == _numpy_image(b.numpy)
        and torch.equal(a.cpu, b.cpu)
        and len(a.cuda) == len(b.cuda)
        and all(torch.equal(one, other) for one, other in zip(a.cuda, b.cuda, strict=True))
    )


def digest(state: RngState) -> str:
    """XXH3-64 of the state, in hex: equal for states that would give the same numbers."""
    return xxhash.xxh3_64_hexdigest(_image(state))


def to_tree(state: RngState) -> dict[str, Any]:
    """The state as nested plain values with tensors and arrays, for `holdfast.state.tree`."""
    version, words, gauss = state.python
    python = {"version": version, "words": torch.tensor(words, dtype=torch.int64), "gauss": gauss}
    return {"python": python, "numpy": state.numpy, "torch": state.cpu, "cuda": list(state.cuda)}


def from_tree(tree: Any) -> RngState:
    """The state that `to_tree` was given. Raises `CorruptError` for anything else."""
    try:
        python = tree["python"]
        words = tuple(python["words"].tolist())
        state = RngState((python["version"], words, python["gauss"]), tree["numpy"], tree["torch"], tuple(tree["cuda"]))
        _check(state)
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CorruptError(f"the random number state in the checkpoint is not one: {error!r}") from error
    return state


def _check(state: RngState) -> None:
    """Tries the states on generators of its own, so that `restore` cannot fail half-way."""
    random.Random().setstate(state.python)
    torch.Generator().set_state(state.cpu)
    if state.numpy is not None and not isinstance(state.numpy["bit_generator"], str):
        raise TypeError("numpy's state names no generator")
    if any(one.dtype != torch.uint8 for one in state.cuda):
        raise TypeError("a CUDA state is not a tensor of bytes")


def _restore_numpy(state: dict[str, Any] | None) -> tuple[str, ...]:
    if state is None:
        return ()
    here = np.random.get_state(legacy=False)["bit_generator"]
    if state["bit_generator"] != here:
        return (f"numpy's global generator was a {state['bit_generator']} and is a {here} here: not restored",)
    np.random.set_state(state)
    return ()


def _restore_cuda(states: tuple[torch.Tensor, ...]) -> tuple[str, ...]:
    devices = torch.cuda.device_count() if states and torch.cuda.is_available() else 0
    for index, state in enumerate(states[:devices]):
        torch.cuda.set_rng_state(state, index)
    missing = len(states) - devices
    return (f"random numbers of {missing} CUDA devices not restored: {devices} devices here",) if missing > 0 else ()


def _image(state: RngState) -> bytes:
    version, words, gauss = state.python
    parts = [repr((version, gauss)).encode(), array("I", words).tobytes(), _numpy_image(state.numpy)]
    parts += [tensor.numpy().tobytes() for tensor in (state.cpu, *state.cuda)]
    return b"".join(parts)


def _numpy_image(value: Any) -> bytes:
    if isinstance(value, dict):
        return b"".join(key.encode() + _numpy_image(value[key]) for key in sorted(value))
    return value.tobytes() if isinstance(value, np.ndarray) else repr(value).encode()
