"""A hidden folder to try things out in, which goes when that is over."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator

from holdfast.storage.failures import reported
from holdfast.storage.locks import RecordLock
from holdfast.storage.paths import fresh_id
from holdfast.storage.removal import remove

_PREFIX = ".holdfast-probe-"
_is_scratch = re.compile(rf"{re.escape(_PREFIX)}[0-9a-f]{{8}}").fullmatch
_OWNER = "owner.lock"
_INSIDE = "inside"


@contextlib.contextmanager
def scratch_folder(parent: str) -> Iterator[str]:
    """A new empty folder, in a hidden one in ``parent`` that is removed, with all in it, however the body ends.

    Those that killed processes have left there are removed first. One whose process lives is known by its record
    lock, so where there are no locks, all are left alone. Raises `StorageError` if no folder can be made or removed.
    """
    _sweep(parent)
    folder = os.path.join(parent, _PREFIX + fresh_id())
    owner = RecordLock(os.path.join(folder, _OWNER))
    try:
        with reported("create the folder", folder):
            os.mkdir(folder)
        with contextlib.suppress(OSError):
            owner.acquire()
        inside = os.path.join(folder, _INSIDE)
        with reported("create the folder", inside):
            os.mkdir(inside)
        yield inside
    except BaseException:
        with contextlib.suppress(OSError):
            _remove(folder, owner)
        raise
    with reported("remove", folder):
        _remove(folder, owner)


def _remove(folder: str, owner: RecordLock) -> None:
    # An open file would stay behind on NFS, and the folder with it.
    owner.release()
    # The lock goes last: killed before that, this one is known to the next as abandoned.
    remove(os.path.join(folder, _INSIDE))
    remove(folder)


def _sweep(parent: str) -> None:
    with contextlib.suppress(OSError), os.scandir(parent) as entries:
        left = [one.path for one in entries if _is_scratch(one.name) and one.is_dir(follow_symlinks=False)]
        for folder in left:
            with contextlib.suppress(OSError):
                _remove_abandoned(folder)


def _remove_abandoned(folder: str) -> None:
    owner = RecordLock(os.path.join(folder, _OWNER))
    # Without the file, its process may be about to make it.
    if os.path.exists(owner.path) and owner.acquire():
        _remove(folder, owner)
