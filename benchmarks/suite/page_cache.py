"""Files as a fresh machine finds them, on the disk only, and as one finds them that has just read them."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
from collections.abc import Iterable
from pathlib import Path

DROP = Path("/proc/sys/vm/drop_caches")
_LIBC = ctypes.CDLL(None, use_errno=True)
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


def cache(paths: list[Path]) -> None:
    """Brings files into the page cache: not every load leaves them there."""
    block = memoryview(bytearray(1 << 20))
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while file.readinto(block):
                pass


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
    """Whether any page of the file is in memory. Asked by `mincore`: a read that may not wait would read ahead."""
    size = path.stat().st_size
    if size == 0:
        return False
    with path.open("rb") as file, mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY) as view:
        begin = ctypes.c_char.from_buffer(view)
        pages = (ctypes.c_ubyte * -(-size // mmap.PAGESIZE))()
        failed = _LIBC.mincore(ctypes.c_void_p(ctypes.addressof(begin)), ctypes.c_size_t(size), pages)
        del begin  # else the mapping cannot be closed
    if failed:
        raise OSError(ctypes.get_errno(), "mincore failed", str(path))
    return any(page & 1 for page in pages)
