"""What a storage is: the verbs that the engine needs, and what each of them guarantees."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Protocol

import msgspec

from holdfast.storage.paths import is_debris

Names = list[str]


class FileStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What there is to know of a file without reading it.

    ``size`` in bytes; ``modified`` is when its bytes were last changed, comparable within one storage; ``body`` is
    equal for names of one and the same file, whose bytes are there once, and ``names`` is how many it has.
    """

    size: int
    modified: int
    body: Hashable
    names: int = 1


class Appender(Protocol):
    """A file that only grows: the journal of one attempt."""

    def write(self, data: bytes) -> None:
        """Appends all of ``data``, or nothing and raises `StorageError`; what returned survives the process's death."""
        ...

    def close(self) -> None:
        """Closes the file. May be called twice."""
        ...


class Try(Protocol):
    """One attempt to write one checkpoint, under a name of its own until it is committed.

    A try that failed stays failed: every later `write`, `read_back` and `commit` is refused. A file whose fsync failed
    may have lost pages that a second fsync would not miss, so it is abandoned and written afresh by another try.
    """

    def write(self, file: str, blocks: Iterable[memoryview], size: int) -> None:
        """Writes the new file ``file`` of ``size`` bytes and makes it durable.

        ``file`` is a plain name, new in this try or reserved by it, and not ``manifest.json``. ``blocks`` are the bytes
        in order; what they hold after ``size``, the padding of the last block, is not kept. Blocks at memory addresses
        and of lengths that are multiples of 4096 bytes go past the page cache where the file system takes that.
        Raises `StorageError` if bytes were refused or lost, and `UsageError` if the blocks hold fewer than ``size``
        bytes or the try is over.
        """
        ...

    def link(self, source: str, file: str, size: int) -> bool:
        """Makes the new file ``file`` of ``size`` bytes the very one that is at ``source``, a path in the storage.

        Nothing is written, and the bytes stay as long as one of the names does. False, and all is as before, where
        ``source`` is not there (any more), is no regular file, or can have no further name.
        Raises like `write` for ``file``; the commit measures it like what was written.
        """
        ...

    def reserve(self, file: str, size: int) -> None:
        """Sets ``size`` bytes aside for ``file``, which `write` fills: a full disk is known before the first byte.

        Raises `StorageError` if there is no room. Where the storage cannot set anything aside, `write` finds out.
        """
        ...

    def read_back(self, file: str, *, block_size: int) -> Iterator[memoryview]:
        """What the medium holds of ``file``, which this try has written or linked: its bytes in order.

        Every block has ``block_size`` bytes, a multiple of 4096, except the last one; each is valid only until the next
        is asked for. The bytes come from the medium, past the page cache, where the file system takes that; elsewhere
        cached pages are dropped before an ordinary read. Where the system offers neither, the cache may answer.
        Stopping early leaves the try as it is.
        Raises `StorageError` if the medium cannot be read or holds fewer bytes than were written, and `UsageError` if
        this try has not written ``file`` or is over; all of that at the latest while the blocks are asked for.
        """
        ...

    def commit(self, manifest: bytes, *, name: str | None = None, read_back: bool = False) -> None:
        """Makes all that was written appear under the final name, whole, durably, and only if that name is free.

        That is the name it was begun with, or ``name`` where it was not known then.
        Before that it measures every file, and with ``read_back`` it also compares the manifest that the medium holds.
        Raises `AlreadyExistsError` if something stands under the final name, which is left untouched, and
        `StorageError` if the checkpoint did not become durable, a file has another size than was announced, or
        the medium holds another manifest.
        """
        ...

    def abandon(self) -> None:
        """Removes what was written, as far as that works; what stays is debris. Never raises `StorageError`.

        After a successful `commit` it does nothing.
        """
        ...


class Storage(Protocol):
    """A flat folder of checkpoints and small files. Paths are ``name`` or ``folder/name``, see `paths`.

    Failures are a `StorageError` that names the operation and the path and carries ``errno``;
    a path that could leave the storage is a `UsageError`.
    """

    @property
    def url(self) -> str:
        """What a person would type to get here."""
        ...

    def prepare(self) -> None:
        """Makes the root, durably, if it is not there. Every writing verb does so too."""
        ...

    def list(self) -> Names:
        """The names directly in the root, sorted, debris included; none if there is no root yet."""
        ...

    def list_files(self, name: str) -> dict[str, int]:
        """The regular files of folder ``name`` and their sizes in bytes; none if there is no such folder.

        Links and special files are left out: nothing that was committed is one. Raises `CorruptError` if ``name``
        itself is a link or no folder.
        """
        ...

    def size(self, path: str) -> int:
        """The length in bytes. Raises `NotFoundError`; `CorruptError` for a link, a folder or a special file."""
        ...

    def status(self, path: str) -> FileStatus:
        """What there is to know of a file without reading it. Raises like `size`."""
        ...

    def read(self, path: str, *, limit: int) -> bytes:
        """The whole file. Raises like `size`, and `CorruptError` before reading if it holds over ``limit`` bytes."""
        ...

    def is_cached(self, path: str) -> bool:
        """Whether a read of the file seems to need no medium; True where there is no telling. Raises like `size`."""
        ...

    def read_into(self, path: str, offset: int, buffers: Iterable[memoryview], *, direct: bool = False) -> None:
        """Fills ``buffers`` with the bytes from ``offset`` on, completely.

        Each is full when the next one is asked for, so that it can be digested while it lies in a cache of the
        processor. ``direct``: past the page cache, where the file system takes that; whoever reads the file next does
        not find it there. Raises like `size`, and `CorruptError` if the file ends before that.
        """
        ...

    def create(self, path: str, data: bytes) -> None:
        """Makes a new durable file that appears whole or not at all. Raises `AlreadyExistsError` if it is there."""
        ...

    def append(self, path: str) -> Appender:
        """Opens a file to append to, making it if need be."""
        ...

    def begin(self, name: str, try_id: str) -> Try:
        """Starts to write the checkpoint ``name``. Raises `AlreadyExistsError` if ``try_id`` was used for it before."""
        ...

    def delete(self, name: str) -> None:
        """Takes ``name`` away at once and durably, then removes it. What is not there counts as deleted."""
        ...

    def set_aside(self, name: str) -> Callable[[], None]:
        """The first half of `delete`: ``name`` is away, durably, in a time that does not grow with what it holds.

        The call that is returned gives back its space, and raises `StorageError` if it cannot. What it would remove is
        debris, also if it is never made.
        """
        ...

    def remove(self, path: str) -> None:
        """Removes one small file, durably. What is not there counts as removed. Raises `CorruptError` for a folder."""
        ...

    def sweep(self, is_debris: Callable[[str], bool] = is_debris) -> Names:
        """Removes those names of the root that ``is_debris``, and returns them.

        What cannot be removed stays and is not in the list: debris must not keep a run from starting.
        """
        ...

    def free(self) -> int | None:
        """How many bytes may still be written here; None where nobody knows."""
        ...

    def sync(self) -> None:
        """Makes what `list` shows durable: a rename can be visible before it would survive a power cut."""
        ...
