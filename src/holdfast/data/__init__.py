"""Samplers and loaders whose order is a pure function of seed, epoch and position, so that resuming costs nothing.

::

    from holdfast.data import DataLoader

    loader = DataLoader(dataset, batch_size=32, shuffle=True, seed=0, num_workers=4)

Names are resolved on first use: `Sampler` needs no framework, `DataLoader` is torch's.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from holdfast.data.loader import DataLoader
    from holdfast.data.permutation import Permutation
    from holdfast.data.sampler import Sampler

__all__ = ["DataLoader", "Permutation", "Sampler"]

_HOME_OF = {"DataLoader": "loader", "Permutation": "permutation", "Sampler": "sampler"}


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'holdfast.data' has no attribute {name!r}")
    value = getattr(import_module(f"holdfast.data.{_HOME_OF[name]}"), name)
    globals()[name] = value  # the next access does not come here again
    return value


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
