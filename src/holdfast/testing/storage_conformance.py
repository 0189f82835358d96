"""What every storage has to do. Subclass `StorageConformance` in a test module to hold yours to it.

The checks go around the storage that they test: what it wrote is looked at with ``raw_read``, and what it reads was put
there with ``raw_write``.
"""

from __future__ import annotations

import errno
from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

import pytest

from holdfast.errors import AlreadyExistsError, CorruptError, NotFoundError, StorageError, UsageError
from holdfast.storage.base import Storage, Try

NAME = "step-00000500.a0001.n0003"
_PARTIAL = f"{NAME}.partial-7f3a"
_OUTSIDE = ["", ".", "..", "/etc/passwd", "../secret", "a/../b", "a//b", "a/b/c", "a/", "/a", "a\\b", "a\0b", "C:x"]


def blocks(*parts: bytes) -> list[memoryview]:
    """``parts``, as a try takes them."""
    return [memoryview(part) for part in parts]


def written(storage: Storage, data: bytes) -> Try:
    """A try that has written ``data`` as the file ``x``."""
    attempt = storage.begin(NAME, "7f3a")
    attempt.write("x", blocks(data), len(data))
    return attempt


def read_back(attempt: Try, file: str = "x") -> bytes:
    """The bytes of ``file``, copied block by block: each is valid only until the next."""
    return b"".join([bytes(block) for block in attempt.read_back(file, block_size=4096)])


