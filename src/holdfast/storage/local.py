"""A run folder on a file system."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator

from holdfast.errors import AlreadyExistsError, CorruptError, NotFoundError
from holdfast.storage import platform
from holdfast.storage.appender import LocalAppender
from holdfast.storage.base import FileStatus, Names
from holdfast.storage.direct import FileWriter, write_file
from holdfast.storage.failures import other_bytes, reported, wrong_size
from holdfast.storage.medium import read_medium
from holdfast.storage.paths import (
    MANIFEST_FILE,
    check_name,
    deleting_name,
    fresh_id,
    is_debris,
    partial_name,
    split_path,
)
from holdfast.storage.reading import read_file_into
from holdfast.storage.removal import remove
from holdfast.storage.try_state import TryState, check_block_size, check_shard_name

_MANIFEST_BLOCK = 1 << 20
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
_NOT_LINKED = (*_NO_LINKS, errno.EXDEV, errno.ENOENT, errno.EACCES)
"""This file can have no further name, or has gone. Its bytes can be written all the same."""


class LocalStorage:
    """The folder ``root``, which is made by the first verb that writes. See `Storage` for what each verb promises.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     storage = LocalStorage(folder)
    ...     attempt = storage.begin("step-00000500.a0001.n0003", "7f3a")
    ...     attempt.write("model.safetensors", [memoryview(b"weights")], 7)
    ...     attempt.commit(b"{}")
    ...     storage.list_files("step-00000500.a0001.n0003")
    {'manifest.json': 2, 'model.safetensors': 7}
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = os.path.abspath(os.path.expanduser(root))

    @property
    def url(self) -> str:
        """The absolute path of the folder."""
        return self.root

    def __repr__(self) -> str:
        return f"LocalStorage({self.root!r})"

    # ---- reading

    def list(self) -> Names:
        """The names in the folder, sorted."""
        with reported("list", self.root):
            try:
                return sorted(os.listdir(self.root))
            except FileNotFoundError:
                return []

    def list_files(self, name: str) -> dict[str, int]:
        """The regular files of a checkpoint and their sizes."""
        check_name(name)
        folder = os.path.join(self.root, name)
        with reported("list", folder):
            try:
                _require_folder(folder)
                with os.scandir(folder) as entries:
                    names = sorted(entry.name for entry in entries)
            except FileNotFoundError:
                return {}
            # One by one: a file that vanishes meanwhile must not make all the others look gone.
            statuses = {name: _status(os.path.join(folder, name)) for name in names}
        return {name: one.st_size for name, one in statuses.items() if one is not None and stat.S_ISREG(one.st_mode)}

    def size(self, path: str) -> int:
        """The length of a regular file."""
        return _regular(self._locate(path)).st_size

    def status(self, path: str) -> FileStatus:
        """What the file system says of a regular file."""
        found = _regular(self._locate(path))
        body = (found.st_dev, found.st_ino)
        return FileStatus(size=found.st_size, modified=found.st_mtime_ns, body=body, names=found.st_nlink)

    def read(self, path: str, *, limit: int) -> bytes:
        """A whole file of at most ``limit`` bytes."""
        size = self.size(path)
        if size > limit:
            raise CorruptError(f"{self._locate(path)} holds {size:,} bytes; at most {limit:,} make sense there")
        data = bytearray(size)
        self.read_into(path, 0, [memoryview(data)])
        return bytes(data)

    def is_cached(self, path: str) -> bool:
        """By the pages at the file's two ends and in its midst."""
        full = self._locate(path)
        size = _regular(full).st_size
        with _reading(full):
            descriptor = os.open(full, platform.READ)
            try:
                return all(platform.is_cached(descriptor, at) for at in {0, size // 2, max(0, size - 1)} if at < size)
            finally:
                os.close(descriptor)

    def read_into(self, path: str, offset: int, buffers: Iterable[memoryview], *, direct: bool = False) -> None:
        """Fills one buffer after the other from the file."""
        full = self._locate(path)
        size = _regular(full).st_size
        with _reading(full):
            read_file_into(full, offset, buffers, size, direct=direct)

    def _locate(self, path: str) -> str:
        """Where ``path`` is; a folder on the way that is a link could lead anywhere, and is refused."""
        folder, *rest = split_path(path)
        if rest:
            with reported("read", path):
                _require_folder(os.path.join(self.root, folder))
        return os.path.join(self.root, folder, *rest)

    # ---- writing

    def prepare(self) -> None:
        """Makes the folder and its parents, durably."""
        with reported("create the folder", self.root):
            _make_folder(self.root)

    def create(self, path: str, data: bytes) -> None:
        """Makes a new file that appears whole or not at all."""
        final = self._place(path)
        draft = os.path.join(self.root, partial_name(os.path.basename(final), fresh_id()))
        with reported("create", final):
            try:
                write_file(draft, [memoryview(data)], len(data), direct=False)
                _publish(draft, final)
            finally:
                with contextlib.suppress(OSError):
                    os.unlink(draft)
            platform.sync_folder(os.path.dirname(final))

    def append(self, path: str) -> LocalAppender:
        """Opens a file that only grows."""
        return LocalAppender(self._place(path))

    def begin(self, name: str, try_id: str) -> LocalTry:
        """Starts to write a checkpoint in a folder of its own."""
        partial = partial_name(name, try_id)
        check_name(name)
        check_name(partial)
        self.prepare()
        folder = os.path.join(self.root, partial)
        with reported("start a try in", folder):
            os.mkdir(folder)
        return LocalTry(folder, os.path.join(self.root, name))

    def delete(self, name: str) -> None:
        """Takes a name away durably, then removes what it named."""
        self.set_aside(name)()

    def set_aside(self, name: str) -> Callable[[], None]:
        """Takes a name away durably; the call that is returned removes what it named."""
        check_name(name)
        path = os.path.join(self.root, name)
        going = os.path.join(self.root, deleting_name(name))
        with reported("delete", path):
            try:
                os.rename(path, going)
            except FileNotFoundError:
                pass
            else:
                platform.sync_folder(self.root)

        def give_back() -> None:
            with reported("delete", path):
                remove(going)

        return give_back

    def remove(self, path: str) -> None:
        """Removes one small file, durably."""
        place = self._locate(path)
        with reported("remove", place):
            try:
                os.unlink(place)
            except FileNotFoundError:
                return
            except (IsADirectoryError, PermissionError) as error:
                if os.path.isdir(place):
                    raise CorruptError(f"{place} is a folder; a regular file was expected") from error
                raise
            platform.sync_folder(os.path.dirname(place))

    def sweep(self, is_debris: Callable[[str], bool] = is_debris) -> Names:
        """Removes what earlier saves and deletions left."""
        return [name for name in self.list() if is_debris(name) and self._removed(name)]

    def _removed(self, name: str) -> bool:
        try:
            remove(os.path.join(self.root, name))
        except OSError:
            return False
        return True

    def sync(self) -> None:
        """Makes the names in the folder durable."""
        with reported("sync", self.root), contextlib.suppress(FileNotFoundError):
            platform.sync_folder(self.root)

    def free(self) -> int | None:
        """What the file system has left for this user; quotas are not seen."""
        return platform.free_bytes(self.root)

    def _place(self, path: str) -> str:
        """Where to write ``path``, with its folder made."""
        folder, *rest = split_path(path)
        parent = os.path.join(self.root, folder) if rest else self.root
        with reported("create the folder", parent):
            _make_folder(parent)
            if rest:
                _require_folder(parent)
        return os.path.join(self.root, folder, *rest)


class LocalTry:
    """A checkpoint being written in ``folder``, to be renamed to ``final``."""

    def __init__(self, folder: str, final: str) -> None:
        self.folder = folder
        self.final = final
        self._state = TryState(folder)

    def reserve(self, file: str, size: int) -> None:
        """Makes the file, with room for its bytes and none of them."""
        check_shard_name(file)
        path = self._locate(file)
        with self._state.acting(), reported("reserve room for", path):
            # Not kept open: there may be more files than a process may have open.
            with contextlib.closing(FileWriter(path, direct=False)) as writer:
                writer.reserve(size)
            self._state.reserved.add(file)

    def link(self, source: str, file: str, size: int) -> bool:
        """Gives a shard of another checkpoint one more name, in this one; `commit` makes it durable."""
        check_shard_name(file)
        path, origin = self._locate(file), os.path.join(os.path.dirname(self.folder), *split_path(source))
        with self._state.acting(), reported("link", path):
            _require_folder(os.path.dirname(origin))
            try:
                os.link(origin, path, follow_symlinks=False)
            except OSError as error:
                if error.errno in _NOT_LINKED:
                    return False
                raise
            if not stat.S_ISREG(os.lstat(path).st_mode):
                os.unlink(path)
                return False
            self._state.wrote(file, size)
        return True

    def write(self, file: str, blocks: Iterable[memoryview], size: int) -> None:
        """Writes one shard and makes it durable."""
        check_shard_name(file)
        path = self._locate(file)
        with self._state.acting(), reported("write", path):
            write_file(path, blocks, size, reserved=file in self._state.reserved)
            self._state.wrote(file, size)

    def read_back(self, file: str, *, block_size: int) -> Iterator[memoryview]:
        """Reads one shard from the medium."""
        check_block_size(block_size)
        size = self._state.size_of(file)
        return self._state.acting_by_block(read_medium(self._locate(file), size, block_size))

    def commit(self, manifest: bytes, *, name: str | None = None, read_back: bool = False) -> None:
        """Writes the manifest and makes the checkpoint appear, durably."""
        if name is not None:
            check_name(name)
            self.final = os.path.join(os.path.dirname(self.final), name)
        path = self._locate(MANIFEST_FILE)
        with self._state.acting():
            self._state.require_written()
            with reported("write", path):
                write_file(path, [memoryview(manifest)], len(manifest), direct=False)
                self._state.sizes[MANIFEST_FILE] = len(manifest)
                platform.sync_folder(self.folder)
            self._check_sizes()
            if read_back:
                _check_medium(path, manifest)
            with reported("commit", self.final):
                _rename_to_free(self.folder, self.final)
                platform.sync_folder(os.path.dirname(self.final))
        self._state.end("is committed")

    def abandon(self) -> None:
        """Removes what was written, as far as that works."""
        self._state.end("was abandoned")
        with contextlib.suppress(OSError):
            remove(self.folder)

    def _locate(self, file: str) -> str:
        return os.path.join(self.folder, file)

    def _check_sizes(self) -> None:
        """A file system can lose bytes without saying so: what is committed was measured."""
        for file, size in self._state.sizes.items():
            path = self._locate(file)
            with reported("measure", path):
                found = os.lstat(path).st_size
            if found != size:
                raise wrong_size(path, found, size)


def _check_medium(path: str, data: bytes) -> None:
    """Raises `StorageError` unless the medium holds ``data`` in the file ``path``."""
    # Copied one by one: each block takes the place of the one before.
    held = b"".join([bytes(block) for block in read_medium(path, len(data), _MANIFEST_BLOCK)])
    if held != data:
        raise other_bytes(path)


def _status(path: str) -> os.stat_result | None:
    """What there is to know of a name, a link's own; None if it has gone."""
    try:
        return os.lstat(path)
    except FileNotFoundError:
        return None


def _require_folder(path: str) -> None:
    """Refuses what stands in the place of a folder; that nothing does is for the caller to find out."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(mode):
        raise CorruptError(f"{path} is {_described(mode)}; a folder was expected, and links are not followed")


def _regular(path: str) -> os.stat_result:
    with _reading(path):
        status = os.lstat(path)
    if not stat.S_ISREG(status.st_mode):
        found = _described(status.st_mode)
        raise CorruptError(f"{path} is {found}; a regular file was expected, and links are not followed")
    return status


def _described(mode: int) -> str:
    if stat.S_ISLNK(mode):
        return "a symbolic link"
    if stat.S_ISDIR(mode):
        return "a folder"
    return "a regular file" if stat.S_ISREG(mode) else "a special file"


@contextlib.contextmanager
def _reading(path: str) -> Iterator[None]:
    with reported("read", path):
        try:
            yield
        except FileNotFoundError as error:
            raise NotFoundError(errno.ENOENT, f"{path} is not there") from error


def _make_folder(path: str) -> None:
    """Makes ``path`` and its parents; each new name is made durable in its parent."""
    if os.path.isdir(path):
        return
    parent = os.path.dirname(path)
    if parent != path:
        _make_folder(parent)
    try:
        os.mkdir(path)
    except FileExistsError as error:
        _require_target(path)
        if not os.path.isdir(path):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from error
    platform.sync_folder(parent)


def _require_target(path: str) -> None:
    """Refuses a link to nowhere, such as to a disk that is not mounted: it is in the way of a folder, but no file."""
    if os.path.islink(path):
        try:
            os.stat(path)
        except FileNotFoundError as error:
            words = f"{path} is a link to {os.readlink(path)}, which is not there: mount its disk, or change the link"
            raise FileNotFoundError(errno.ENOENT, words) from error


def _publish(draft: str, final: str) -> None:
    """Gives the durable ``draft`` its name, which must be free: link refuses one that is taken, rename would not."""
    try:
        os.link(draft, final)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        _claim(final)
        os.replace(draft, final)


def _claim(path: str) -> None:
    """Takes the name by an empty file. One that is there already was left by a process that died before it went on."""
    try:
        os.close(os.open(path, platform.CREATE, 0o666))
    except FileExistsError:
        if _regular(path).st_size:
            raise


def _rename_to_free(folder: str, final: str) -> None:
    """A folder renamed onto one that is not empty fails, so a checkpoint is never replaced."""
    try:
        os.rename(folder, final)
    except OSError as error:
        if os.path.lexists(final) and error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            message = f"cannot commit {final}: there is one already, which stays as it is"
            raise AlreadyExistsError(errno.EEXIST, message) from error
        raise
