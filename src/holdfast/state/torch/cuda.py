"""All that is asked of CUDA: pinned memory, side streams and events. Nothing is decided here."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import torch

_PORTABLE = 1
"""``cudaHostRegisterPortable``: pinned for every device of this process."""

Event = Any
"""A point in the work of a stream: `torch.cuda.Event`, or what stands for it in a test."""
Part = tuple[torch.Tensor, torch.Tensor]
"""Memory of the host, and the elements on a device that are copied into it, or the other way round."""


class Accelerator(Protocol):
    """What a framework can have a device do while the host goes on."""

    def has(self, tensor: torch.Tensor) -> bool:
        """Whether its elements lie in the memory of such a device."""
        ...

    def free(self, device: torch.device) -> int:
        """Bytes of the device's memory that nobody has."""
        ...

    def pin(self, address: int, size: int) -> Callable[[], None] | None:
        """Lets devices copy into memory of the host by themselves. A call that takes this back; None if refused."""
        ...

    def now(self, device: torch.device) -> Event:
        """What the calling thread has asked of the device so far."""
        ...

    def copy(self, parts: Iterable[Part], device: torch.device, after: Event) -> Event:
        """Has the device copy its elements into the host's memory, on a side stream, behind ``after``.

        The event is the end of that. It keeps no memory alive.
        """
        ...

    def await_end(self, event: Event) -> None:
        """Returns when the event has come, without using a core until then."""
        ...

    def drain(self, device: torch.device) -> None:
        """Returns when all copies that were begun from the device are over."""
        ...

    def hold_back(self, device: torch.device, event: Event) -> None:
        """What the calling thread asks of the device from now on waits for the event; the thread itself does not."""
        ...

    def scratch(self, length: int) -> memoryview:
        """Pinned memory of the host and of the calling thread, until it asks again."""
        ...

    def fill(self, elements: torch.Tensor, image: torch.Tensor, after: Event) -> None:
        """Copies memory of the host into a device's, behind ``after``, and returns when that is done."""
        ...

    def is_recorded(self) -> bool:
        """Whether what the calling thread asks for is recorded for later, in a graph, instead of being done."""
        ...


class Cuda:
    """`Accelerator` by `torch.cuda`; AMD's devices too, which torch calls by the same names."""

    def __init__(self) -> None:
        self._streams: dict[torch.device, torch.cuda.Stream] = {}
        self._own = _Own()

    def has(self, tensor: torch.Tensor) -> bool:
        return tensor.is_cuda

    def free(self, device: torch.device) -> int:
        return int(torch.cuda.mem_get_info(device)[0])

    def pin(self, address: int, size: int) -> Callable[[], None] | None:
        runtime: Any = torch.cuda.cudart()  # type: ignore[no-untyped-call]
        if int(runtime.cudaHostRegister(address, size, _PORTABLE)) != 0:
            return None

        def unpin() -> None:
            runtime.cudaHostUnregister(address)

        return unpin

    def now(self, device: torch.device) -> Event:
        return torch.cuda.current_stream(device).record_event()

    def stream(self, device: torch.device) -> torch.cuda.Stream:
        """The side stream."""
        return _stream(self._streams, device)

    def copy(self, parts: Iterable[Part], device: torch.device, after: Event) -> Event:
        stream = self.stream(device)
        with torch.cuda.stream(stream):
            stream.wait_event(after)
            for image, elements in parts:
                image.copy_(elements, non_blocking=True)
            # One that does not block keeps a core busy while it is waited for.
            end = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
            end.record(stream)
        return end

    def await_end(self, event: Event) -> None:
        event.synchronize()

    def drain(self, device: torch.device) -> None:
        self.stream(device).synchronize()

    def hold_back(self, device: torch.device, event: Event) -> None:
        torch.cuda.current_stream(device).wait_event(event)

    def scratch(self, length: int) -> memoryview:
        if self._own.memory is None or self._own.memory.numel() < length:
            self._own.memory = torch.empty(length, dtype=torch.uint8, pin_memory=True)
        return self._own.memory.numpy().data[:length]

    def fill(self, elements: torch.Tensor, image: torch.Tensor, after: Event) -> None:
        stream = _stream(self._own.streams, elements.device)
        with torch.cuda.stream(stream):
            stream.wait_event(after)
            elements.copy_(image, non_blocking=True)
        stream.synchronize()

    def is_recorded(self) -> bool:
        return is_recorded()


class _Own(threading.local):
    """What each thread has of its own, so that their blocks move side by side."""

    def __init__(self) -> None:
        self.memory: torch.Tensor | None = None
        self.streams: dict[torch.device, torch.cuda.Stream] = {}


def _stream(streams: dict[torch.device, torch.cuda.Stream], device: torch.device) -> torch.cuda.Stream:
    if device not in streams:
        streams[device] = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    return streams[device]


def is_recorded() -> bool:
    """Whether what this thread asks of its device is recorded into a graph."""
    begun: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return begun and torch.cuda.is_current_stream_capturing()
