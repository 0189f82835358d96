"""The memory of snapshots."""

from __future__ import annotations

import mmap
import os
import sys
from typing import Any

import pytest

from holdfast.engine import arena as module
from holdfast.engine.arena import Arena
from holdfast.errors import MemoryLimitError


def test_a_copy_that_failed_does_not_keep_the_arena_from_closing() -> None:
    """Its traceback still holds a part of the memory, and the run has to end with that error and no other."""
    arena = Arena(8192)
    part = arena.view[:16]
    arena.prefault()
    arena.close()
    assert len(part) == 16


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux can take memory back from all mappings")
def test_a_closed_arena_holds_no_memory() -> None:
    """Also while the writer still has its mapping: the next one, which may be larger, has to fit."""
    arena = Arena(1 << 20)
    arena.view[:] = b"x" * len(arena.view)
    others = os.dup(arena.descriptor)
    assert os.fstat(others).st_blocks
    arena.close()
    assert not os.fstat(others).st_blocks
    os.close(others)


def test_a_lack_of_descriptors_or_address_space_is_a_typed_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the system refuses, it is named."""

    def refuse(*arguments: Any) -> None:
        raise OSError(12, "Cannot allocate memory")

    for owner, name in ((module.os, "memfd_create"), (mmap, "mmap")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, refuse)
            with pytest.raises(MemoryLimitError, match=r"cannot set aside 8,192 bytes.*Cannot allocate memory"):
                Arena(8192)
