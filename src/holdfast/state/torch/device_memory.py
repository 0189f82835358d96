"""The memory of a device as what stored bytes are read to: block by block, through pinned memory of the host."""

from __future__ import annotations

import torch

from holdfast.state.torch.cuda import Accelerator, Cuda, Event

accelerator: Accelerator = Cuda()


class DeviceMemory:
    """The bytes of a dense tensor on a device: `holdfast.engine.leaves.Remote`.

    What is written to it comes behind all that the thread which made it had asked of the device by then.
    """

    __slots__ = ("_after", "_bytes")

    def __init__(self, image: torch.Tensor, after: Event) -> None:
        """Of bytes, a tensor of one axis."""
        self._bytes, self._after = image, after

    @classmethod
    def of(cls, tensor: torch.Tensor) -> DeviceMemory:
        """All of a dense tensor."""
        return cls(tensor.detach().view(-1).view(torch.uint8), accelerator.now(tensor.device))

    def __getitem__(self, part: slice) -> DeviceMemory:
        return DeviceMemory(self._bytes[part], self._after)

    def __len__(self) -> int:
        return self._bytes.numel()

    def __setitem__(self, part: slice, data: memoryview) -> None:
        accelerator.fill(self._bytes[part], torch.frombuffer(data, dtype=torch.uint8), self._after)

    def scratch(self, length: int) -> memoryview:
        return accelerator.scratch(length)
