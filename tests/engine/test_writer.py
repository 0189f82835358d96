"""The writer process hears its trainer out, also a dying one."""

from __future__ import annotations

import mmap
import socket
from collections.abc import Iterator

import pytest

from holdfast.engine.arrival import Abandoned, Arriving
from holdfast.engine.messages import (
    LARGEST_MESSAGE,
    Abandon,
    Committed,
    Complete,
    Drained,
    Filled,
    Persist,
    Ready,
    Stop,
    ToWriter,
    channel,
    receive_by_trainer,
    send,
    shortened,
)
from holdfast.engine.writer import Trainer, Writer

Ends = tuple[socket.socket, socket.socket]


@pytest.fixture
def ends() -> Iterator[Ends]:
    """The trainer's and the writer's end."""
    ours, theirs = channel()
    yield ours, theirs
    ours.close()
    theirs.close()


class DyingTrainer(Trainer):
    """Sends a last request at the very moment that its death is looked for."""

    def __init__(self, connection: socket.socket) -> None:
        super().__init__(-1, 0)
        self._connection = connection

    def alive(self) -> bool:
        send(self._connection, Persist({"/run": "step-00000001.a0001.n0001"}, 1, 0, 0))
        return False


def test_the_last_request_of_a_dying_trainer_is_heard(ends: Ends) -> None:
    """It may arrive after the writer has looked for messages and before it finds the trainer dead."""
    ours, theirs = ends
    message, _ = Writer(theirs, DyingTrainer(ours))._next()
    assert isinstance(message, Persist)


class LivingTrainer(Trainer):
    def __init__(self) -> None:
        super().__init__(-1, 0)

    def alive(self) -> bool:
        return True


def test_a_trainer_that_died_without_reading_an_answer(ends: Ends) -> None:
    """The reset connection is an end like any other, and no error."""
    ours, theirs = ends
    send(theirs, Ready(1))
    ours.close()
    assert Writer(theirs, LivingTrainer())._next() == (None, [])


def test_what_was_sent_before_the_end_comes_before_the_end(ends: Ends) -> None:
    """Messages first, in order."""
    ours, theirs = ends
    send(ours, Persist({"/run": "a"}, 1, 0, 0))
    send(ours, Stop())
    ours.close()
    writer = Writer(theirs, LivingTrainer())
    assert [type(writer._next()[0]) for _ in range(3)] == [Persist, Stop, type(None)]


def test_an_answer_fits_a_datagram(ends: Ends) -> None:
    """However much was deleted, by however long names, and however much there is to say of it."""
    ours, theirs = ends
    names = tuple(f"{'a-long-label' * 12}-{number:08d}.a0001.n{number:04d}" for number in range(5000))
    notes = tuple(f"could not delete {name}: {'x' * 900}" for name in names)
    answer = Committed(ordinal=1, folder="/run", name="a", digest="b", size=1, seconds=1.0, deleted=names, notes=notes)
    send(theirs, shortened(answer))
    assert len(ours.recv(1 << 22)) < LARGEST_MESSAGE


# A snapshot that is still on its way.


def arriving(ends: Ends, size: int = 100, ring: int = 100) -> tuple[Arriving, socket.socket]:
    ours, theirs = ends
    writer = Writer(theirs, LivingTrainer())
    request = Persist({"/run": "a"}, 1, 0, 0, size=size, ring=ring, serial=7)
    return Arriving(request, writer._next, writer._is_heard, writer._answer), ours


def test_bytes_are_awaited_until_they_are_there(ends: Ends) -> None:
    """And no longer: the writer begins while the rest is being copied."""
    arrival, trainer = arriving(ends)
    send(trainer, Filled(50))
    arrival.await_bytes(50)
    assert not arrival.whole
    send(trainer, Filled(100))
    send(trainer, Complete())
    arrival.await_whole()
    arrival.await_bytes(100)


@pytest.mark.parametrize("message", [Abandon(), Stop(), Persist({"/run": "b"}, 1, 0, 0)])
def test_anything_else_takes_the_snapshot_back(ends: Ends, message: ToWriter) -> None:
    """It is what the writer goes on with."""
    arrival, trainer = arriving(ends)
    send(trainer, Filled(50))
    send(trainer, message)
    with pytest.raises(Abandoned) as caught:
        arrival.await_bytes(100)
    assert caught.value.heard == (message, [])


def test_the_end_of_the_trainer_takes_an_incomplete_snapshot_back(ends: Ends) -> None:
    """There is nobody any more who would complete it."""
    arrival, trainer = arriving(ends)
    trainer.close()
    with pytest.raises(Abandoned) as caught:
        arrival.await_bytes(100)
    assert caught.value.heard == (None, [])


def test_a_snapshot_that_streams_comes_once_for_each_checkpoint(ends: Ends) -> None:
    """Its positions go on from round to round, and the trainer hears what is free."""
    arrival, trainer = arriving(ends, size=100, ring=40)
    assert not arrival.repeatable
    assert arrival.locate(90) == 10
    arrival.release(90)
    arrival.next_round()
    assert arrival.locate(10) == 110 % 40
    arrival.release(10)
    heard = [receive_by_trainer(trainer) for _ in range(3)]
    assert heard == [Drained(7, 90), Drained(7, 100), Drained(7, 110)]


def test_a_trainer_that_does_not_listen_does_not_hold_up_the_writer(ends: Ends) -> None:
    """It hears what is free as often as it waits for it, which always fits the channel: it may be about to end."""
    arrival, trainer = arriving(ends, size=10_000, ring=1000)
    for end in range(1000):
        arrival.release(end)
    heard = [receive_by_trainer(trainer) for _ in range(3)]
    assert heard == [Drained(7, 250), Drained(7, 500), Drained(7, 750)]
    with pytest.raises(BlockingIOError):
        receive_by_trainer(trainer)


def test_a_request_that_was_taken_back_may_be_overwritten(ends: Ends) -> None:
    """The trainer goes on with the next snapshot at once, before the writer has read the request of this one."""
    ours, theirs = ends
    writer = Writer(theirs, LivingTrainer())
    writer._arena = mmap.mmap(-1, 4096)
    send(ours, Filled(50))
    send(ours, Abandon())
    assert writer._persist(Persist({"/run": "a"}, 1, 0, 100, size=100, ring=100)) == (Abandon(), [])
