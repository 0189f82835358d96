"""What a new checkpoint need not write: files that another one in the folder has already, byte for byte."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator, Sequence

from holdfast.engine.catalog import Catalog
from holdfast.engine.messages import CommitRequest, ShardRequest
from holdfast.engine.sharing import Body, Name, bodies
from holdfast.errors import CorruptError, HoldfastError, NotFoundError, StorageError
from holdfast.format.digests import block_span, check_block
from holdfast.format.manifest import Manifest
from holdfast.storage.base import Storage, Try
from holdfast.storage.paths import MANIFEST_FILE
from holdfast.types import FileRecord

_BLOCKS = 4
"""Blocks of a file that are read before it is linked to, other ones by each save: in time all of them."""


class Links:
    """Links files of new checkpoints in a folder to those of the ones that are there."""

    def __init__(self, storage: Storage) -> None:
        self.catalog = Catalog(storage, outlines=True)
        self._storage = storage
        self._bad: set[Hashable] = set()
        """Files that were found to hold other bytes: the blocks that are read next time may be good."""
        self._turns: dict[Hashable, int] = {}
        """The block of each file that is read first next time."""
        self._linked: dict[str, Body] = {}
        """What each file was linked to last."""

    def link(self, attempt: Try, commit: CommitRequest, shard: ShardRequest, notes: list[str]) -> FileRecord | None:
        """Gives ``attempt`` the file of ``shard`` by a link, if its bytes are known and some checkpoint has them.

        The record of it, or None: then it is to be written. ``notes`` hears of files that are not what they should be.
        """
        if not shard.known:
            return None
        found = list(self._candidates(commit, shard))
        while (body := fewest(found, commit.delete)) is not None:
            source = body.names[-1]
            try:
                problem = self._problem(body, commit.manifest)
            except NotFoundError:  # deleted meanwhile
                found.remove(body)
                continue
            if problem is None and attempt.link(source.path, shard.file, shard.size):
                self._linked[shard.file] = body
                return source.record
            if problem is not None:
                self._bad.add(body.status.body)
                notes.append(problem)
            found.remove(body)
        return None

    def reject(self, file: str) -> str:
        """What ``file`` was linked to last is not what it should be, as all of it was read. A note of who has it."""
        body = self._linked[file]
        self._bad.add(body.status.body)
        return f"{file} is the same file in {', '.join(body.checkpoints)}. It is not linked to again."

    def _candidates(self, commit: CommitRequest, shard: ShardRequest) -> Iterator[Body]:
        """The files that were committed by this run with the bytes of ``shard``, and have not been touched since."""
        try:
            entries = [one for one in self.catalog.list().entries if one.manifest.run == commit.manifest.run]
        except HoldfastError:
            return
        there = bodies(self._storage, entries)
        self._forget_others({one.status.body for one in there})
        for body in there:
            fits = all((one.record.digest, one.record.size) == (shard.known, shard.size) for one in body.names)
            avoided = body.status.body in self._bad or any(one.entry.name in commit.avoid for one in body.names)
            if fits and not avoided and self._is_untouched(body):
                yield body

    def _forget_others(self, there: Collection[Hashable]) -> None:
        """A long run deletes many files, and the system gives their numbers to new ones."""
        self._bad.intersection_update(there)
        self._turns = {body: turn for body, turn in self._turns.items() if body in there}

    def _is_untouched(self, body: Body) -> bool:
        """Whether it was last written to before the first of its checkpoints was complete."""
        manifests = [f"{one.entry.name}/{MANIFEST_FILE}" for one in body.names]
        try:
            return all(body.status.modified <= self._storage.status(path).modified for path in manifests)
        except HoldfastError:
            return False

    def _problem(self, body: Body, manifest: Manifest) -> str | None:
        """What is wrong with the blocks whose turn it is; None if nothing is."""
        source = body.names[-1]
        count = len(source.record.blocks)
        first = self._turns.get(body.status.body, manifest.attempt * manifest.ordinal)
        self._turns[body.status.body] = first + _BLOCKS
        try:
            for number in range(first, first + min(_BLOCKS, count)):
                self._check(source, number % count)
        except (CorruptError, StorageError) as error:
            others = ", ".join(one for one in body.checkpoints if one != source.entry.name)
            also = f" It is the same file in {others}." if others else ""
            return f"{error}{also} It is not linked to; what it should hold is written again."
        return None

    def _check(self, source: Name, index: int) -> None:
        begin, end = block_span(source.record, index)
        block = memoryview(bytearray(end - begin))
        self._storage.read_into(source.path, begin, [block])
        check_block(source.record, index, [block], where=source.path)


def fewest(found: Sequence[Body], going: Collection[str]) -> Body | None:
    """Which of the files with the same bytes is linked to, so that there are two of them for two or more checkpoints.

    None if the bytes have to be written. When the new checkpoint is committed, those that are ``going`` go: a file that
    only they have is taken where another one is needed. Else no two checkpoints in a row have the same one, so that
    damage to it leaves the one before to fall back on, and of the others it is the one that the fewest have.
    """
    staying = sorted((one for one in found if one.staying(going)), key=lambda one: _newest(one.staying(going)))
    # Of the newest there may be several: items that are alike are files of the same bytes.
    before = [one for one in staying if _newest(one.staying(going)) < _newest(staying[-1].staying(going))]
    if before:
        return min(before, key=lambda one: len(one.staying(going)))
    others = [one for one in found if one not in staying]
    return max(others, key=lambda one: _newest(one.names), default=None)


def _newest(names: Sequence[Name]) -> tuple[int, int]:
    return names[-1].entry.order
