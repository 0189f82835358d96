"""The garbage collector of this process, held back while very many objects are made at once."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def no_collection() -> Iterator[None]:
    """Objects are still freed when nothing refers to them; what lies in cycles waits until it is over.

    Some ten thousand new objects make the collector look, more than once, at all that the process has, a model's
    modules and a data set among them: longer than the rest of a save of many small tensors takes. Only for what takes
    no longer than that itself, because other threads' cycles wait too. A process that has switched its collector off
    finds it off afterwards.

    >>> with no_collection():
    ...     gc.isenabled()
    False
    >>> gc.isenabled()
    True
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
