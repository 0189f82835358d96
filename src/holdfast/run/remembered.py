"""What a checkpoint keeps of a saver: what its policy remembers, and since when it counts."""

from __future__ import annotations

from typing import Any

import msgspec

from holdfast.types import Progress


class Remembered(msgspec.Struct, frozen=True, kw_only=True):
    """What a checkpoint keeps of a saver. ``key`` tells which one it was, ``fired`` why it took part in the save."""

    key: str
    memory: dict[str, Any] = {}
    saved: Progress = Progress()
    fired: tuple[str, ...] = ()


def match_remembered(keys: list[str], stored: list[Remembered]) -> dict[str, Remembered]:
    """Which of the ``stored`` belongs to which saver: by key, and what is left over by its place.

    A folder that was moved makes another key; a saver put in front of the others moves their places.
    """
    by_key = {one.key: one for one in stored}
    found = {key: by_key[key] for key in keys if key in by_key}
    for key, one in zip(keys, stored, strict=False):
        if key not in found and one.key not in keys:
            found[key] = one
    return found
