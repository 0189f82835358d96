"""A storage in this process's memory, for tests: the same contract, and gone with the process."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterable, Iterator

from holdfast.errors import AlreadyExistsError, CorruptError, NotFoundError, UsageError
from holdfast.storage.base import FileStatus, Names
from holdfast.storage.failures import other_bytes, reported, wrong_size
from holdfast.storage.paths import MANIFEST_FILE, check_name, is_debris, partial_name, split_path
from holdfast.storage.try_state import TryState, check_block_size, check_shard_name


class MemoryStorage:
    """Files by path, in ``files``; see `Storage` for what each verb promises. Threads may share it.

    >>> storage = MemoryStorage()
    >>> storage.create("attempts/0001.json", b"{}")
    >>> storage.list(), storage.read("attempts/0001.json", limit=100)
    (['attempts'], b'{}')
    """

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.files: dict[str, bytes] = {}
        self.folders: set[str] = set()
        self.lock = threading.RLock()

    @property
    def url(self) -> str:
        """``memory://`` and the name that was given."""
        return f"memory://{self.name}"

    def __repr__(self) -> str:
        return f"MemoryStorage({self.name!r})"

    def prepare(self) -> None:
        """Nothing to make."""

    def list(self) -> Names:
        """The names in the root, sorted."""
        with self.lock:
            return sorted({path.partition("/")[0] for path in self.files} | self.folders)

    def list_files(self, name: str) -> dict[str, int]:
        """The files of a checkpoint and their sizes."""
        check_name(name)
        with self.lock:
            if name in self.files:
                raise CorruptError(f"{self.url}/{name} is a regular file; a folder was expected")
            start = f"{name}/"
            return {p.removeprefix(start): len(self.files[p]) for p in sorted(self.files) if p.startswith(start)}

    def size(self, path: str) -> int:
        """The length of a file."""
        return len(self._get(path))

    def status(self, path: str) -> FileStatus:
        """A file is the object that holds its bytes; it never changes."""
        data = self._get(path)
        names = sum(one is data for one in self.files.values())
        return FileStatus(size=len(data), modified=0, body=id(data), names=names)

    def read(self, path: str, *, limit: int) -> bytes:
        """A whole file of at most ``limit`` bytes."""
        data = self._get(path)
        if len(data) > limit:
            raise CorruptError(f"{self.url}/{path} holds {len(data):,} bytes; at most {limit:,} make sense there")
        return data

    def is_cached(self, path: str) -> bool:
        """Nothing else holds it."""
        self._get(path)
        return True

    def read_into(self, path: str, offset: int, buffers: Iterable[memoryview], *, direct: bool = False) -> None:
        """Fills one buffer after the other from the file."""
        data = memoryview(self._get(path))
        for buffer in buffers:
            if offset + buffer.nbytes > len(data):
                wanted = f"{buffer.nbytes:,} bytes at {offset:,} were expected in it"
                raise CorruptError(f"{self.url}/{path} ends after {len(data):,} bytes; {wanted}")
            buffer.cast("B")[:] = data[offset : offset + buffer.nbytes]
            offset += buffer.nbytes

    def create(self, path: str, data: bytes) -> None:
        """Makes a new file."""
        split_path(path)
        with self.lock:
            self.require_free(path)
            self.files[path] = bytes(data)

    def append(self, path: str) -> MemoryAppender:
        """Opens a file that only grows."""
        split_path(path)
        with self.lock:
            self.files.setdefault(path, b"")
        return MemoryAppender(self, path)

    def free(self) -> int | None:
        """Nobody knows."""
        return None

    def begin(self, name: str, try_id: str) -> MemoryTry:
        """Starts to write a checkpoint in a folder of its own."""
        partial = partial_name(name, try_id)
        check_name(name)
        check_name(partial)
        with self.lock:
            self.require_free(partial)
            self.folders.add(partial)
        return MemoryTry(self, partial, name)

    def set_aside(self, name: str) -> Callable[[], None]:
        """Takes a name away, with all that it named: nothing is left to do."""
        self.delete(name)
        return lambda: None

    def delete(self, name: str) -> None:
        """Takes a name away, with all that it named."""
        check_name(name)
        with self.lock:
            self.folders.discard(name)
            for path in [p for p in self.files if p == name or p.startswith(f"{name}/")]:
                del self.files[path]

    def remove(self, path: str) -> None:
        """Removes one small file."""
        split_path(path)
        with self.lock:
            if path in self.list() and path not in self.files:
                raise CorruptError(f"{self.url}/{path} is a folder; a regular file was expected")
            self.files.pop(path, None)

    def sweep(self, is_debris: Callable[[str], bool] = is_debris) -> Names:
        """Removes what earlier saves left."""
        debris = [name for name in self.list() if is_debris(name)]
        for name in debris:
            self.delete(name)
        return debris

    def sync(self) -> None:
        """Nothing to wait for."""

    def require_free(self, path: str) -> None:
        """Refuses a path that names something."""
        if path in self.files or path in self.list():
            raise AlreadyExistsError(errno.EEXIST, f"cannot create {self.url}/{path}: it is there already")

    def _get(self, path: str) -> bytes:
        split_path(path)
        with self.lock:
            if path in self.list() and path not in self.files:
                raise CorruptError(f"{self.url}/{path} is a folder; a regular file was expected")
            try:
                return self.files[path]
            except KeyError:
                raise NotFoundError(errno.ENOENT, f"there is no {path} in {self.url}") from None


