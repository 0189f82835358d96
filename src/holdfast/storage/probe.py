"""What a folder's storage can do, and how fast, without touching anything that is in it."""

from __future__ import annotations

import errno
import time

import msgspec

from holdfast.errors import StorageError
from holdfast.storage import platform
from holdfast.storage.capabilities import Capabilities, try_out
from holdfast.storage.mounts import Mount, mount_of
from holdfast.storage.scratch import scratch_folder
from holdfast.storage.speed import Clock, Speed, measure
from holdfast.types import Advance
from holdfast.wording import size as words

_SHARE = 4
"""Of what is free, the sample takes at most one part in so many."""


class Probe(msgspec.Struct, frozen=True, kw_only=True):
    """What was found out about ``folder``. ``free`` and ``total`` are bytes of its file system.

    ``sample`` is how many bytes were to be written. ``mount``, ``free`` and ``total`` are None where the system does
    not tell, ``speed`` where no checkpoint could be committed, so that there is no speed of a save.
    """

    folder: str
    mount: Mount | None
    free: int | None
    total: int | None
    sample: int
    capabilities: Capabilities
    speed: Speed | None


def probe(
    folder: str, sample: int, block_size: int, *, memory: int | None = None, advance: Advance = lambda _: None,
    clock: Clock = time.perf_counter,
) -> Probe:  # fmt: skip
    """Tries out the existing ``folder`` in a hidden folder inside, which is removed however this ends.

    ``sample`` bytes are written, fewer where they are more than a quarter of what is free; where the storage is
    ``memory``, no more than so much of that is free. Raises `StorageError`.
    """
    with scratch_folder(folder) as scratch:
        mount = mount_of(folder)
        free = _free(folder, memory if mount is not None and mount.in_memory else None)
        fitting = _fitting(sample, block_size, free, folder)
        found = try_out(scratch, block_size)
        speed = measure(scratch, fitting, block_size, clock, advance) if found.durable else None
    return Probe(
        folder=folder, mount=mount, free=free, total=platform.total_bytes(folder), sample=fitting,
        capabilities=found, speed=speed,
    )  # fmt: skip


def _free(folder: str, memory: int | None) -> int | None:
    known = [one for one in (platform.free_bytes(folder), memory) if one is not None]
    return min(known, default=None)


def _fitting(sample: int, block_size: int, free: int | None, folder: str) -> int:
    """As many whole blocks of ``sample`` as there may be.

    >>> _fitting(10_000, 4096, 20_000, "runs"), _fitting(100_000, 4096, None, "runs")
    (4096, 98304)
    """
    most = sample if free is None else min(sample, free // _SHARE)
    if most < block_size:
        raise StorageError(
            errno.ENOSPC,
            f"cannot probe {folder}: {words(free or 0)} is free, and at least {words(_SHARE * block_size)} is needed. "
            "Free some space, or choose another folder.",
        )
    return most // block_size * block_size
