"""Tensors of a device on their way into the arena while training goes on, and what keeps them of one boundary."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterable
from typing import Protocol

import torch

from holdfast.engine.arena import Pin
from holdfast.engine.behind import Copy
from holdfast.engine.leaves import Source
from holdfast.state.torch.cuda import Accelerator, Cuda, Event
from holdfast.state.torch.step_hook import StepHook
from holdfast.state.torch.tensor import TensorSource, cloned, is_dense, part_of

_CLONED = 64 << 20
"""Bytes of a device's memory, or the sixteenth part of what is free there if that is less, for copies of tensors that
anybody may change, such as buffers: to wait until the device has come to the boundary would cost more."""
_SPOILT = 3
"""Snapshots that somebody changed while they were copied, after which all of them are copied at the boundary."""
_GRACE = 0.002
"""Seconds in which the training thread comes away from the boundary: both at once would wait for the interpreter."""
_PROBES, _PROBE = 16, 64
"""Tensors, and elements of each, that are looked at again when the copy is over."""

Noted = tuple[torch.Tensor, memoryview, int]
"""A tensor, a place in the arena, and which of the tensor's bytes come first there."""


class Watch(Protocol):
    """Who knows the optimizers: `holdfast.state.torch.gradients.Gradients`."""

    def optimized(self) -> Iterable[torch.Tensor]:
        """Parameters of optimizers that have hooks."""
        ...

    def announced(self) -> Iterable[torch.Tensor]:
        """The tensors that, at this boundary, only optimizers change, in steps that their hooks announce."""
        ...


class SideStreams:
    """The devices of this process, as a `Checkpointer` uses them: `holdfast.engine.behind.Device`.

    Tensors that only optimizers change need not be copied at a boundary: until the next step they stay as they are. So
    they are copied on a side stream, behind forward and backward, and whatever optimizer steps next is held back on
    the device, not on the host, until they are. Other tensors are cloned on the device, or copied at the boundary.
    """

    def __init__(self, watch: Watch, accelerator: Accelerator | None = None) -> None:
        self._watch = watch
        self._accelerator = accelerator or Cuda()
        self._under_way: SideCopies | None = None
        self._spoilt = 0
        self._hook: StepHook | None = None

    def pinning(self) -> Pin | None:
        there = any(self._accelerator.has(one) for one in self._watch.optimized())
        return self._accelerator.pin if there else None

    def copies(self) -> SideCopies | None:
        before, self._under_way = self._under_way, None
        if before is not None and before.spoilt:
            self._spoilt += 1
            return None  # this one takes its place, and must not be lost too
        watched = [one for one in self._watch.announced() if self._accelerator.has(one)]
        if not watched or self._spoilt >= _SPOILT:
            return None
        if self._hook is None:
            # Of all optimizers of the process: one that this run does not know may have the same parameters.
            self._hook = StepHook(self._guard)
        self._under_way = SideCopies(self._accelerator, watched)
        return self._under_way

    def close(self) -> None:
        if self._hook is not None:
            self._hook.remove()
            self._hook = None

    def _guard(self, _: torch.optim.Optimizer) -> None:
        if self._under_way is not None:
            self._under_way.guard()


