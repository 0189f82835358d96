"""The seam to the operating system: what only some systems offer, behind one function each.

Linux has all of it. macOS has no O_DIRECT and another full sync; Windows has no folder syncs, vectored
reads or record locks, and reading works there.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import sys

if sys.platform != "win32":
    import fcntl

# A link inside a run folder is never followed: reading must not leave the folder, nor writing hit a file elsewhere.
_PLAIN: int = getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)
READ = os.O_RDONLY | _PLAIN | getattr(os, "O_NONBLOCK", 0)
"""Opens a regular file to read; a pipe put in its place cannot block."""
CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _PLAIN
REOPEN = os.O_WRONLY | _PLAIN
APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND | _PLAIN
LOCK = os.O_RDWR | os.O_CREAT | _PLAIN

_DIRECT: int = getattr(os, "O_DIRECT", 0)
_HUGE_PAGE = 2 << 20
_KEEP_SIZE = 1
"""FALLOC_FL_KEEP_SIZE (Linux)."""
_NO_RESERVATION = (errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
_NO_FOLDER_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP)


def sync_file(descriptor: int) -> None:
    """Returns when the file's bytes survive a power cut."""
    if sys.platform == "darwin":
        # macOS: fsync alone leaves the bytes in the drive's own cache.
        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
    os.fsync(descriptor)


def sync_folder(path: str) -> None:
    """Returns when the names in the folder survive a power cut, where the system offers that."""
    if sys.platform == "win32":
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems sync names by themselves and refuse to be asked.
        if error.errno not in _NO_FOLDER_SYNC:
            raise
    finally:
        os.close(descriptor)


def set_direct(descriptor: int, direct: bool) -> bool:
    """Turns reading and writing past the page cache on or off; False if this file cannot have it.

    Set on the open file: an open with O_DIRECT that is refused may leave the new file behind.
    """
    if sys.platform == "win32" or not _DIRECT:
        return False
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | _DIRECT if direct else flags & ~_DIRECT)
    except OSError as error:
        if direct and error.errno == errno.EINVAL:
            return False
        raise
    return True


def drop_cached(descriptor: int) -> None:
    """Lets the page cache forget the file, where the system offers that. Pages that were not synced stay."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def is_cached(descriptor: int, offset: int) -> bool:
    """Whether the page cache holds the byte at ``offset`` of the file; True where the system does not say.

    True, too, if it has no such byte. Asked by mincore: a read that may not wait would have the kernel read ahead.
    """
    if not sys.platform.startswith("linux"):
        return True
    begin = offset - offset % mmap.ALLOCATIONGRANULARITY
    try:
        with mmap.mmap(descriptor, offset + 1 - begin, access=mmap.ACCESS_COPY, offset=begin) as view:
            return _is_resident(view, offset - begin)
    except (OSError, ValueError):  # the latter for a file that has become shorter than that
        return True


def _is_resident(view: mmap.mmap, offset: int) -> bool:
    first = ctypes.c_char.from_buffer(view)
    page = ctypes.addressof(first) + offset - offset % mmap.PAGESIZE
    found = ctypes.c_ubyte(1)
    refused = ctypes.CDLL(None).mincore(ctypes.c_void_p(page), ctypes.c_size_t(1), ctypes.byref(found))
    del first  # a view that is referred to cannot be closed
    return bool(refused) or bool(found.value & 1)


def contiguous_memory(size: int) -> memoryview:
    """Zeros in one stretch of the machine's memory, up to 2 MiB and where the system offers that; else in pages.

    A disk takes as many stretches at a time as its queue allows, which is less than a block of single pages holds. A
    forked child does not have it: while it is shared with one, a page that the disk writes to may become the child's.
    """
    private = {} if sys.platform == "win32" else {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS}
    # Twice as much address space as a huge page needs: one that begins where a huge page can is in it.
    whole = mmap.mmap(-1, size + _HUGE_PAGE, **private)
    for name in ("MADV_HUGEPAGE", "MADV_DONTFORK"):
        if hasattr(mmap, name):
            with contextlib.suppress(OSError):  # a kernel without huge pages
                whole.madvise(getattr(mmap, name))
    begin = -ctypes.addressof(ctypes.c_char.from_buffer(whole)) % _HUGE_PAGE
    return memoryview(whole)[begin : begin + size]


def free_bytes(path: str) -> int | None:
    """What the file system of ``path`` has left for this user; None where the system does not say."""
    return _space(path)[0]


def total_bytes(path: str) -> int | None:
    """How large the file system of ``path`` is; None where the system does not say."""
    return _space(path)[1]


def _space(path: str) -> tuple[int, int] | tuple[None, None]:
    if sys.platform == "win32":
        return None, None
    try:
        found = os.statvfs(path)
    except OSError:
        return None, None
    return found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize


def reserve(descriptor: int, size: int) -> bool:
    """Has the file system set aside ``size`` bytes for the file, whose length stays; False where it cannot do that.

    Raises `OSError` if there is no room. Not by posix_fallocate: where that is not offered it writes every block.
    """
    if not sys.platform.startswith("linux") or not size:
        return False
    fallocate = ctypes.CDLL(None, use_errno=True).fallocate
    fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    while fallocate(descriptor, _KEEP_SIZE, 0, size) != 0:
        error = ctypes.get_errno()
        if error in _NO_RESERVATION:
            return False
        if error != errno.EINTR:  # a process that is stopped and goes on is interrupted, too
            raise OSError(error, os.strerror(error))
    return True


def read_some(descriptor: int, buffer: memoryview, offset: int) -> int:
    """Reads from ``offset`` into ``buffer``; the number of bytes read, 0 only at the end of the file."""
    if hasattr(os, "preadv"):
        return os.preadv(descriptor, [buffer], offset)
    os.lseek(descriptor, offset, os.SEEK_SET)
    data = os.read(descriptor, len(buffer))
    buffer[: len(data)] = data
    return len(data)


def try_lock(descriptor: int) -> bool:
    """Takes the POSIX record lock on the file, or returns False if another process has it."""
    if sys.platform == "win32":
        raise OSError(errno.ENOLCK, "record locks are not offered by Windows")
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            return False
        raise
    return True
