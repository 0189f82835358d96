"""Which cursor is for which loader."""

from __future__ import annotations

from typing import Any

from torch.utils.data import DataLoader, IterableDataset

from holdfast.state.torch.cursor import Cursor, ReplayCursor
from holdfast.state.torch.map_cursor import MapCursor
from holdfast.state.torch.position_cursor import PositionCursor, Seekable
from holdfast.state.torch.stateful_cursor import StatefulCursor


def make_cursor(loader: Any, where: str) -> Cursor:
    """By position if its sampler can be sought, by its own state_dict if it has one, by index, or else by replay."""
    if isinstance(loader, DataLoader) and isinstance(getattr(loader, "batch_sampler", None), Seekable):
        return PositionCursor(loader, where)
    if hasattr(loader, "state_dict") and hasattr(loader, "load_state_dict"):
        return StatefulCursor(loader, where)
    if not isinstance(loader, DataLoader):
        return ReplayCursor(loader, where)
    if isinstance(loader.dataset, IterableDataset):
        return ReplayCursor(loader, where, watch=loader.num_workers == 0)
    return MapCursor(loader, where)
