"""Faults on purpose: a storage that fails, lies or hangs, and system calls that fail."""

from __future__ import annotations

import errno
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from holdfast.storage.base import Appender, FileStatus, Names, Storage, Try
from holdfast.storage.failures import failure
from holdfast.storage.paths import is_debris


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Strikes at the ``call``-th call of ``verb``, counted from 1, and at the ``times - 1`` calls after it.

    Verbs are the methods of `Storage`, and ``link``, ``write``, ``read_back``, ``commit`` and ``abandon`` of its tries;
    ``extend`` is the ``write`` of its appenders.
    """

    verb: str
    call: int = 1
    times: int = 1

    def due(self, verb: str, call: int) -> bool:
        """Whether it strikes now."""
        return verb == self.verb and self.call <= call < self.call + self.times

    def before(self, where: str) -> None:
        """What happens instead of the call, or before it."""

    def after(self, where: str) -> None:
        """What happens once the call has had its effect."""

    def kept(self, size: int) -> int:
        """How many of ``size`` bytes are really written."""
        return size

    def carried(self, blocks: Iterable[memoryview]) -> Iterable[memoryview]:
        """What becomes of the blocks of a shard on their way to the medium, or back from it."""
        return blocks


@dataclass(frozen=True, slots=True, kw_only=True)
class Fail(Fault):
    """Raises the `StorageError` for ``error``, before the call has an effect or, as a lost reply, after it."""

    error: int = errno.EIO
    lost_reply: bool = False

    def before(self, where: str) -> None:
        """Raises, unless the call is to have its effect."""
        if not self.lost_reply:
            self._raise(where)

    def after(self, where: str) -> None:
        """Raises, although the call had its effect."""
        if self.lost_reply:
            self._raise(where)

    def _raise(self, where: str) -> None:
        raise failure(OSError(self.error, os.strerror(self.error)), self.verb, where)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShortWrite(Fault):
    """Writes the first ``keep`` bytes only, and says that all went well.

    The storage inside is told the smaller size, so its commit finds nothing wrong with the file; whoever reads it back
    gets no more than ``keep`` bytes of it.
    """

    keep: int = 0

    def kept(self, size: int) -> int:
        """At most ``keep``."""
        return min(size, self.keep)


@dataclass(frozen=True, slots=True, kw_only=True)
class FlipBit(Fault):
    """Flips one bit of a shard, and says that all went well: a medium that gives back other bytes than it was given.

    With the verb ``write`` it is flipped on the way to the medium, which then holds it, with ``read_back`` on the way
    back. ``bit`` counts from the beginning of the file; a file that ends before it stays as it is.
    """

    bit: int = 0

    def carried(self, blocks: Iterable[memoryview]) -> Iterator[memoryview]:
        """The same blocks, but for the bit."""
        place, bit = divmod(self.bit, 8)
        for block in blocks:
            if 0 <= place < block.nbytes:
                changed = bytearray(block)
                changed[place] ^= 1 << bit
                yield memoryview(changed)
            else:
                yield block
            place -= block.nbytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Hang(Fault):
    """Waits until ``over`` is set, then goes on."""

    over: threading.Event = field(default_factory=threading.Event)

    def before(self, where: str) -> None:
        """Waits."""
        self.over.wait()


class DueFaults:
    """What the faults that strike at one call do to its bytes, together."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self._faults = faults

    def kept(self, size: int) -> int:
        """How many of ``size`` bytes are to be written."""
        return min([size, *(fault.kept(size) for fault in self._faults)])

    def carried(self, blocks: Iterable[memoryview]) -> Iterable[memoryview]:
        """What becomes of ``blocks``."""
        for fault in self._faults:
            blocks = fault.carried(blocks)
        return blocks