class MemoryTry:
    """A checkpoint being written under ``partial``, to be renamed to ``final``."""

    def __init__(self, storage: MemoryStorage, partial: str, final: str) -> None:
        self.partial = partial
        self.final = final
        self._storage = storage
        self._state = TryState(partial)

    def reserve(self, file: str, size: int) -> None:
        """There is nothing to set aside."""
        check_shard_name(file)
        with self._state.acting():
            self._state.reserved.add(file)

    def link(self, source: str, file: str, size: int) -> bool:
        """Keeps the same bytes under one more name."""
        check_shard_name(file)
        split_path(source)
        with self._state.acting(), self._storage.lock:
            data = self._storage.files.get(source)
            if data is None:
                return False
            self._storage.require_free(f"{self.partial}/{file}")
            self._storage.files[f"{self.partial}/{file}"] = data
            self._state.wrote(file, size)
        return True

    def write(self, file: str, blocks: Iterable[memoryview], size: int) -> None:
        """Keeps one shard."""
        check_shard_name(file)
        with self._state.acting():
            data = b"".join(blocks)
            if len(data) < size:
                raise UsageError(f"the blocks for {file} hold {len(data):,} bytes, {size:,} were announced")
            self._storage.create(f"{self.partial}/{file}", data[:size])
            self._state.wrote(file, size)

    def read_back(self, file: str, *, block_size: int) -> Iterator[memoryview]:
        """Gives what is kept of one shard."""
        check_block_size(block_size)
        return self._state.acting_by_block(self._blocks(file, self._state.size_of(file), block_size))

    def commit(self, manifest: bytes, *, name: str | None = None, read_back: bool = False) -> None:
        """Makes the checkpoint appear."""
        if name is not None:
            check_name(name)
            self.final = name
        with self._state.acting(), self._storage.lock:
            self._state.require_written()
            self._storage.require_free(self.final)
            self._storage.create(f"{self.partial}/{MANIFEST_FILE}", manifest)
            self._state.sizes[MANIFEST_FILE] = len(manifest)
            self._check_sizes()
            if read_back and self._held(MANIFEST_FILE) != manifest:
                raise other_bytes(self._locate(MANIFEST_FILE))
            for file in self._storage.list_files(self.partial):
                self._storage.files[f"{self.final}/{file}"] = self._storage.files.pop(f"{self.partial}/{file}")
            self._storage.folders.discard(self.partial)
        self._state.end("is committed")

    def abandon(self) -> None:
        """Removes what was written."""
        self._state.end("was abandoned")
        self._storage.delete(self.partial)

    def _locate(self, file: str) -> str:
        return f"{self._storage.url}/{self.partial}/{file}"

    def _held(self, file: str) -> bytes:
        with self._storage.lock, reported("read back", self._locate(file)):
            try:
                return self._storage.files[f"{self.partial}/{file}"]
            except KeyError:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)) from None

    def _blocks(self, file: str, size: int, block_size: int) -> Iterator[memoryview]:
        data = memoryview(self._held(file))
        if len(data) < size:
            raise wrong_size(self._locate(file), len(data), size)
        for begin in range(0, size, block_size):
            yield data[begin : min(begin + block_size, size)]

    def _check_sizes(self) -> None:
        for file, size in self._state.sizes.items():
            found = len(self._held(file))
            if found != size:
                raise wrong_size(self._locate(file), found, size)


class MemoryAppender:
    """A file that only grows."""

    def __init__(self, storage: MemoryStorage, path: str) -> None:
        self.path = path
        self._storage = storage
        self._closed = False

    def write(self, data: bytes) -> None:
        """Appends all of ``data``."""
        if self._closed:
            raise UsageError(f"{self.path} is closed")
        with self._storage.lock:
            self._storage.files[self.path] += data

    def close(self) -> None:
        """Ends the appending."""
        self._closed = True