class SideCopies:
    """The copies of one snapshot: `holdfast.engine.behind.Copies`. It is ``spoilt`` if they are not of one moment."""

    def __init__(self, accelerator: Accelerator, watched: Iterable[torch.Tensor]) -> None:
        self._process = os.getpid()
        self._accelerator = accelerator
        self._watched = {id(one) for one in watched}
        self._noted: dict[torch.device, list[Noted]] = {}
        self._room: dict[torch.device, int] = {}
        self._copied: list[torch.Tensor] = []
        self._versions: list[int] = []
        self._probes: list[torch.Tensor] = []
        self._glances: list[torch.Tensor] = []
        self._seen: list[tuple[torch.device, Event]] = []
        self._obstacle: str | None = None
        self._starts: dict[torch.device, Event] = {}
        self._ends: dict[torch.device, Event] = {}
        self._lock = threading.Lock()
        self._judged = False
        self._wanted, self._asked_for, self._over = (threading.Event() for _ in range(3))

    @property
    def spoilt(self) -> bool:
        return self._obstacle is not None

    def copy_of(self, source: Source) -> Copy:
        if not isinstance(source, TensorSource) or not self._accelerator.has(source.tensor):
            return source.copy_into
        tensor = source.tensor.detach()
        if id(source.tensor) in self._watched and is_dense(tensor) and not tensor.is_inference():
            self._copied.append(source.tensor)
            return self._later(tensor)
        clone = self._cloned(tensor)
        return source.copy_into if clone is None else self._later(clone)

    def _cloned(self, tensor: torch.Tensor) -> torch.Tensor | None:
        """None where the device has no room for a clone, or torch may not have it."""
        try:
            return cloned(tensor) if self._fits(tensor) else None
        except torch.OutOfMemoryError:
            return None

    def _later(self, tensor: torch.Tensor) -> Copy:
        """Notes where to. What is noted keeps its memory, also if the parameter is given another one meanwhile."""
        noted = self._noted.setdefault(tensor.device, [])

        def note(destination: memoryview, begin: int) -> None:
            if destination:
                noted.append((tensor, destination, begin))

        return note

    def _fits(self, tensor: torch.Tensor) -> bool:
        device = tensor.device
        if device not in self._room:
            self._room[device] = min(_CLONED, self._accelerator.free(device) // 16)
        if tensor.nbytes > self._room[device]:
            return False
        self._room[device] -= tensor.nbytes
        return True

    def start(self) -> None:
        self._starts = {device: self._accelerator.now(device) for device in self._noted}
        self._versions = self._versions_now()
        self._probes = _probes(self._copied)
        self._glance()

    def finish(self) -> str | None:
        try:
            self._wanted.wait(_GRACE)
            for device, noted in self._noted.items():
                parts = (part_of(*one) for one in noted)
                self._ends[device] = self._accelerator.copy(parts, device, self._starts[device])
            self._asked_for.set()
            for end in self._ends.values():
                self._accelerator.await_end(end)
            self._judge()
            for _, seen in self._seen:
                self._accelerator.await_end(seen)
            if not all(torch.equal(one, self._glances[0]) for one in self._glances):
                self._obstacle = _CHANGED
        except BaseException as error:
            self._obstacle = _failed(error)
            for device in self._noted:
                # What was begun would else go on into memory that is used for something else by then.
                with contextlib.suppress(Exception):
                    self._accelerator.drain(device)
            raise
        finally:
            self._over.set()
            self._asked_for.set()
            self._noted.clear()
        return self._obstacle

    def guard(self) -> None:
        """Called before an optimizer steps, in whatever thread it does: the device does the step after the copies."""
        # A fork has no thread that could end what its steps would wait for.
        if not self._starts or self._over.is_set() or os.getpid() != self._process:
            return
        self._judge()
        self._wanted.set()
        if self._accelerator.is_recorded():
            self._over.wait()  # a graph cannot wait for what is outside of it
            return
        self._asked_for.wait()
        for device, end in (*self._ends.items(), *self._seen):
            self._accelerator.hold_back(device, end)

    def _judge(self) -> None:
        """Looks, once, whether anything was changed until the first step was announced, or else until the end.

        What goes wrong, such as a lack of memory, is the snapshot's: a step that is about to begin must not fail of it.
        """
        with self._lock:
            if self._judged:
                return
            self._judged = True
            try:
                if self._versions_now() != self._versions:
                    self._obstacle = _CHANGED
                self._glance()
            except Exception as error:
                self._obstacle = _failed(error)
            self._copied.clear()
            self._probes.clear()

    def _glance(self) -> None:
        """A few elements as they are now, in one call, for which nobody waits; nothing where it would be recorded."""
        if self._probes and not self._accelerator.is_recorded():
            self._glances.append(torch.cat(self._probes))
            device = self._probes[0].device
            self._seen.append((device, self._accelerator.now(device)))

    def _versions_now(self) -> list[int]:
        return [one._version for one in self._copied]


def _probes(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    """The first bytes of a few of them: whoever writes through ``.data``, which moves no counter, writes to many."""
    fitting = [one for one in tensors if one.numel() and one.device == tensors[0].device]
    return [one.detach().view(-1)[:_PROBE].view(torch.uint8) for one in fitting[:: len(fitting) // _PROBES + 1]]


def _failed(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


_CHANGED = (
    "while the device was still copying its parameters, something else than the step of an optimizer has changed them, "
    "so the snapshot was taken back."
)