class StorageConformance:
    """The suite. A subclass offers a fixture named ``storage``, new and empty, and the three raw methods."""

    @abstractmethod
    def raw_read(self, storage: Any, path: str) -> bytes:
        """The bytes of a file, read without the storage's own code."""

    @abstractmethod
    def raw_write(self, storage: Any, path: str, data: bytes) -> None:
        """Puts a file there, and its folder, without the storage's own code."""

    @abstractmethod
    def raw_names(self, storage: Any) -> set[str]:
        """The names in the root, found without the storage's own code."""

    def committed(self, storage: Storage, name: str = NAME, data: bytes = b"weights") -> None:
        """Writes and commits a checkpoint of one shard."""
        attempt = storage.begin(name, "7f3a")
        attempt.write("model.safetensors", blocks(data), len(data))
        attempt.commit(b'{"digest":""}')

    # ---- reading

    def test_nothing_is_listed_in_a_new_storage(self, storage: Storage) -> None:
        """A storage that was never written to lists nothing, and has nothing to sweep or sync."""
        assert storage.list() == []
        assert storage.list_files(NAME) == {}
        assert storage.sweep() == []
        storage.sync()

    def test_list_is_sorted_and_complete(self, storage: Storage) -> None:
        """Every name in the root is listed, files and folders, sorted."""
        for path in ("b/1", "holdfast.json", "a/2"):
            self.raw_write(storage, path, b"x")
        assert storage.list() == ["a", "b", "holdfast.json"]

    def test_list_files_gives_sizes(self, storage: Storage) -> None:
        """The files of one folder come with their lengths in bytes, and without those of other folders."""
        for path, data in {"a/x": b"12345", "a/empty": b"", "ab/y": b"1"}.items():
            self.raw_write(storage, path, data)
        assert storage.list_files("a") == {"empty": 0, "x": 5}

    def test_list_files_of_a_file_is_refused(self, storage: Storage) -> None:
        """A checkpoint's name that names a file is a corrupt checkpoint."""
        self.raw_write(storage, NAME, b"x")
        with pytest.raises(CorruptError, match=NAME):
            storage.list_files(NAME)

    def test_read_gives_the_bytes(self, storage: Storage) -> None:
        """A file is read whole, and measured, in the root and in a folder."""
        for path in ("holdfast.json", f"{NAME}/manifest.json"):
            self.raw_write(storage, path, b"content")
            assert storage.read(path, limit=7) == b"content"
            assert storage.size(path) == storage.status(path).size == 7

    def test_read_refuses_more_than_the_limit(self, storage: Storage) -> None:
        """A file larger than the limit is refused instead of filling the memory."""
        self.raw_write(storage, "large", b"12345678")
        with pytest.raises(CorruptError, match=r"large.*8 bytes; at most 7"):
            storage.read("large", limit=7)

    @pytest.mark.parametrize("path", ["missing", f"{NAME}/missing", "nowhere/missing"])
    def test_what_is_missing_is_not_found(self, storage: Storage, path: str) -> None:
        """Reading what is not there is a NotFoundError that names it, with errno set."""
        self.raw_write(storage, f"{NAME}/manifest.json", b"{}")
        for read in (
            lambda: storage.size(path), lambda: storage.status(path), lambda: storage.read(path, limit=9)
        ):  # fmt: skip
            with pytest.raises(NotFoundError, match=path) as caught:
                read()
            assert caught.value.errno == errno.ENOENT
        with pytest.raises(NotFoundError, match=path):
            storage.read_into(path, 0, [])
        with pytest.raises(NotFoundError, match=path):
            storage.is_cached(path)

    def test_a_folder_is_not_a_file(self, storage: Storage) -> None:
        """Reading a folder as a file is refused."""
        self.raw_write(storage, f"{NAME}/manifest.json", b"{}")
        for read in (lambda: storage.size(NAME), lambda: storage.read(NAME, limit=9)):
            with pytest.raises(CorruptError, match=NAME):
                read()

    @pytest.mark.parametrize("direct", [False, True])
    def test_read_into_fills_every_buffer(self, storage: Storage, direct: bool) -> None:
        """Consecutive bytes from the offset on fill the buffers in order, empty ones included."""
        self.raw_write(storage, "x", bytes(range(100)))
        first, empty, second = bytearray(3), bytearray(), bytearray(50)
        storage.read_into("x", 10, [memoryview(part) for part in (first, empty, second)], direct=direct)
        assert (bytes(first), bytes(second)) == (bytes(range(10, 13)), bytes(range(13, 63)))

    @pytest.mark.parametrize("direct", [False, True])
    def test_read_into_takes_thousands_of_buffers(self, storage: Storage, direct: bool) -> None:
        """More buffers than one system call takes are filled all the same."""
        data = bytes(range(256)) * 12
        self.raw_write(storage, "x", data)
        target = bytearray(len(data))
        storage.read_into("x", 0, [memoryview(target)[i : i + 1] for i in range(len(data))], direct=direct)
        assert target == data

    @pytest.mark.parametrize("direct", [False, True])
    def test_read_into_has_filled_each_buffer_when_it_asks_for_the_next(self, storage: Storage, direct: bool) -> None:
        """Whoever gives them can digest one while it is at hand, and give the same memory again."""
        self.raw_write(storage, "x", bytes(range(100)))
        memory, seen = bytearray(10), bytearray()

        def buffers() -> Iterator[memoryview]:
            for _ in range(9):
                yield memoryview(memory)
                seen.extend(memory)

        storage.read_into("x", 5, buffers(), direct=direct)
        assert seen == bytes(range(5, 95))

    @pytest.mark.parametrize("direct", [False, True])
    def test_read_into_takes_buffers_of_any_element_type(self, storage: Storage, direct: bool) -> None:
        """A buffer counts in bytes, whatever its elements are."""
        self.raw_write(storage, "x", bytes(range(16)))
        target = bytearray(16)
        storage.read_into("x", 0, [memoryview(target).cast("Q")], direct=direct)
        assert target == bytes(range(16))

    @pytest.mark.parametrize("direct", [False, True])
    def test_read_into_past_the_end_is_corrupt(self, storage: Storage, direct: bool) -> None:
        """A file that is shorter than promised is never silently read in part."""
        self.raw_write(storage, "x", b"12345")
        target = bytearray(4)
        with pytest.raises(CorruptError, match="x ends after 5 bytes"):
            storage.read_into("x", 2, [memoryview(target)], direct=direct)

    def test_read_into_past_the_cache_gives_any_part_of_a_large_file(self, storage: Storage) -> None:
        """Neither ends of the parts nor their memory have to lie where a medium can be read."""
        data = bytes(range(256)) * (5 << 12) + b"the end"
        self.raw_write(storage, "x", data)
        for offset in (0, 1, 4096, len(data) - 2000):
            target = bytearray(len(data) - offset)
            parts = [memoryview(target)[:123], memoryview(target)[123:1001], memoryview(target)[1001:]]
            storage.read_into("x", offset, parts, direct=True)
            assert target == data[offset:], offset

    def test_what_was_written_may_be_cached(self, storage: Storage) -> None:
        """The answer is a guess, and given for an empty file too."""
        for size in (0, 1, 10_000):
            self.raw_write(storage, str(size), bytes(size))
            assert storage.is_cached(str(size)) in (True, False)

    # ---- small files

    @pytest.mark.parametrize("path", ["holdfast.json", "attempts/0001.json"])
    def test_create_makes_a_whole_file(self, storage: Storage, path: str) -> None:
        """A created file holds its bytes, and nothing else is left in the root."""
        storage.create(path, b"{}")
        assert self.raw_read(storage, path) == b"{}"
        assert self.raw_names(storage) == {path.partition("/")[0]}

    def test_create_refuses_a_name_that_is_taken(self, storage: Storage) -> None:
        """Of two attempts that claim one number, the second is refused and the first one's record stays."""
        self.raw_write(storage, "attempts/0001.json", b"first")
        with pytest.raises(AlreadyExistsError, match="0001"):
            storage.create("attempts/0001.json", b"second")
        assert self.raw_read(storage, "attempts/0001.json") == b"first"
        assert self.raw_names(storage) == {"attempts"}

    def test_append_only_grows(self, storage: Storage) -> None:
        """Each write is there when it returns; opening the file again goes on at its end."""
        journal = storage.append("journal/0001.jsonl")
        journal.write(b"one\n")
        assert self.raw_read(storage, "journal/0001.jsonl") == b"one\n"
        journal.close()
        journal.close()
        again = storage.append("journal/0001.jsonl")
        again.write(b"two\n")
        again.close()
        assert self.raw_read(storage, "journal/0001.jsonl") == b"one\ntwo\n"

    def test_a_closed_appender_refuses_to_write(self, storage: Storage) -> None:
        """Writing after close is a usage error."""
        journal = storage.append("x")
        journal.close()
        with pytest.raises(UsageError, match="closed"):
            journal.write(b"x")

    # ---- checkpoints

    def test_a_commit_shows_all_files(self, storage: Storage) -> None:
        """What a try wrote stands under the final name, and nothing else is left."""
        self.committed(storage)
        assert self.raw_read(storage, f"{NAME}/model.safetensors") == b"weights"
        assert self.raw_read(storage, f"{NAME}/manifest.json") == b'{"digest":""}'
        assert self.raw_names(storage) == {NAME}

    def test_nothing_stands_under_the_final_name_before_the_commit(self, storage: Storage) -> None:
        """Until the commit, a try is debris under a name with its own id."""
        storage.begin(NAME, "7f3a").write("model.safetensors", blocks(b"x"), 1)
        assert self.raw_names(storage) == {f"{NAME}.partial-7f3a"}

    @pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, 10_000])
    def test_padding_is_cut_off(self, storage: Storage, size: int) -> None:
        """The bytes of the last block that follow the size are not kept."""
        data = bytes(i % 251 for i in range(size))
        padded = data + b"\xff" * (-size % 4096)
        attempt = storage.begin(NAME, "7f3a")
        attempt.write("x", [memoryview(padded)[i : i + 4096] for i in range(0, len(padded), 4096)], size)
        attempt.commit(b"{}")
        assert self.raw_read(storage, f"{NAME}/x") == data

    def test_a_name_may_be_given_at_the_end(self, storage: Storage) -> None:
        """One that tells of the content is not known before; it must be free as any other."""
        for try_id in ("1", "2"):
            attempt = storage.begin("unhashed", try_id)
            attempt.write("x", blocks(try_id.encode()), 1)
            if try_id == "1":
                attempt.commit(b"{}", name=NAME)
                continue
            with pytest.raises(AlreadyExistsError, match=NAME):
                attempt.commit(b"{}", name=NAME)
            attempt.abandon()
        assert self.raw_read(storage, f"{NAME}/x") == b"1"
        assert self.raw_names(storage) == {NAME}

    def test_blocks_of_odd_sizes_are_joined(self, storage: Storage) -> None:
        """Blocks need no particular length, and may be read-only."""
        attempt = storage.begin(NAME, "7f3a")
        attempt.write("x", blocks(b"a" * 4096, b"b", b"", b"c" * 5000), 9097)
        attempt.commit(b"{}")
        assert self.raw_read(storage, f"{NAME}/x") == b"a" * 4096 + b"b" + b"c" * 5000

    def test_too_few_blocks_are_refused(self, storage: Storage) -> None:
        """A shard that would be shorter than announced fails, and its try cannot be committed."""
        attempt = storage.begin(NAME, "7f3a")
        with pytest.raises(UsageError, match="hold 3 bytes, 4 were announced"):
            attempt.write("x", blocks(b"abc"), 4)
        with pytest.raises(UsageError, match="has failed"):
            attempt.commit(b"{}")

    def test_what_is_reserved_is_written_like_anything_else(self, storage: Storage) -> None:
        """No byte of it is there before, and none too many after."""
        attempt = storage.begin(NAME, "7f3a")
        attempt.reserve("x", 100_000)
        attempt.reserve("y", 3)
        attempt.reserve("empty", 0)
        attempt.write("y", blocks(b"abc"), 3)
        attempt.write("x", blocks(b"x" * 100_000), 100_000)
        attempt.write("empty", blocks(), 0)
        attempt.commit(b"{}")
        assert storage.list_files(NAME) == {"empty": 0, "manifest.json": 2, "x": 100_000, "y": 3}
        assert self.raw_read(storage, f"{NAME}/x") == b"x" * 100_000

    def test_what_is_reserved_and_not_written_is_not_committed(self, storage: Storage) -> None:
        """An empty file would stand for bytes that never came."""
        attempt = storage.begin(NAME, "7f3a")
        attempt.reserve("x", 10)
        with pytest.raises(UsageError, match=r"x was reserved in .* and never written"):
            attempt.commit(b"{}")
        attempt.abandon()
        assert self.raw_names(storage) == set()

    def test_a_commit_onto_an_existing_name_is_refused(self, storage: Storage) -> None:
        """A checkpoint is never replaced: the second try fails, and the first one's bytes stay."""
        self.committed(storage)
        second = storage.begin(NAME, "other")
        second.write("model.safetensors", blocks(b"changed"), 7)
        with pytest.raises(AlreadyExistsError, match=NAME):
            second.commit(b"{}")
        second.abandon()
        assert self.raw_read(storage, f"{NAME}/model.safetensors") == b"weights"
        assert self.raw_names(storage) == {NAME}

    def test_a_commit_onto_a_file_is_refused(self, storage: Storage) -> None:
        """A file that stands under the final name is not replaced either."""
        self.raw_write(storage, NAME, b"a file")
        with pytest.raises(AlreadyExistsError, match=NAME):
            storage.begin(NAME, "7f3a").commit(b"{}")
        assert self.raw_read(storage, NAME) == b"a file"

    def test_a_try_id_is_used_once(self, storage: Storage) -> None:
        """What a dead writer left under an id is never written into again."""
        storage.begin(NAME, "7f3a").write("x", blocks(b"old"), 3)
        with pytest.raises(AlreadyExistsError, match="7f3a"):
            storage.begin(NAME, "7f3a")

    def test_a_shard_is_written_once(self, storage: Storage) -> None:
        """A second shard of the same name is refused, and fails the try."""
        attempt = storage.begin(NAME, "7f3a")
        attempt.write("x", blocks(b"1"), 1)
        with pytest.raises(AlreadyExistsError, match="x"):
            attempt.write("x", blocks(b"2"), 1)
        with pytest.raises(UsageError, match="has failed"):
            attempt.commit(b"{}")

    def test_a_shard_cannot_be_the_manifest(self, storage: Storage) -> None:
        """Only the commit writes manifest.json."""
        with pytest.raises(UsageError, match=r"manifest\.json"):
            storage.begin(NAME, "7f3a").write("manifest.json", blocks(b"{}"), 2)

    # ---- linking

    def test_a_linked_file_is_the_file_of_another_checkpoint(self, storage: Storage) -> None:
        """Its bytes are there once, and stay when the other checkpoint goes; a storage without links says so."""
        other = NAME + "x"
        self.committed(storage, other)
        attempt = storage.begin(NAME, "7f3a")
        attempt.write("y", blocks(b"own"), 3)
        if not attempt.link(f"{other}/model.safetensors", "x", 7):
            attempt.write("x", blocks(b"weights"), 7)
            attempt.commit(b"{}")
            assert self.raw_read(storage, f"{NAME}/x") == b"weights"
            return
        assert read_back(attempt) == b"weights"
        attempt.commit(b"{}")
        linked, source, own = (storage.status(p) for p in (f"{NAME}/x", f"{other}/model.safetensors", f"{NAME}/y"))
        assert (linked.body == source.body, linked.names, source.names) == (True, 2, 2)
        assert (own.body == linked.body, own.names) == (False, 1)
        storage.delete(other)
        assert self.raw_read(storage, f"{NAME}/x") == b"weights"
        assert storage.status(f"{NAME}/x").names == 1

    def test_what_is_gone_is_not_linked(self, storage: Storage) -> None:
        """Somebody may have deleted it meanwhile: it is written instead, by the same try."""
        attempt = storage.begin(NAME, "7f3a")
        assert attempt.link(f"{NAME}x/model.safetensors", "x", 7) is False
        attempt.write("x", blocks(b"weights"), 7)
        attempt.commit(b"{}")
        assert self.raw_read(storage, f"{NAME}/x") == b"weights"

    def test_a_linked_file_of_another_size_is_not_committed(self, storage: Storage) -> None:
        """It is measured like what was written."""
        self.committed(storage, NAME + "x", b"weigh")
        attempt = storage.begin(NAME, "7f3a")
        if attempt.link(f"{NAME}x/model.safetensors", "x", 7):
            with pytest.raises(StorageError, match="x holds 5 bytes, 7 were written"):
                attempt.commit(b"{}")

    def test_an_abandoned_try_leaves_what_it_linked(self, storage: Storage) -> None:
        """Only its own name of it goes."""
        self.committed(storage, NAME + "x")
        attempt = storage.begin(NAME, "7f3a")
        attempt.link(f"{NAME}x/model.safetensors", "x", 7)
        attempt.abandon()
        assert self.raw_names(storage) == {NAME + "x"}
        assert self.raw_read(storage, f"{NAME}x/model.safetensors") == b"weights"

    def test_only_a_free_name_of_a_shard_is_linked_to(self, storage: Storage) -> None:
        """Neither the manifest nor what was written is replaced, and nothing outside is linked."""
        self.committed(storage, NAME + "x")
        source = f"{NAME}x/model.safetensors"
        for origin, name in [(source, "manifest.json"), (source, "../x"), ("../secret", "x"), ("/etc/passwd", "x")]:
            with pytest.raises(UsageError):
                storage.begin(NAME, name.strip("./") + str(len(origin))).link(origin, name, 7)
        attempt = written(storage, b"own")
        with pytest.raises(AlreadyExistsError, match="x"):
            attempt.link(source, "x", 7)
        assert self.raw_read(storage, f"{_PARTIAL}/x") == b"own"

    def test_an_abandoned_try_leaves_nothing(self, storage: Storage) -> None:
        """Abandoning removes what was written, may be repeated, and ends the try."""
        attempt = storage.begin(NAME, "7f3a")
        attempt.write("x", blocks(b"1"), 1)
        attempt.abandon()
        attempt.abandon()
        assert self.raw_names(storage) == set()
        with pytest.raises(UsageError, match="was abandoned"):
            attempt.commit(b"{}")

    def test_a_committed_try_is_over(self, storage: Storage) -> None:
        """After the commit nothing can be added, and abandoning takes nothing away."""
        attempt = storage.begin(NAME, "7f3a")
        attempt.commit(b"{}")
        attempt.abandon()
        with pytest.raises(UsageError, match="is committed"):
            attempt.write("x", blocks(b"1"), 1)
        assert self.raw_read(storage, f"{NAME}/manifest.json") == b"{}"

    def test_an_interrupted_write_fails_its_try(self, storage: Storage) -> None:
        """When the blocks themselves raise, that error comes through and the try is over."""
        attempt = storage.begin(NAME, "7f3a")
        with pytest.raises(KeyboardInterrupt):
            attempt.write("x", (_interrupt() for _ in range(1)), 1)
        with pytest.raises(UsageError, match="has failed"):
            attempt.commit(b"{}")

    # ---- reading back

    @pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, 5 * (1 << 20) + 3])
    def test_what_was_written_is_read_back(self, storage: Storage, size: int) -> None:
        """Every byte, in blocks that are whole but for the last; the try goes on as if nothing had been read."""
        data = (bytes(range(251)) * (size // 251 + 1))[:size]
        attempt = storage.begin(NAME, "7f3a")
        attempt.write("x", blocks(data), size)
        found = [bytes(block) for block in attempt.read_back("x", block_size=4096)]
        assert b"".join(found) == data
        assert [len(block) for block in found] == [min(4096, size - begin) for begin in range(0, size, 4096)]
        attempt.commit(b"{}", read_back=True)
        assert self.raw_read(storage, f"{NAME}/x") == data
        assert self.raw_read(storage, f"{NAME}/manifest.json") == b"{}"

    def test_a_changed_file_is_read_back_as_it_is(self, storage: Storage) -> None:
        """A bit that flipped after the write is seen, although a reader before it saw the right one."""
        attempt = written(storage, b"weights")
        assert read_back(attempt) == b"weights"
        self.raw_write(storage, f"{_PARTIAL}/x", b"wdights")
        assert read_back(attempt) == b"wdights"

    def test_lost_bytes_are_found_when_read_back(self, storage: Storage) -> None:
        """A file that holds fewer bytes than were written is named with both sizes, and fails the try."""
        attempt = written(storage, b"weights")
        self.raw_write(storage, f"{_PARTIAL}/x", b"weig")
        with pytest.raises(StorageError, match="x holds 4 bytes, 7 were written"):
            read_back(attempt)
        with pytest.raises(UsageError, match="has failed"):
            attempt.commit(b"{}")

    def test_only_what_was_written_is_read_back(self, storage: Storage) -> None:
        """Another name is a mistake of the caller, which leaves the try as it is."""
        attempt = written(storage, b"weights")
        for file in ("y", "manifest.json", "../x"):
            with pytest.raises(UsageError, match="has written no"):
                read_back(attempt, file)
        attempt.commit(b"{}")

    @pytest.mark.parametrize("block_size", [-4096, 0, 1, 4095, 4097])
    def test_blocks_begin_where_a_direct_read_can(self, storage: Storage, block_size: int) -> None:
        """A block size that would rule out O_DIRECT is refused instead of being read from the page cache."""
        attempt = written(storage, b"weights")
        with pytest.raises(UsageError, match="multiple of 4,096"):
            list(attempt.read_back("x", block_size=block_size))

    def test_reading_back_may_stop_early(self, storage: Storage) -> None:
        """Whoever has seen enough can still commit."""
        attempt = written(storage, bytes(10_000))
        reading = attempt.read_back("x", block_size=4096)
        assert bytes(next(reading)) == bytes(4096)
        del reading
        attempt.commit(b"{}")

    def test_a_try_that_is_over_is_not_read_back(self, storage: Storage) -> None:
        """Its files have gone, or belong to a checkpoint now."""
        committed = written(storage, b"weights")
        reading = committed.read_back("x", block_size=4096)
        committed.commit(b"{}")
        with pytest.raises(UsageError, match="is committed"):
            next(reading)
        with pytest.raises(UsageError, match="is committed"):
            read_back(committed)

    @pytest.mark.parametrize("data", [b"", b"weig", b"weights "])
    def test_a_file_of_another_size_is_not_committed(self, storage: Storage, data: bytes) -> None:
        """What a medium lost or added is noticed, read back or not: the file is named with both sizes."""
        attempt = written(storage, b"weights")
        attempt.write("y", blocks(b"whole"), 5)
        self.raw_write(storage, f"{_PARTIAL}/x", data)
        with pytest.raises(StorageError, match=f"x holds {len(data)} bytes, 7 were written"):
            attempt.commit(b"{}")
        with pytest.raises(UsageError, match="has failed"):
            attempt.commit(b"{}")
        assert self.raw_names(storage) == {_PARTIAL}

    def test_a_file_that_is_gone_is_not_committed(self, storage: Storage) -> None:
        """A shard that vanished from its try is named, even if it held nothing."""
        attempt = written(storage, b"")
        storage.remove(f"{_PARTIAL}/x")
        with pytest.raises(StorageError, match="x: No such file"):
            attempt.commit(b"{}")
        assert NAME not in self.raw_names(storage)

    # ---- deleting

    def test_delete_removes_a_checkpoint(self, storage: Storage) -> None:
        """A deleted checkpoint is gone, and its neighbours stay."""
        self.committed(storage)
        self.committed(storage, NAME + "x")
        storage.delete(NAME)
        assert self.raw_names(storage) == {NAME + "x"}

    def test_what_is_not_there_counts_as_deleted(self, storage: Storage) -> None:
        """Two processes may delete the same checkpoint."""
        storage.prepare()
        storage.delete(NAME)

    def test_what_is_set_aside_is_gone_at_once_and_its_space_later(self, storage: Storage) -> None:
        """Its name is free; a sweep does what the second half would have done."""
        for finish in (True, False):
            self.committed(storage)
            remove = storage.set_aside(NAME)
            assert NAME not in storage.list()
            self.committed(storage)
            remove() if finish else storage.sweep()
            assert self.raw_names(storage) == {NAME}
            storage.delete(NAME)
        storage.set_aside(NAME)()

    def test_remove_takes_one_file(self, storage: Storage) -> None:
        """Its neighbours stay; what is not there counts as removed; a folder is refused."""
        storage.create("pins/a", b"")
        storage.create("pins/b", b"")
        storage.remove("pins/a")
        storage.remove("pins/a")
        storage.remove("nowhere/a")
        assert storage.list_files("pins") == {"b": 0}
        with pytest.raises(CorruptError):
            storage.remove("pins")

    def test_sweep_removes_debris_only(self, storage: Storage) -> None:
        """Unfinished tries, drafts and deletions go; checkpoints, records and strangers stay."""
        debris = {".deleting-a-12", f"{NAME}.partial-7f3a", "0001.json.partial-ab"}
        for path in (".deleting-a-12/x", f"{NAME}.partial-7f3a/x", "0001.json.partial-ab", "notes", f"{NAME}/x"):
            self.raw_write(storage, path, b"x")
        assert set(storage.sweep()) == debris
        assert self.raw_names(storage) == {"notes", NAME}

    def test_sweep_asks_what_is_debris(self, storage: Storage) -> None:
        """A caller may spare what the default rule would remove."""
        self.raw_write(storage, "a.partial-1/x", b"x")
        self.raw_write(storage, "b.partial-2/x", b"x")
        assert storage.sweep(lambda name: name.startswith("a")) == ["a.partial-1"]
        assert self.raw_names(storage) == {"b.partial-2"}

    # ---- names

    @pytest.mark.parametrize("path", _OUTSIDE)
    def test_a_path_out_of_the_storage_is_refused(self, storage: Storage, path: str) -> None:
        """No verb takes a path that is not one or two plain components."""
        for verb in (
            lambda: storage.size(path),
            lambda: storage.status(path),
            lambda: storage.read(path, limit=1),
            lambda: storage.read_into(path, 0, []),
            lambda: storage.create(path, b""),
            lambda: storage.append(path),
            lambda: storage.list_files(path),
            lambda: storage.delete(path),
            lambda: storage.remove(path),
            lambda: storage.begin(path, "7f3a"),
            lambda: storage.begin(NAME, f"{path}/x"),
            lambda: storage.begin(NAME, "7f3a" + str(len(path))).write(path, [], 0),
        ):
            with pytest.raises(UsageError):
                verb()


def _interrupt() -> memoryview:
    raise KeyboardInterrupt
