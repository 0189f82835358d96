"""What trainer and writer process say to each other: one JSON datagram per message, requests in the arena."""

from __future__ import annotations

import itertools
import select
import socket
import sys
from collections.abc import Iterable

import msgspec

from holdfast.format.manifest import Manifest

LARGEST_MESSAGE = 64 << 10
"""Bytes. Whatever can grow with the state (a manifest) travels in the arena, because datagrams are bounded."""
PIECE = 32 << 20
"""Bytes of a snapshot, or a multiple of them, after which the writer hears how far the copy has come."""
_PIECES = 64
"""How often it hears of that at most: where a few hundred messages are not read yet, who sends another one waits."""


class ShardRequest(msgspec.Struct, frozen=True):
    """``size`` bytes at ``offset`` of the arena that become ``file``; whole blocks follow up to ``padded_size``.

    If it is ``frozen``, the trainer wants to hear its digest. If that is ``known``, it may be linked to a file that has
    the same, and must not be written with another.
    """

    file: str
    offset: int
    size: int
    padded_size: int
    frozen: bool = False
    known: str = ""


class CommitRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One checkpoint to be made of a snapshot: the shards ``files`` under ``manifest``, in ``folder``.

    ``manifest`` lacks only what depends on the bytes: file digests, its own, and a content hash in its label, where
    ``{hash}`` stands for it. ``delete`` names the checkpoints that may go once this one is committed, ``avoid`` those
    whose files are not linked to. With ``read_back`` the medium is read before the commit.
    """

    folder: str
    files: tuple[str, ...]
    manifest: Manifest
    delete: tuple[str, ...] = ()
    avoid: tuple[str, ...] = ()
    read_back: bool = False


class SaveRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Everything the writer needs to commit one snapshot. It lies in the arena behind the shards."""

    shards: tuple[ShardRequest, ...]
    commits: tuple[CommitRequest, ...]


class UseArena(msgspec.Struct, frozen=True, tag="arena"):
    """Maps the descriptor that comes along; it replaces the arena before."""

    size: int


class Persist(msgspec.Struct, frozen=True, tag="persist"):
    """A snapshot of ``size`` bytes begins, to become one checkpoint in each of ``names``, which are names by folder.

    Its `SaveRequest` lies at ``offset`` of the arena, ``length`` bytes. `Filled` says how much of it is there, and only
    `Complete` has it committed; anything else before that takes it back. If it is larger than ``ring``, it streams
    through that many bytes of the arena: once for each checkpoint, one behind the other, while `Drained` says how far
    the writer is. ``serial`` tells it from others of the same ordinal that were taken back.
    """

    names: dict[str, str]
    ordinal: int
    offset: int
    length: int
    size: int = 0
    ring: int = 0
    serial: int = 0

    @property
    def streams(self) -> bool:
        return self.size > self.ring

    @property
    def piece(self) -> int:
        """Bytes after which either side tells the other how far it is: seldom, and four times in each ring."""
        return self.ring // 4 if self.streams else PIECE * max(1, -(-self.size // (PIECE * _PIECES)))


class Filled(msgspec.Struct, frozen=True, tag="filled"):
    """The bytes of the snapshot before ``end`` are in the arena."""

    end: int


class Complete(msgspec.Struct, frozen=True, tag="complete"):
    """All of the snapshot was filled in: from now on it is committed whatever becomes of the trainer."""


class Abandon(msgspec.Struct, frozen=True, tag="abandon"):
    """The snapshot is taken back: nothing is to be left of it."""


class Stop(msgspec.Struct, frozen=True, tag="stop"):
    """Ends the writer once everything before is done."""


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The writer holds its lock and watches its trainer."""

    pid: int


class Drained(msgspec.Struct, frozen=True, tag="drained"):
    """The bytes of the snapshot before ``end`` are written: their place in the arena is free."""

    serial: int
    end: int


class Committed(msgspec.Struct, frozen=True, kw_only=True, tag="committed"):
    """The checkpoint is durable. ``notes`` tells what went wrong on the way without harm.

    Of its ``size`` bytes, ``linked`` are in files of other checkpoints. ``digests`` are those of its frozen files.
    """

    ordinal: int
    name: str
    folder: str
    digest: str
    size: int
    linked: int = 0
    digests: dict[str, str] = {}
    seconds: float = 0.0
    deleted: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    serial: int = 0


class Failed(msgspec.Struct, frozen=True, kw_only=True, tag="failed"):
    """The save failed as a whole; nothing of it is left in ``folder``, and nothing else was touched.

    With ``again`` the next boundary can be saved in its place.
    """

    ordinal: int
    name: str
    folder: str
    message: str
    again: bool = False
    seconds: float = 0.0
    notes: tuple[str, ...] = ()
    serial: int = 0


ToWriter = UseArena | Persist | Filled | Complete | Abandon | Stop
Outcome = Committed | Failed
ToTrainer = Ready | Drained | Outcome


def channel() -> tuple[socket.socket, socket.socket]:
    """Two connected sockets that keep message boundaries, so that no message is ever half there."""
    kind = socket.SOCK_SEQPACKET if sys.platform.startswith("linux") else socket.SOCK_DGRAM
    return socket.socketpair(socket.AF_UNIX, kind)


def send(connection: socket.socket, message: ToWriter | ToTrainer, descriptors: tuple[int, ...] = ()) -> None:
    """Waits where very many messages are not read yet: one that was dropped would be missed for ever."""
    socket.send_fds(connection, [msgspec.json.encode(message)], list(descriptors))


def shortened(message: Outcome) -> Outcome:
    """``message`` within what a datagram takes: names, notes and text beyond what anyone reads are left out."""
    most = 500
    while len(msgspec.json.encode(found := _cut(message, most))) > LARGEST_MESSAGE and most:
        most //= 2
    return found


def _cut(message: Outcome, most: int) -> Outcome:
    notes = tuple(note[:most] for note in message.notes[:20])
    if isinstance(message, Committed):
        digests = dict(itertools.islice(message.digests.items(), most // 10))
        return msgspec.structs.replace(message, notes=notes, deleted=message.deleted[:most], digests=digests)
    return msgspec.structs.replace(message, notes=notes, message=message.message[: 4 * most])


def readable(descriptors: Iterable[int], timeout: float | None) -> list[int]:
    """Those of ``descriptors`` that can be read, once one can be or ``timeout`` seconds have passed.

    By poll: select refuses descriptors above 1023, which a trainer with many open files has.
    """
    poller = select.poll()
    for descriptor in descriptors:
        poller.register(descriptor, select.POLLIN)
    return [descriptor for descriptor, _ in poller.poll(None if timeout is None else timeout * 1000)]


def receive_by_writer(connection: socket.socket) -> tuple[ToWriter | None, list[int]]:
    """The next message and the descriptors it carries, or None at the end of the connection."""
    data, descriptors, _, _ = socket.recv_fds(connection, LARGEST_MESSAGE, 1)
    message = msgspec.json.decode(data, type=ToWriter) if data else None
    return message, list(descriptors)


def receive_by_trainer(connection: socket.socket) -> ToTrainer | None:
    """The next message, or None at the end of the connection. Raises BlockingIOError where there is none yet."""
    data = connection.recv(LARGEST_MESSAGE, socket.MSG_DONTWAIT)
    return msgspec.json.decode(data, type=ToTrainer) if data else None
