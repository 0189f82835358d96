"""From the system's errors to ones that say what to do."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator

from holdfast.errors import AlreadyExistsError, HoldfastError, StorageError

_ADVICE = {
    errno.ENOSPC: "The file system is full: free some space, or keep fewer checkpoints.",
    errno.EFBIG: "The file exceeds the file-size limit of this process (ulimit -f) or of the file system: raise it.",
    errno.EROFS: "The file system is read-only: remount it, or choose another folder.",
    errno.EACCES: "This user may not do that: change the permissions, or choose another folder.",
    errno.EPERM: "This user may not do that: change the permissions or attributes, or choose another folder.",
    errno.EIO: "The device reported an I/O error: look into the system log and at the disk, or choose another folder.",
    errno.ENOTDIR: "A part of this path is a file, not a folder: choose another folder.",
    errno.ENAMETOOLONG: "The path is too long for this file system: choose a shorter folder.",
    errno.EMFILE: "This process has too many open files: raise the limit (ulimit -n).",
    errno.ENOLCK: "This file system offers no record locks: choose a folder on another one.",
    errno.EOPNOTSUPP: "This file system does not offer that: choose a folder on another one.",
}
if hasattr(errno, "EDQUOT"):
    _ADVICE[errno.EDQUOT] = "The disk quota is used up: free some space, raise the quota, or keep fewer checkpoints."
if hasattr(errno, "ESTALE"):
    _ADVICE[errno.ESTALE] = "The network file system lost this folder: see whether it is still mounted."

_TAKEN = (errno.EEXIST, errno.ENOTEMPTY)


def failure(error: OSError, action: str, path: str) -> StorageError:
    """The `StorageError` for ``error``, which happened when trying to ``action`` ``path``.

    >>> print(failure(OSError(errno.EROFS, "Read-only file system"), "create", "runs/a/holdfast.json"))
    [Errno 30] cannot create runs/a/holdfast.json: Read-only file system. \
The file system is read-only: remount it, or choose another folder.
    """
    number = error.errno if error.errno is not None else errno.EIO
    reason = error.strerror or str(error) or os.strerror(number)
    message = f"cannot {action} {path}: {reason}. {_ADVICE.get(number, '')}".rstrip()
    return (AlreadyExistsError if number in _TAKEN else StorageError)(number, message)


def wrong_size(path: str, found: int, announced: int) -> StorageError:
    """The `StorageError` for a file whose every write succeeded, and which has another size all the same."""
    return _not_kept(path, f"holds {found:,} bytes, {announced:,} were written to it")


def other_bytes(path: str) -> StorageError:
    """The `StorageError` for a file whose every write succeeded, and of which the medium gives back other bytes."""
    return _not_kept(path, "holds other bytes than were written to it")


def _not_kept(path: str, finding: str) -> StorageError:
    advice = "Look into the system log and at the disk, or choose another folder."
    return StorageError(errno.EIO, f"{path} {finding}, and no error was reported. {advice}")


@contextlib.contextmanager
def reported(action: str, path: str) -> Iterator[None]:
    """Turns an `OSError` raised inside into the `StorageError` that names ``action`` and ``path``."""
    try:
        yield
    except HoldfastError:
        raise
    except OSError as error:
        raise failure(error, action, path) from error
