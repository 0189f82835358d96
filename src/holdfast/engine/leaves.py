"""What the engine knows of a tensor: where its bytes come from, and where they go."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Protocol

from holdfast.types import TensorSpec


class Source(Protocol):
    """A tensor to be saved.

    Tensors of equal ``identity`` are the same memory and are stored once; None says that it shares
    its memory with no other. A ``frozen`` one is left as it is by training, by what it says of itself now.
    """

    @property
    def spec(self) -> TensorSpec: ...

    @property
    def identity(self) -> Hashable | None: ...

    @property
    def frozen(self) -> bool: ...

    def seen(self) -> Hashable:
        """What can be seen of a frozen one without reading all of it: equal as long as nothing is seen to change it.

        Of one that is not frozen, it equals nothing.
        """
        ...

    def copy_into(self, destination: memoryview, begin: int = 0) -> None:
        """Fills ``destination`` with the bytes from number ``begin`` on: of the elements in C order, little-endian.

        Both are whole elements, and the destination ends no later than they do.
        """
        ...


class Remote(Protocol):
    """Bytes that the host cannot write to: those of a device. Sliced and assigned to like a memoryview."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice, /) -> Remote: ...

    def __setitem__(self, part: slice, data: memoryview, /) -> None:
        """Moves ``data`` there; on return it may be overwritten."""
        ...

    def scratch(self, length: int) -> memoryview:
        """Memory of the host and of this thread, until it asks again, from which bytes get there fastest."""
        ...


class Target(Protocol):
    """Where a stored tensor is read to."""

    @property
    def spec(self) -> TensorSpec: ...

    def buffer(self) -> memoryview | Remote:
        """Writable flat bytes, the same at every call: the tensor's own memory, or a staging buffer where that is
        not contiguous or of another dtype. Valid as long as the target is, until it is finished.
        """
        ...

    def finish(self) -> None:
        """Moves the staging buffer into the tensor, if there is one."""
        ...
