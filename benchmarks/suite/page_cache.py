"""Files as a fresh machine finds them: on the disk only."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterable
from pathlib import Path

STRIDE = 1 << 20
DROP = Path("/proc/sys/vm/drop_caches")
FADVISE, DROPPED, KEPT = "posix_fadvise", "drop_caches", "not possible: some of it stayed in the page cache"


def files_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def sync(paths: Iterable[Path], root: Path) -> None:
    """Makes files below ``root`` durable, with the folders on their way, which name them."""
    folders = {root}
    for path in paths:
        _sync(path)
        folders.update(one for one in path.parents if one.is_relative_to(root))
    for folder in folders:
        _sync(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def evict(paths: list[Path]) -> str:
    """Takes files out of the page cache, and says by what. Only where that does not do, everybody's files."""
    for path in paths:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if not any(cached(path) for path in paths):
        return FADVISE
    with contextlib.suppress(OSError):
        DROP.write_text("3")
    return KEPT if any(cached(path) for path in paths) else DROPPED


def cached(path: Path) -> bool:
    """Whether any place that is looked at is in memory; asked without reading anything from the disk."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        return any(_cached_at(file.fileno(), place) for place in range(0, size, STRIDE))


def _cached_at(descriptor: int, place: int) -> bool:
    try:
        return os.preadv(descriptor, [bytearray(1)], place, os.RWF_NOWAIT) > 0
    except OSError as error:
        if error.errno == errno.EAGAIN:
            return False
        if error.errno == errno.EOPNOTSUPP:
            return False  # a file system that cannot be asked is believed
        raise
