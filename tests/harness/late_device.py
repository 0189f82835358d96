"""Memory of the host as that of a device which copies as late as it may."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch

from holdfast.engine.parallel import scratch
from holdfast.state.torch.cuda import Part


@dataclass
class Late:
    """The end of a copy that begins once ``wanted`` is set, or ``delay`` seconds have passed."""

    wanted: threading.Event = field(default_factory=threading.Event)
    reached: threading.Event = field(default_factory=threading.Event)


@dataclass
class LateDevice:
    """`Accelerator` whose copies begin when a step is held back for them, and only then, unless ``delay`` passes first.

    So whatever training does before is seen by them. The counts are of calls.
    """

    delay: float = 0.05
    spare: int = 1 << 40
    refuses_to_pin: bool = False
    fails: bool = False
    recorded: bool = False
    copied: int = 0
    filled: int = 0
    held_back: int = 0
    pinned: set[int] = field(default_factory=set)
    begun: list[Late] = field(default_factory=list)

    def has(self, tensor: torch.Tensor) -> bool:
        return True

    def free(self, device: torch.device) -> int:
        return self.spare

    def pin(self, address: int, size: int) -> Callable[[], None] | None:
        if self.refuses_to_pin:
            return None
        self.pinned.add(address)
        return lambda: self.pinned.remove(address)

    def now(self, device: torch.device) -> Late:
        """The host has done already what it was asked for."""
        moment = Late()
        moment.reached.set()
        return moment

    def copy(self, parts: Iterable[Part], device: torch.device, after: Late) -> Late:
        if self.fails:
            raise RuntimeError("the device has fallen off the bus")
        end, found = Late(), list(parts)
        self.begun.append(end)
        self.copied += len(found)

        def work() -> None:
            end.wanted.wait(self.delay)
            for image, elements in found:
                image.copy_(elements)
            end.reached.set()

        threading.Thread(target=work).start()
        return end

    def await_end(self, event: Late) -> None:
        event.reached.wait()

    def drain(self, device: torch.device) -> None:
        for end in self.begun:
            end.reached.wait()

    def hold_back(self, device: torch.device, event: Late) -> None:
        """The host does itself what a device would do later: it has to wait."""
        self.held_back += 1
        event.wanted.set()
        event.reached.wait()

    def scratch(self, length: int) -> memoryview:
        return scratch(length)

    def fill(self, elements: torch.Tensor, image: torch.Tensor, after: Late) -> None:
        self.filled += image.numel()
        elements.copy_(image)

    def is_recorded(self) -> bool:
        return self.recorded
