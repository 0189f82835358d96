"""The arena: shared host memory that holds one snapshot, laid out as the files it becomes."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import resource
import sys
import tempfile
import threading
from collections.abc import Callable

from holdfast.engine.memory import allowed_memory, require_memory
from holdfast.errors import MemoryLimitError

_POPULATE_WRITE = 23
"""MADV_POPULATE_WRITE (Linux 5.14): the mmap module does not name it yet."""
_PREFAULT_STEP = 16 << 20
RING_UNIT = 16 << 20
"""Bytes of which a ring is a multiple: four blocks of a file, each of which stays in one piece."""
_LARGEST_RING = 1 << 30
"""Bytes of a ring that is made because memory is short: more would not make it faster."""

Pin = Callable[[int, int], Callable[[], None] | None]
"""Given the address and size of memory, has a device copy into it by itself; a call that takes this back, or None."""


class Arena:
    """``size`` bytes of shared memory, mapped here and, through ``descriptor``, in the writer process.

    Raises `MemoryLimitError` if the memory allowed to this process, or its file-size limit,
    is too small: a refusal now instead of an out-of-memory kill later.

    >>> arena = Arena(8192)
    >>> arena.view[:4] = b"data"
    >>> bytes(arena.view[:4])
    b'data'
    >>> arena.close()
    """

    def __init__(self, size: int) -> None:
        self.size = max(size, mmap.PAGESIZE)
        require_memory(self.size, "the snapshot of this run's state", allowed_memory())
        self.descriptor, self._map = _shared_memory(self.size)
        self.view = memoryview(self._map)
        self._closed = threading.Event()
        self._prefault: threading.Thread | None = None
        self._unpin: Callable[[], None] | None = None

    @property
    def pinned(self) -> bool:
        """Whether a device copies into it by itself."""
        return self._unpin is not None

    def prefault(self, pin: Pin | None = None) -> None:
        """Brings the pages in from a background thread: a copy into fresh pages runs at a tenth of the speed.

        Then they are handed to ``pin``, which takes as long again.
        """
        self._prefault = threading.Thread(target=self._warm, args=(pin,), name="holdfast-prefault", daemon=True)
        self._prefault.start()

    def _warm(self, pin: Pin | None) -> None:
        anchor = (ctypes.c_char * self.size).from_buffer(self._map)
        start = ctypes.addressof(anchor)
        if sys.platform.startswith("linux"):
            self._populate(start)
        if pin is not None and not self._closed.is_set():
            self._unpin = pin(start, self.size)

    def _populate(self, start: int) -> None:
        madvise = ctypes.CDLL(None, use_errno=True).madvise
        madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        for offset in range(0, self.size, _PREFAULT_STEP):
            length = min(_PREFAULT_STEP, self.size - offset)
            if self._closed.is_set() or madvise(start + offset, length, _POPULATE_WRITE) != 0:
                break

    def close(self) -> None:
        """Gives the memory back. The writer may keep its own mapping for a while, which holds nothing any more."""
        self._closed.set()
        if self._prefault is not None:
            self._prefault.join()
        if self._unpin is not None:
            self._unpin()
        if hasattr(mmap, "MADV_REMOVE"):
            with contextlib.suppress(OSError):
                self._map.madvise(mmap.MADV_REMOVE)
        os.close(self.descriptor)
        # A copy that failed leaves a part of the memory in its traceback; it is unmapped when that goes.
        with contextlib.suppress(BufferError):
            self.view.release()
            self._map.close()


def ring_size(needed: int, beside: int, limit: int | None, present: int = 0) -> int | None:
    """Bytes of the ring through which a snapshot streams that does not fit; None if it does.

    It has ``needed`` bytes, with those that lie ``beside`` it in the arena. The user's word is that the arena may have
    ``limit`` bytes; one of ``present`` bytes would go. Raises `MemoryLimitError` if no ring fits in the limit. Where
    memory is too short for the smallest ring, the answer is None too: `Arena` says what is missing.
    """
    ring, allowed = None, allowed_memory()
    if limit is not None and needed > limit:
        ring = (limit - beside) // RING_UNIT * RING_UNIT
        if ring <= 0:
            raise MemoryLimitError(
                f"an arena of {limit:,} bytes is too small for this run's state: it needs {needed:,} bytes to hold it, "
                f"or at least {beside + RING_UNIT:,} to stream it. Raise arena=."
            )
        needed = ring + beside
    if allowed is None or needed <= allowed + present:
        return ring
    return min((allowed + present) // 4, ring or _LARGEST_RING, _LARGEST_RING) // RING_UNIT * RING_UNIT or ring


def _shared_memory(size: int) -> tuple[int, mmap.mmap]:
    with contextlib.ExitStack() as undo:
        try:
            descriptor = _open_anonymous()
            undo.callback(os.close, descriptor)
            _truncate(descriptor, size)
            mapped = mmap.mmap(descriptor, size)
        except OSError as error:
            raise MemoryLimitError(
                f"cannot set aside {size:,} bytes of shared memory for snapshots: {error}. Raise the memory limit, the "
                "file-size limit (ulimit -f), which shared memory falls under, or the limit on open files (ulimit -n)."
            ) from error
        undo.pop_all()
    return descriptor, mapped


def _open_anonymous() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("holdfast-arena", os.MFD_CLOEXEC)
    descriptor, path = tempfile.mkstemp(prefix="holdfast-arena-")
    os.unlink(path)
    return descriptor


def _truncate(descriptor: int, size: int) -> None:
    """Sets the size, with the soft file-size limit lifted for the moment: it is meant for files on disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    if soft == resource.RLIM_INFINITY or soft >= size:
        os.ftruncate(descriptor, size)
        return
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    try:
        os.ftruncate(descriptor, size)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
