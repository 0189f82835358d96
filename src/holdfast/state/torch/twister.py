"""The memory of the two Mersenne Twisters behind `random` and `numpy.random`, read without building objects.

``random.getstate()`` makes a tuple of 625 ints and ``numpy.random.get_state()`` a dict with an array: in a training
loop, whose caches are full of other things, both cost more than all else that happens at a boundary. Their memory
is copied in a microsecond. Where it is not laid out as expected, the public functions are used instead.
"""

from __future__ import annotations

import ctypes
import functools
import random
import struct
import sys
from array import array
from typing import Any

import numpy as np

from holdfast.state.generator_check import WORDS

_BYTES = 4 * WORDS
_INSTANCE: Any = random.random.__self__  # type: ignore[attr-defined]  # the generator whose methods `random` exports


def python_words() -> bytes:
    """State words and index of `random`'s global generator, 625 native unsigned ints, as `random.getstate` has them."""
    memory = _python_memory()
    if memory is None:
        return array("I", random.getstate()[1]).tobytes()
    image = memory.tobytes()
    return image[4:] + image[:4]


def python_gauss() -> float | None:
    """The second number of a pair that ``random.gauss`` has made and not handed out yet."""
    gauss: float | None = _INSTANCE.gauss_next
    return gauss


def numpy_image() -> bytes | None:
    """Memory of numpy's global generator: equal as long as no bits were drawn. None where it cannot be read."""
    memory = _numpy_memory(np.random.get_state.__self__._bit_generator)  # type: ignore[attr-defined]  # may be swapped
    return None if memory is None else memory.tobytes()


@functools.cache
def _python_memory() -> memoryview | None:
    """The generator's ``int index; uint32_t state[624]``, found by looking for its state."""
    words = random.getstate()[1]
    memory = ctypes.string_at(id(_INSTANCE), sys.getsizeof(_INSTANCE))
    place = memory.find(struct.pack(f"={WORDS}I", *words[:WORDS]))
    if place < 4 or memory[place - 4 : place] != struct.pack("=I", words[WORDS]):
        return None
    return _view(id(_INSTANCE) + place - 4)


@functools.lru_cache(maxsize=1)
def _numpy_memory(generator: Any) -> memoryview | None:
    """The ``uint32_t key[624]; int pos`` of a Mersenne Twister, which the cache keeps alive."""
    return _view(generator.ctypes.state_address) if type(generator).__name__ == "MT19937" else None


def _view(address: int) -> memoryview:
    return memoryview((ctypes.c_char * (_BYTES + 4)).from_address(address)).cast("B")
