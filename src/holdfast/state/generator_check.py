"""Whether what is stored as the state of a random generator can be one.

The generators themselves trust it: an index beyond their words makes them read beyond their memory.
"""

from __future__ import annotations

import struct
from typing import Any

from holdfast.state.tree import TENSOR, tag_of

PYTHON_VERSION = 3
"""Of the tuples that `random.getstate` makes, in every Python since 3.2."""
WORDS = 624
_LAST = {"pos": WORDS, "buffer_pos": 4}
"""The largest index into the words of a Mersenne Twister, and into the buffer of a Philox."""
_TORCH_HEAD = "=QiiQ"
"""Seed, numbers left, whether it is seeded, and the next number's index, at the beginning of torch's state."""


def check_python(state: Any) -> None:
    """Raises `ValueError` for what ``random.getstate()`` cannot have returned."""
    if not isinstance(state, tuple) or len(state) != 3 or state[0] != PYTHON_VERSION:
        raise ValueError(f"not a state of Python's generator, version {PYTHON_VERSION}")
    _, words, gauss = state
    if not isinstance(words, tuple) or len(words) != WORDS + 1 or not all(_is_index(word, 2**32) for word in words):
        raise ValueError(f"Python's generator has {WORDS} words of 32 bits and an index")
    if words[-1] > WORDS:
        raise ValueError(f"index {words[-1]} into {WORDS} words of Python's generator")
    if gauss is not None and type(gauss) is not float:
        raise ValueError(f"{gauss!r} is not the second of a pair of normal numbers")


def check_numpy(state: Any, like: Any) -> None:
    """Raises `ValueError` for a state that is not built as ``like``, one of the same kind of generator."""
    if isinstance(like, dict):
        if not isinstance(state, dict) or not like.keys() <= state.keys() or not all(type(key) is str for key in state):
            raise ValueError(f"the state of numpy's generator lacks one of {', '.join(like)}")
        for key, part in like.items():
            check_numpy(state[key], part)
            if key in _LAST and not _is_index(state[key], _LAST[key] + 1):
                raise ValueError(f"{key}={state[key]!r} of numpy's generator is not within 0 and {_LAST[key]}")
    elif tag_of(like) is not None:
        if tag_of(state) != tag_of(like) or (state.dtype, state.shape) != (like.dtype, like.shape):
            raise ValueError(f"numpy's generator has {like.shape} words of {like.dtype}")
    elif type(state) is not type(like):
        raise ValueError(f"a {type(state).__name__} where numpy's generator has a {type(like).__name__}")


def check_torch(state: Any, device: str = "cpu") -> None:
    """Raises `ValueError` for what no torch generator can have returned; whether the size is right, torch checks."""
    if tag_of(state) != TENSOR or str(state.dtype) != "torch.uint8" or state.dim() != 1:
        raise ValueError("the state of torch's generator is not a tensor of bytes")
    if device == "cpu" and len(state) >= struct.calcsize(_TORCH_HEAD):
        head = bytes(state[: struct.calcsize(_TORCH_HEAD)].tolist())
        _, left, _, following = struct.unpack(_TORCH_HEAD, head)
        # Torch looks at each of the two alone, and reads as many words as are left.
        if left + following > WORDS + 1:
            raise ValueError(f"index {following} of torch's generator with {left} of {WORDS} words left")


def check_cuda(state: Any) -> None:
    """Raises `ValueError` for what is not a seed of 8 bytes, with or without an offset that is a multiple of 4."""
    check_torch(state, "cuda")
    if len(state) not in (8, 16) or int.from_bytes(bytes(state[8:].tolist()), "little") % 4:
        raise ValueError("the state of a CUDA generator is not a seed and an offset")


def _is_index(value: Any, end: int) -> bool:
    return type(value) is int and 0 <= value < end
