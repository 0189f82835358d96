"""Removing what a folder holds, never what a link in it points to."""

from __future__ import annotations

import os
import stat


def remove(path: str) -> None:
    """Removes a file, a link or a folder with all in it. What vanishes meanwhile counts as removed."""
    try:
        mode = os.lstat(path).st_mode
        if stat.S_ISDIR(mode):
            _remove_folder(path)
        else:
            os.unlink(path)
    except FileNotFoundError:
        pass


def _remove_folder(path: str) -> None:
    with os.scandir(path) as entries:
        names = [entry.path for entry in entries]
    for name in names:
        remove(name)
    os.rmdir(path)