class FaultyStorage:
    """``storage``, with ``faults``. ``calls`` counts the calls of each verb.

    >>> from holdfast.storage.memory import MemoryStorage
    >>> storage = FaultyStorage(MemoryStorage(), Fail(verb="create", call=2, error=errno.ENOSPC))
    >>> storage.create("first", b"")
    >>> storage.create("second", b"")
    Traceback (most recent call last):
    holdfast.errors.StorageError: [Errno 28] cannot create memory://: No space left on device. \
The file system is full: free some space, or keep fewer checkpoints.
    >>> storage.create("third", b""), storage.calls["create"]
    (None, 3)
    """

    def __init__(self, storage: Storage, *faults: Fault) -> None:
        self._storage = storage
        self._faults = faults
        self._lock = threading.Lock()
        self.calls: Counter[str] = Counter()

    @property
    def url(self) -> str:
        """That of the storage inside."""
        return self._storage.url

    @contextmanager
    def at(self, verb: str) -> Iterator[DueFaults]:
        """Around one call of ``verb``; yields what becomes of its bytes."""
        with self._lock:
            self.calls[verb] += 1
            call = self.calls[verb]
        due = [fault for fault in self._faults if fault.due(verb, call)]
        for fault in due:
            fault.before(self.url)
        yield DueFaults(due)
        for fault in due:
            fault.after(self.url)

    def prepare(self) -> None:
        with self.at("prepare"):
            self._storage.prepare()

    def list(self) -> Names:
        with self.at("list"):
            return self._storage.list()

    def list_files(self, name: str) -> dict[str, int]:
        with self.at("list_files"):
            return self._storage.list_files(name)

    def size(self, path: str) -> int:
        with self.at("size"):
            return self._storage.size(path)

    def status(self, path: str) -> FileStatus:
        with self.at("status"):
            return self._storage.status(path)

    def read(self, path: str, *, limit: int) -> bytes:
        with self.at("read"):
            return self._storage.read(path, limit=limit)

    def is_cached(self, path: str) -> bool:
        with self.at("is_cached"):
            return self._storage.is_cached(path)

    def read_into(self, path: str, offset: int, buffers: Iterable[memoryview], *, direct: bool = False) -> None:
        with self.at("read_into"):
            self._storage.read_into(path, offset, buffers, direct=direct)

    def create(self, path: str, data: bytes) -> None:
        with self.at("create") as due:
            self._storage.create(path, data[: due.kept(len(data))])

    def append(self, path: str) -> FaultyAppender:
        with self.at("append"):
            return FaultyAppender(self, self._storage.append(path))

    def begin(self, name: str, try_id: str) -> FaultyTry:
        with self.at("begin"):
            return FaultyTry(self, self._storage.begin(name, try_id))

    def delete(self, name: str) -> None:
        with self.at("delete"):
            self._storage.delete(name)

    def set_aside(self, name: str) -> Callable[[], None]:
        with self.at("delete"):
            return self._storage.set_aside(name)

    def remove(self, path: str) -> None:
        with self.at("remove"):
            self._storage.remove(path)

    def sweep(self, is_debris: Callable[[str], bool] = is_debris) -> Names:
        with self.at("sweep"):
            return self._storage.sweep(is_debris)

    def free(self) -> int | None:
        with self.at("free"):
            return self._storage.free()

    def sync(self) -> None:
        with self.at("sync"):
            self._storage.sync()


class FaultyTry:
    """A try of a `FaultyStorage`."""

    def __init__(self, storage: FaultyStorage, inner: Try) -> None:
        self._storage = storage
        self._inner = inner

    def reserve(self, file: str, size: int) -> None:
        with self._storage.at("reserve"):
            self._inner.reserve(file, size)

    def link(self, source: str, file: str, size: int) -> bool:
        with self._storage.at("link"):
            return self._inner.link(source, file, size)

    def write(self, file: str, blocks: Iterable[memoryview], size: int) -> None:
        with self._storage.at("write") as due:
            self._inner.write(file, due.carried(blocks), due.kept(size))

    def read_back(self, file: str, *, block_size: int) -> Iterator[memoryview]:
        with self._storage.at("read_back") as due:
            yield from due.carried(self._inner.read_back(file, block_size=block_size))

    def commit(self, manifest: bytes, *, name: str | None = None, read_back: bool = False) -> None:
        with self._storage.at("commit") as due:
            self._inner.commit(manifest[: due.kept(len(manifest))], name=name, read_back=read_back)

    def abandon(self) -> None:
        with self._storage.at("abandon"):
            self._inner.abandon()


class FaultyAppender:
    """An appender of a `FaultyStorage`."""

    def __init__(self, storage: FaultyStorage, inner: Appender) -> None:
        self._storage = storage
        self._inner = inner

    def write(self, data: bytes) -> None:
        with self._storage.at("extend") as due:
            self._inner.write(data[: due.kept(len(data))])

    def close(self) -> None:
        self._inner.close()


@contextmanager
def failing_call(name: str, *, call: int = 1, times: int = 1, error: int = errno.EIO) -> Iterator[Counter[str]]:
    """While open, the ``call``-th call of ``os.<name>`` and the ``times - 1`` after it raise ``error``.

    Yields a counter of those calls. It holds for the whole process.

    >>> with failing_call("mkdir", error=errno.EROFS):
    ...     os.mkdir("folder")
    Traceback (most recent call last):
    OSError: [Errno 30] Read-only file system
    """
    original = getattr(os, name)
    calls: Counter[str] = Counter()

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        calls[name] += 1
        if call <= calls[name] < call + times:
            raise OSError(error, os.strerror(error))
        return original(*args, **kwargs)

    setattr(os, name, wrapper)
    try:
        yield calls
    finally:
        setattr(os, name, original)
