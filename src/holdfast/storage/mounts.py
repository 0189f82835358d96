"""Which file system a path is on, as Linux tells it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

import msgspec

_TABLE = Path("/proc/self/mountinfo")
_MEMORY = frozenset({"tmpfs", "ramfs"})
_LOCAL_LOCKS = frozenset({"nolock", "local_lock=all", "local_lock=posix", "localflock"})
"""Options of NFS and Lustre by which a lock is seen on the machine that took it, and on no other."""


class Mount(msgspec.Struct, frozen=True, kw_only=True):
    """A file system where it is mounted. ``source`` is what is mounted there, a device or a server's folder."""

    point: str
    type: str
    source: str
    options: tuple[str, ...]

    @property
    def in_memory(self) -> bool:
        """Whether what is there is gone with the machine."""
        return self.type in _MEMORY

    @property
    def local_locks(self) -> str | None:
        """The option by which locks do not reach other machines, if there is one."""
        return next((one for one in self.options if one in _LOCAL_LOCKS), None)


def mount_of(path: str, table: Path = _TABLE) -> Mount | None:
    """The mount that ``path`` is on; None where the system does not tell."""
    try:
        lines = table.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return None
    return _holding(os.path.realpath(path), filter(None, map(_parsed, lines)))


def _holding(path: str, mounts: Iterable[Mount]) -> Mount | None:
    """The innermost of those around ``path``; of two at one point the later one, which hides the other.

    >>> root = Mount(point="/", type="ext4", source="/dev/sda", options=())
    >>> data = Mount(point="/data", type="xfs", source="/dev/sdb", options=())
    >>> _holding("/data/runs", [root, data]).type, _holding("/database", [root, data]).type
    ('xfs', 'ext4')
    """
    around = [one for one in mounts if Path(path).is_relative_to(one.point)]
    return max(reversed(around), key=lambda one: len(one.point), default=None)


def _parsed(line: str) -> Mount | None:
    r"""One line of the table; None if it is none.

    >>> _parsed(r"36 35 0:52 / /mnt/my\040runs rw,noatime shared:1 - nfs4 server:/runs rw,local_lock=none").point
    '/mnt/my runs'
    """
    place, _, system = (part.split(" ") for part in line.partition(" - "))
    if len(place) < 6 or len(system) < 3:
        return None
    kind, source, options = (_unescaped(one) for one in system[:3])
    return Mount(
        point=_unescaped(place[4]), type=kind, source=source, options=(*place[5].split(","), *options.split(","))
    )


def _unescaped(text: str) -> str:
    """Blanks, line ends and backslashes stand in the table as octal numbers."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
