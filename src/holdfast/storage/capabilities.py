"""What a file system can do of what holdfast rests on, found out by trying."""

from __future__ import annotations

import errno
import mmap
import os
import subprocess
import sys
from collections.abc import Callable

import msgspec

from holdfast.storage import platform
from holdfast.storage.direct import FileWriter, write_file
from holdfast.storage.failures import failure
from holdfast.storage.locks import RecordLock

_NO_ROOM = (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC))
"""These say nothing about what the file system can do."""
_TAKEN_EXIT = 17
_WITNESS = f"""
import errno, fcntl, sys
with open(sys.argv[1], "r+b") as file:
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        sys.exit({_TAKEN_EXIT} if error.errno in (errno.EACCES, errno.EAGAIN) else 1)
"""
"""Another process that asks for a lock. It imports nothing of holdfast, so it starts at once."""


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """What came of trying one thing: whether it works and, where it does not, how that showed.

    ``lies``: the system said that all went well, and it did not.
    """

    works: bool
    because: str = ""
    lies: bool = False


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """One trial for each thing.

    ``sync``: files and folders are made durable. ``rename``: a folder is renamed, but never onto one that is not empty.
    ``locks``: a record lock is taken, and another process sees that. ``links``: a hard link is made, but never onto a
    name that is taken. ``direct``: O_DIRECT. ``reservation``: room is set aside for a file.
    """

    sync: Trial
    rename: Trial
    locks: Trial
    links: Trial
    direct: Trial
    reservation: Trial

    @property
    def durable(self) -> bool:
        """Whether a checkpoint can be committed at all."""
        return self.sync.works and self.rename.works


def try_out(folder: str, block_size: int) -> Capabilities:
    """Tries each in the empty ``folder``; writes past the page cache are tried with ``block_size`` bytes.

    Raises `StorageError` where the disk or a quota is full.
    """
    return Capabilities(
        sync=_tried(_sync, folder),
        rename=_tried(_rename, folder),
        locks=_tried(_locks, folder),
        links=_tried(_links, folder),
        direct=_tried(lambda place: _direct(place, block_size), folder),
        reservation=_tried(lambda place: _reservation(place, block_size), folder),
    )


_WORKS = Trial(works=True)


def _lie(because: str) -> Trial:
    return Trial(works=False, because=because, lies=True)


def _tried(attempt: Callable[[str], Trial], folder: str) -> Trial:
    """What comes of the attempt, or what the system says where it refuses."""
    try:
        return attempt(folder)
    except OSError as error:
        number = error.errno or errno.EIO
        if number in _NO_ROOM:
            raise failure(OSError(number, os.strerror(number)), "write in", folder) from error
        return Trial(works=False, because=os.strerror(number))


def _sync(folder: str) -> Trial:
    write_file(os.path.join(folder, "synced"), [memoryview(b"x")], 1, direct=False)
    platform.sync_folder(folder)
    return _WORKS


def _rename(folder: str) -> Trial:
    new, free, taken = (os.path.join(folder, name) for name in ("new", "free", "taken"))
    for place in (new, taken):
        os.mkdir(place)
        _make(os.path.join(place, "file"))
    os.rename(new, free)
    try:
        os.rename(free, taken)
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
            return _WORKS
        raise
    return _lie("a folder was put in the place of another one that was not empty")


def _locks(folder: str) -> Trial:
    lock = RecordLock(os.path.join(folder, "lock"))
    if not lock.acquire():
        return Trial(works=False, because="a lock that nobody has was refused")
    try:
        witness = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _WITNESS, lock.path], stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False,
        )  # fmt: skip
    finally:
        lock.release()
    if witness.returncode == _TAKEN_EXIT:
        return _WORKS
    if witness.returncode == 0:
        return _lie("another process was given a lock that this one has")
    return Trial(works=False, because="another process could not ask for the lock")


def _links(folder: str) -> Trial:
    file, link, taken = (os.path.join(folder, name) for name in ("linked", "link", "no-link"))
    _make(file)
    _make(taken)
    os.link(file, link)
    try:
        os.link(file, taken)
    except FileExistsError:
        return _WORKS
    return _lie("a link was put in the place of another file")


def _direct(folder: str, block_size: int) -> Trial:
    path = os.path.join(folder, "direct")
    writer = FileWriter(path, direct=True)
    try:
        writer.write(memoryview(mmap.mmap(-1, block_size)), block_size)
    finally:
        writer.close()
        os.unlink(path)
    return _WORKS if writer.direct else Trial(works=False, because="refused")


def _reservation(folder: str, size: int) -> Trial:
    path = os.path.join(folder, "reserved")
    descriptor = os.open(path, platform.CREATE, 0o666)
    try:
        if not platform.reserve(descriptor, size):
            return Trial(works=False, because="not offered")
        # In units of 512 bytes, whatever the file system's blocks are.
        reserved = os.fstat(descriptor).st_blocks * 512 >= size
    finally:
        os.close(descriptor)
        os.unlink(path)
    return _WORKS if reserved else _lie("granted, but no room was taken")


def _make(path: str) -> None:
    os.close(os.open(path, platform.CREATE, 0o666))
