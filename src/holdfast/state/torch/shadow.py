"""Whether anything of the state changed since a boundary, and what it was there."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch

BUFFER_LIMIT = 4 << 20
"""Bytes of buffers that are copied at each boundary. Larger ones are only watched."""


class Shadow:
    """Remembers a boundary of ``modules``, so that it can be saved although a later batch failed halfway.

    Small buffers are copied, because BatchNorm changes its statistics in the forward pass, without an optimizer step,
    and without moving a version counter. All other tensors are watched by their version counters,
    which every change in place moves but fused optimizers and writes through ``.data``; optimizer steps are known from
    their hooks.
    """

    def __init__(self, modules: Mapping[str, torch.nn.Module]) -> None:
        self._modules = modules
        self._buffers: list[torch.Tensor] = []
        self._copies: list[torch.Tensor] = []
        self._watched: list[torch.Tensor] = []
        self._versions: list[int] = []
        self._places: list[int] = []
        self._moves: list[tuple[int, int, int]] = []
        self.refresh()

    def refresh(self) -> None:
        """Looks again which tensors there are: called when the modules may have changed."""
        buffers = list(_unique(one for module in self._modules.values() for one in module.buffers()))
        small = sum(one.nbytes for one in buffers) <= BUFFER_LIMIT
        self._buffers = buffers if small else []
        parameters = _unique(one for module in self._modules.values() for one in module.parameters())
        self._watched = [*parameters, *(() if small else buffers)]
        self._copies = [one.detach().clone() for one in self._buffers]
        self._moves = []
        self.mark()

    def mark(self) -> None:
        """Remembers this moment."""
        if self._buffers:
            self._copy_buffers()
        self._versions = self.versions()

    def _copy_buffers(self) -> None:
        places = [one.data_ptr() for one in self._buffers]
        if self._moves and places == self._places:
            for move in self._moves:
                ctypes.memmove(*move)
            return
        with torch.no_grad():
            for copy, buffer in zip(self._copies, self._buffers, strict=True):
                copy.copy_(buffer)
        self._places, self._moves = places, _moves(self._copies, self._buffers)

    def versions(self) -> list[int]:
        """The version counters of all watched tensors now."""
        return [one._version for one in self._watched]

    def unchanged(self) -> bool:
        """Whether no watched tensor was changed in place since the last mark."""
        return self.versions() == self._versions

    @contextlib.contextmanager
    @torch.no_grad()
    def put_back(self) -> Iterator[None]:
        """The buffers as they were at the mark, for as long as they are being saved."""
        now = [one.detach().clone() for one in self._buffers]
        self._exchange(self._copies)
        try:
            yield
        finally:
            self._exchange(now)

    def _exchange(self, values: list[torch.Tensor]) -> None:
        with torch.no_grad():
            for buffer, value in zip(self._buffers, values, strict=True):
                buffer.copy_(value)


def _moves(copies: list[torch.Tensor], buffers: list[torch.Tensor]) -> list[tuple[int, int, int]]:
    """Destination, source and size of plain memory copies; none unless all buffers allow it.

    For the few bytes of a BatchNorm's statistics, all that torch does around a copy costs many times the copy.
    """
    pairs = list(zip(copies, buffers, strict=True))
    if not all(one.device.type == "cpu" and one.is_contiguous() and other.is_contiguous() for one, other in pairs):
        return []
    return [(copy.data_ptr(), buffer.data_ptr(), buffer.nbytes) for copy, buffer in pairs]


def _unique(tensors: Iterable[Any]) -> Iterator[Any]:
    seen: set[int] = set()
    for one in tensors:
        if id(one) not in seen:
            seen.add(id(one))
            yield one
