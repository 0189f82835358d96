"""What the engine knows of a tensor: where its bytes come from, and where they go."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Protocol

from holdfast.types import TensorSpec


class Source(Protocol):
    """A tensor to be saved.

    Tensors of equal ``identity`` are the same memory and are stored once; None says that it shares
    its memory with no other.
    """

    @property
    def spec(self) -> TensorSpec: ...

    @property
    def identity(self) -> Hashable | None: ...

    def copy_into(self, destination: memoryview, begin: int = 0) -> None:
        """Fills ``destination`` with the bytes from number ``begin`` on: of the elements in C order, little-endian.

        Both are whole elements, and the destination ends no later than they do.
        """
        ...


class Target(Protocol):
    """Where a stored tensor is read to."""

    @property
    def spec(self) -> TensorSpec: ...

    def buffer(self) -> memoryview:
        """Writable flat bytes, the same at every call: the tensor's own memory, or a staging buffer where that is
        not contiguous, not on the CPU or of another dtype. Valid as long as the target is, until it is finished.
        """
        ...

    def finish(self) -> None:
        """Moves the staging buffer into the tensor, if there is one."""
        ...
