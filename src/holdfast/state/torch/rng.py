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
from holdfast.state.generator_check import PYTHON_VERSION, check_cuda, check_numpy, check_python, check_torch
from holdfast.state.torch import twister

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

_BIT_GENERATORS = ("MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64")
"""Those that numpy itself has."""


@dataclass(frozen=True, slots=True, eq=False)
class RngState:
    """All global generators at one moment. ``numpy`` is None where nothing had used its generators yet.

    ``python`` holds the 624 words of the state and the index into them as native unsigned ints.
    """

    python: bytes
    gauss: float | None
    numpy: dict[str, Any] | None
    cpu: torch.Tensor
    cuda: tuple[torch.Tensor, ...] = ()


def capture() -> RngState:
    """The state of every global generator now. Made for being called at every boundary.

    >>> state = capture()
    >>> first = random.random(), float(torch.rand(()))
    >>> notes = restore(state)
    >>> first == (random.random(), float(torch.rand(())))
    True
    """
    return RngState(
        twister.python_words(),
        twister.python_gauss(),
        _numpy_state(),
        torch.default_generator.get_state(),
        tuple(torch.cuda.get_rng_state_all()) if torch.cuda.is_initialized() else (),  # type: ignore[no-untyped-call]
    )


def restore(state: RngState) -> tuple[str, ...]:
    """Puts every global generator back. Returns what could not be restored here, in words."""
    random.setstate(_python_state(state))
    torch.default_generator.set_state(state.cpu)
    return (*_restore_numpy(state.numpy), *_restore_cuda(state.cuda))


def same(a: RngState, b: RngState) -> bool:
    """Whether both would give the same numbers.

    >>> same(capture(), capture())
    True
    """
    return (
        (a.python, a.gauss) == (b.python, b.gauss)
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
    python = {"version": PYTHON_VERSION, "words": np.frombuffer(state.python, np.uint32), "gauss": state.gauss}
    return {"python": python, "numpy": state.numpy, "torch": state.cpu, "cuda": list(state.cuda)}


def from_tree(tree: Any) -> RngState:
    """The state that `to_tree` was given. Raises `CorruptError` for anything else."""
    try:
        python = tree["python"]
        words = np.asarray(python["words"])
        if words.dtype != np.uint32:
            raise TypeError(f"the words of Python's generator are {words.dtype}")
        state = RngState(words.tobytes(), python["gauss"], tree["numpy"], tree["torch"], tuple(tree["cuda"]))
        _check(state, python["version"])
    except (AttributeError, LookupError, TypeError, ValueError, RuntimeError, ArithmeticError) as error:
        raise CorruptError(
            f"the random number state in the checkpoint is not one, so nothing was restored: {error!r}. Go back to "
            "another checkpoint: Run(..., start_from='its name')."
        ) from error
    return state


def _python_state(state: RngState) -> tuple[Any, ...]:
    return PYTHON_VERSION, tuple(array("I", state.python)), state.gauss


class _LastNumpy:
    """The last state that was taken from numpy, and the image of its memory then."""

    image: bytes | None = None
    state: dict[str, Any] | None = None


def _numpy_state() -> dict[str, Any] | None:
    """Building the dict is dear, so it is built again only when the generator's memory has changed.

    Half of a pair of normal numbers is kept outside of that memory: while there is one, the dict is always built.
    """
    # numpy loads its generators on first use: one that was never loaded has no state that anyone has seen.
    if "numpy.random" not in sys.modules:
        return None
    image, last = twister.numpy_image(), _LastNumpy.state
    if image is None or last is None or image != _LastNumpy.image or last["has_gauss"]:
        last = dict(np.random.get_state(legacy=False))
        _LastNumpy.image, _LastNumpy.state = image, last
    return last


def _check(state: RngState, version: int) -> None:
    """Tries the states on generators of its own, so that `restore` cannot fail half-way."""
    if version != PYTHON_VERSION:
        raise ValueError(f"the state of Python's generator has version {version}, not {PYTHON_VERSION}")
    python = _python_state(state)
    check_python(python)
    random.Random().setstate(python)
    check_torch(state.cpu)
    torch.Generator().set_state(state.cpu)
    if state.numpy is not None:
        _check_numpy(state.numpy)
    for one in state.cuda:
        check_cuda(one)


def _check_numpy(state: dict[str, Any]) -> None:
    name = state["bit_generator"]
    if name in _BIT_GENERATORS:
        own = np.random.RandomState(getattr(np.random, name)(0))
        check_numpy(state, own.get_state(legacy=False))
        own.set_state(state)
        return
    here: Any = np.random.get_state(legacy=False)
    check_numpy(state, here if name == here["bit_generator"] else {"bit_generator": ""})


def _restore_numpy(state: dict[str, Any] | None) -> tuple[str, ...]:
    if state is None:
        return ()
    _LastNumpy.image = None
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
    parts = [repr(state.gauss).encode(), state.python, _numpy_image(state.numpy)]
    parts += [tensor.numpy().tobytes() for tensor in (state.cpu, *state.cuda)]
    return b"".join(parts)


def _numpy_image(value: Any) -> bytes:
    if isinstance(value, dict):
        return b"".join(key.encode() + _numpy_image(value[key]) for key in sorted(value))
    return value.tobytes() if isinstance(value, np.ndarray) else repr(value).encode()
