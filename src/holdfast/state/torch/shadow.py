"""Whether anything of the modules changed since a boundary, and what it was there."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from holdfast.state.torch.tensor import is_dense, is_plain, is_uninitialized

BUFFER_LIMIT = 4 << 20
"""Bytes of buffers that are copied at each boundary. Larger ones are only watched."""
_PROBES = 16
_PROBE_BYTES = 64
_NOWHERE = 1 << 32
"""Below lie the addresses of tensors without elements, and of those whose memory was given back: to read these is a
crash. What else may be there is looked at more closely."""

Slot = tuple["dict[str, Any] | _Scripted", str]
"""Where a module keeps a tensor: its dict and the name in it. Some modules put new buffers there in each forward."""


class Shadow:
    """Remembers a boundary of ``modules``, so that it can be saved although a later batch failed halfway.

    Small buffers are copied, because BatchNorm changes its statistics in the forward pass, without an optimizer step,
    and without moving a version counter. All other tensors, sparse buffers among them, are watched by their version
    counters, which every change in place moves but fused optimizers and writes through ``.data``; optimizer steps are
    known from their hooks. Modules without an ``owned`` parameter, such as averages of another one, are often written
    through ``.data``: on the CPU, a few bytes of some of their parameters are remembered too.
    """

    def __init__(self, modules: Mapping[str, torch.nn.Module], owned: Collection[int] = ()) -> None:
        self._modules = modules
        self._owned = frozenset(owned)
        self._slots: list[Slot] = []
        self._buffers: list[torch.Tensor] = []
        self._copies: list[torch.Tensor] = []
        self._watched: list[Slot] = []
        self._tensors: list[torch.Tensor] = []
        self._counting: list[torch.Tensor] = []
        self._probed: list[torch.Tensor] = []
        self._marks: list[object] = []
        self._places: list[int] = []
        self._moves: list[tuple[int, int, int]] = []
        self._odd: list[torch.Tensor] = []
        self.refresh()

    def refresh(self) -> None:
        """Looks again which tensors there are: called when the modules may have changed."""
        buffers = _slots(self._modules, "_buffers")
        plain = [(holder, name) for holder, name in buffers if is_plain(holder[name])]
        small = sum(holder[name].nbytes for holder, name in plain) <= BUFFER_LIMIT
        self._slots = plain if small else []
        others = [(holder, name) for holder, name in buffers if not small or not is_plain(holder[name])]
        self._watched = [*_slots(self._modules, "_parameters"), *others]
        self._tensors = [holder[name] for holder, name in self._watched]
        self._counting = [one for one in self._tensors if not one.is_inference()]
        self._probed = list(_unowned(self._modules, self._owned))
        self._odd = list(_odd(self._modules))
        self._take(self._now())
        self.mark()

    def _now(self) -> list[Any]:
        return [holder.get(name) for holder, name in self._slots]

    def _take(self, buffers: list[torch.Tensor]) -> None:
        self._buffers, self._moves = buffers, []
        self._copies = [one.detach().clone() for one in buffers]

    def mark(self) -> None:
        """Remembers this moment."""
        if any(map(is_plain, self._odd)):
            self.refresh()
        if self._slots:
            self._copy_buffers()
        self._marks = self.marks()

    def _copy_buffers(self) -> None:
        now = self._now()
        if any(one is not before for one, before in zip(now, self._buffers, strict=True)):
            self._take_others(now)
            return
        places = [one.data_ptr() for one in self._buffers]
        if self._moves and places == self._places:
            for move in self._moves:
                ctypes.memmove(*move)
            return
        if any(place < _NOWHERE for place in places) and not all(map(is_plain, now)):
            self.refresh()
            return
        try:
            with torch.no_grad():
                for copy, buffer in zip(self._copies, self._buffers, strict=True):
                    copy.copy_(buffer)
        except RuntimeError:  # one has been given data of another shape
            self._take(now)
        self._places, self._moves = places, _moves(self._copies, self._buffers)

    def _take_others(self, buffers: list[Any]) -> None:
        """Some have been put in the place of those that were there, or taken away."""
        if all(one is None or is_plain(one) for one in buffers):
            self._slots = [slot for slot, one in zip(self._slots, buffers, strict=True) if one is not None]
            self._take([one for one in buffers if one is not None])
        else:
            self.refresh()

    def marks(self) -> list[object]:
        """The version counters of all watched tensors now, and the bytes that are looked at."""
        versions: list[object] = [one._version for one in self._counting]
        return versions + [_first_bytes(one) for one in self._probed]

    def unchanged(self) -> bool:
        """Whether no watched tensor was changed in place or replaced since the last mark."""
        same = all(holder.get(name) is one for (holder, name), one in zip(self._watched, self._tensors, strict=True))
        now = self._now()
        fitting = all(map(_is_there, now)) and all(map(_alike, now, self._copies))
        return same and fitting and self.marks() == self._marks

    @contextlib.contextmanager
    def put_back(self) -> Iterator[None]:
        """The buffers as they were at the mark, for as long as they are being saved."""
        buffers = self._now()
        now = [one.detach().clone() for one in buffers]
        _exchange(buffers, self._copies)
        try:
            yield
        finally:
            _exchange(buffers, now)


def _first_bytes(one: torch.Tensor) -> bytes | None:
    """None where there are none to be read: it may have been moved to a device, or its memory given back."""
    place = one.data_ptr() if one.device.type == "cpu" and one.untyped_storage().nbytes() else 0
    return ctypes.string_at(place, min(one.nbytes, _PROBE_BYTES)) if place else None


def _exchange(buffers: list[torch.Tensor], values: list[torch.Tensor]) -> None:
    with torch.no_grad():
        for buffer, value in zip(buffers, values, strict=True):
            buffer.copy_(value)


def _is_there(one: torch.Tensor | None) -> bool:
    return one is not None and is_plain(one)


def _alike(one: torch.Tensor, copy: torch.Tensor) -> bool:
    return one.shape == copy.shape and one.dtype == copy.dtype


def _moves(copies: list[torch.Tensor], buffers: list[torch.Tensor]) -> list[tuple[int, int, int]]:
    """Destination, source and size of plain memory copies; none unless all buffers allow it.

    For the few bytes of a BatchNorm's statistics, all that torch does around a copy costs many times the copy.
    """
    pairs = list(zip(copies, buffers, strict=True))
    if not all(one.is_cpu and is_dense(one) and is_dense(other) for one, other in pairs):
        return []
    return [(copy.data_ptr(), buffer.data_ptr(), buffer.nbytes) for copy, buffer in pairs]


@dataclass(frozen=True, slots=True)
class _Scripted:
    """What a module compiled by `torch.jit.script` has instead of a dict, with what is asked of one here."""

    table: Any

    def __getitem__(self, name: str) -> Any:
        return self.table[name]

    def get(self, name: str) -> Any:
        return self.table[name] if name in self.table else None  # noqa: SIM401  it has no get()

    def items(self) -> list[tuple[str, Any]]:
        return list(self.table.items())


def _slots(modules: Mapping[str, torch.nn.Module], kind: str) -> list[Slot]:
    """Every parameter or buffer once, by where it is kept. What is not initialised yet has nothing to remember."""
    found: dict[int, Slot] = {}
    for module in modules.values():
        for part in module.modules():
            holder = getattr(part, kind)
            if not isinstance(holder, dict):
                holder = _Scripted(holder)
            for name, one in holder.items():
                if one is not None and not is_uninitialized(one):
                    found.setdefault(id(one), (holder, name))
    return list(found.values())


def _odd(modules: Mapping[str, torch.nn.Module]) -> Iterator[torch.Tensor]:
    """What may be plain memory later: parameters that are not initialised yet, and buffers that are something else."""
    for module in modules.values():
        yield from filter(is_uninitialized, module.parameters())
        yield from (one for one in module.buffers() if not is_plain(one))


def _unowned(modules: Mapping[str, torch.nn.Module], owned: frozenset[int]) -> Iterator[torch.Tensor]:
    """A few parameters, spread over each module that no optimizer has anything of."""
    for module in modules.values():
        parameters = [one for one in module.parameters() if not is_uninitialized(one)]
        if parameters and not any(id(one) in owned for one in parameters):
            plain = [
                one for one in parameters if one.device.type == "cpu" and one.layout == torch.strided and one.nbytes
            ]
            yield from plain[:: len(plain) // _PROBES + 1]
