"""Kill a training run anywhere, start it again with the same command, and get the same weights, bit for bit.

::

    import holdfast

    run = holdfast.Run("runs/digits", state={"model": model, "optimizer": optimizer})
    for epoch in run.epochs(10):
        for x, y in run.batches(loader):
            ...

Importing this package imports neither a framework nor anything else that is slow: every public name
is fetched from its module when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from holdfast.checkpoint import Checkpoint, LoadReport, best, checkpoints, latest
    from holdfast.errors import (
        AlreadyExistsError,
        CorruptError,
        DataOrderError,
        ExactnessWarning,
        HoldfastError,
        HoldfastWarning,
        MemoryLimitError,
        MisfitError,
        NotFoundError,
        OwnershipError,
        PlatformError,
        SaveError,
        StorageError,
        UnsafeValueError,
        UnsupportedFormatError,
        UsageError,
    )
    from holdfast.follower import follow
    from holdfast.format.values import register_codec
    from holdfast.policies.best import OnBest
    from holdfast.policies.deadline import BeforeDeadline
    from holdfast.policies.event import AtEnd, AtStart, OnError, OnSignal
    from holdfast.policies.interval import At, AtMostEvery, Every
    from holdfast.policies.keep import KeepAll, KeepPolicy, KeepWhen, Kept
    from holdfast.policies.keep_marks import KeepBest, KeepEvery
    from holdfast.policies.keep_newest import KeepLast, KeepSize, KeepWithin
    from holdfast.policies.moment import Costs, Moment
    from holdfast.policies.overhead import Overhead
    from holdfast.policies.save import Choice, SavePolicy, When
    from holdfast.run import Run, Saver
    from holdfast.run.voice import Event
    from holdfast.types import Progress

__version__ = "0.1.0"

__all__ = [
    "AlreadyExistsError",
    "At",
    "AtEnd",
    "AtMostEvery",
    "AtStart",
    "BeforeDeadline",
    "Checkpoint",
    "Choice",
    "CorruptError",
    "Costs",
    "DataOrderError",
    "Event",
    "Every",
    "ExactnessWarning",
    "HoldfastError",
    "HoldfastWarning",
    "KeepAll",
    "KeepBest",
    "KeepEvery",
    "KeepLast",
    "KeepPolicy",
    "KeepSize",
    "KeepWhen",
    "KeepWithin",
    "Kept",
    "LoadReport",
    "MemoryLimitError",
    "MisfitError",
    "Moment",
    "NotFoundError",
    "OnBest",
    "OnError",
    "OnSignal",
    "Overhead",
    "OwnershipError",
    "PlatformError",
    "Progress",
    "Run",
    "SaveError",
    "SavePolicy",
    "Saver",
    "StorageError",
    "UnsafeValueError",
    "UnsupportedFormatError",
    "UsageError",
    "When",
    "best",
    "checkpoints",
    "follow",
    "latest",
    "register_codec",
]

_HOMES = {
    "holdfast.checkpoint": ("Checkpoint", "LoadReport", "best", "checkpoints", "latest"),
    "holdfast.follower": ("follow",),
    "holdfast.format.values": ("register_codec",),
    "holdfast.policies.best": ("OnBest",),
    "holdfast.policies.deadline": ("BeforeDeadline",),
    "holdfast.policies.event": ("AtEnd", "AtStart", "OnError", "OnSignal"),
    "holdfast.policies.interval": ("At", "AtMostEvery", "Every"),
    "holdfast.policies.keep": ("KeepAll", "KeepPolicy", "KeepWhen", "Kept"),
    "holdfast.policies.keep_marks": ("KeepBest", "KeepEvery"),
    "holdfast.policies.keep_newest": ("KeepLast", "KeepSize", "KeepWithin"),
    "holdfast.policies.moment": ("Costs", "Moment"),
    "holdfast.policies.overhead": ("Overhead",),
    "holdfast.policies.save": ("Choice", "SavePolicy", "When"),
    "holdfast.run": ("Run", "Saver"),
    "holdfast.run.voice": ("Event",),
    "holdfast.types": ("Progress",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'holdfast' has no attribute {name!r}")
    value = getattr(import_module(_HOME_OF.get(name, "holdfast.errors")), name)
    globals()[name] = value  # the next access does not come here again
    return value


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
