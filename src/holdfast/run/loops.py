"""The loops of a run, as generators over its boundaries."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from holdfast.errors import ExactnessWarning, UsageError
from holdfast.run.counts import whole
from holdfast.run.holders import BATCHES, STEPS, check_holders
from holdfast.run.progress_bar import ticker
from holdfast.state.torch import rng
from holdfast.state.torch.cursor import Cursor
from holdfast.state.torch.cursors import make_cursor
from holdfast.state.torch.map_cursor import random_in_workers

if TYPE_CHECKING:
    from holdfast.run.session import Session

Count = Callable[[Any], int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How `Run.batches` hands out its batches."""

    limit: int | None = None
    enumerate: bool = False
    train: bool = True
    exact: bool = True
    samples: Count | None = None
    tokens: Count | None = None


class Loop:
    """Something to iterate once per use. Its length is what is left to be handed out, as a progress bar wants it."""

    def __init__(self, start: Callable[[], Iterator[Any]], length: Callable[[], int]) -> None:
        self._start, self._length = start, length

    def __iter__(self) -> Iterator[Any]:
        return self._start()

    def __len__(self) -> int:
        return self._length()


def epochs(session: Session, total: int) -> Generator[int, None, None]:
    """Yields the numbers of the epochs that are left."""
    session.begin("epochs", total)
    if session.position.epoch >= total:
        session.already_finished(total)
    try:
        while session.position.epoch < total:
            session.start_epoch()
            session.in_epoch = True
            yield session.position.epoch
            session.in_epoch = False
            session.end_epoch(final=session.position.epoch + 1 >= total)
    except GeneratorExit:
        session.leave_loops()
        raise
    finally:
        session.in_epoch = False
    session.finish()


def steps(session: Session, loader: Iterable[Any], total: int, options: Options) -> Generator[Any, None, None]:
    """Yields batches of pass after pass over ``loader`` until ``total`` have been handed out, restarts included."""
    check_holders(sys._getframe(), STEPS, session.voice)
    session.begin("steps", total)
    if session.progress.batches >= total:
        session.already_finished(total)
    else:
        session.end_former_pass()
    while session.progress.batches < total:
        before = session.progress.batches
        yield from _outermost(session, _pass(session, (loader,), options, last=total))
        if session.progress.batches == before and not session.progress.batch:
            raise UsageError("run.steps(loader, n): the loader has no batches, so no step can be made.")
        if session.progress.batches < total:
            session.end_epoch(final=False)
    session.finish()


def batches(session: Session, loaders: tuple[Iterable[Any], ...], options: Options) -> Iterator[Any]:
    """One loop over ``loaders``, in parallel if there are several."""
    if session.body is not None:
        return _nested(session, loaders, options)
    return _train(session, loaders, options) if options.train else _validation(session, loaders, options)


def _train(session: Session, loaders: tuple[Iterable[Any], ...], options: Options) -> Generator[Any, None, None]:
    if session.body is not None:  # made before the loop that it is nested in
        yield from _nested(session, loaders, options)
        return
    check_holders(sys._getframe(), BATCHES, session.voice)
    session.begin("epochs")
    batches = _pass(session, loaders, options)
    yield from batches if session.in_epoch else _outermost(session, batches)


def _outermost(session: Session, batches: Iterator[Any]) -> Generator[Any, None, None]:
    """A loop that stands in no other: behind it the training is over, or goes on with another loop."""
    try:
        yield from batches
    except GeneratorExit:
        session.leave_loops()
        raise
    if session.loop.mode != "steps":
        session.leave_loops()


def _pass(
    session: Session, loaders: tuple[Iterable[Any], ...], options: Options, last: int | None = None
) -> Generator[Any, None, None]:
    """One pass: brings the loaders into position, hands out batches, and passes a boundary after each."""
    number = session.loop.start_loop()
    where = f"run.batches, loop {number} of epoch {session.position.epoch}"
    cursors = [make_cursor(loader, where) for loader in loaders]
    if session.loop_is_over(number):
        session.pass_over(number, cursors)
        return
    resumed = _open(session, number, cursors, options)
    before = session.position.batch
    yield from _hand_out(session, cursors, options, last)
    if resumed and session.position.batch == before and session.loop.mode == "epochs":
        session.voice.say("nothing_left", _NOTHING_LEFT.format(session.position.epoch))


def _open(session: Session, number: int, cursors: list[Cursor], options: Options) -> bool:
    """Brings the loaders to their place. Whether that was one in the midst of the loop, after a resume."""
    stored = session.stored_cursors(number, len(cursors))
    if stored is None:
        session.loop.memory.carry(number, cursors)
    _warn(session, number, cursors)
    session.loop.note_iteration(rng.capture())
    for cursor, one in itertools.zip_longest(cursors, stored or ()):
        cursor.open(one, exact=options.exact, tick=ticker(session.progressing, cursor.where))
    if any(one.regrouped for one in cursors):
        session.recorder.replay = None
        session.voice.say("regrouped", _REGROUPED, once="regrouped")
    session.enter_loop(number, cursors, resumed=stored is not None, length=_at_most(cursors, options.limit))
    return stored is not None


def _warn(session: Session, number: int, cursors: list[Cursor]) -> None:
    """Says, once each, what about the loaders cannot be brought back."""
    memory, voice = session.loop.memory, session.voice
    if memory.lives_on(number, cursors):
        voice.warn("lives_on", _LIVES_ON, ExactnessWarning, once="lives_on")
    if memory.left_early(cursors):
        voice.warn("left_early", _LEFT_EARLY, ExactnessWarning, once="left_early")
    if any(random_in_workers(one.loader) for one in cursors):
        voice.warn("workers", _WORKERS, ExactnessWarning, once="workers")
    for attribute in memory.note(number, cursors):
        voice.warn("hidden_state", _HIDDEN.format(attribute), ExactnessWarning, once=attribute)


def _hand_out(
    session: Session, cursors: list[Cursor], options: Options, last: int | None
) -> Generator[Any, None, None]:
    length = _shortest(cursors, options.limit)
    ahead: list[Any] = []
    exhausted, samples, tokens = False, 0, 0
    try:
        while not _is_over(session, options, last):
            batch = ahead.pop() if ahead else _fetch(cursors)
            if batch is None:
                exhausted = True
                break
            samples, tokens = _counts(cursors, batch, options)
            session.body = cursors
            yield _shown(batch, session.position.batch, options, len(cursors))
            if session.body is not cursors:
                raise UsageError(_STALE)
            session.body = None
            session.complete_batch(samples, tokens)
            ahead = _consider(session, cursors, length, over=_is_over(session, options, last))
        session.loop.end_loop(exhausted)
    except GeneratorExit:
        if session.loop.cursors is cursors:  # else it was kept in a variable while other loops went on
            session.leave_batch(samples, tokens)
            session.loop.end_loop(False)
        raise
    finally:
        if session.body is cursors:
            session.body = None
        for cursor in cursors:
            cursor.close()


def _is_over(session: Session, options: Options, last: int | None) -> bool:
    """Whether the loop has handed out as many batches as it may, in itself or in the whole run."""
    within = options.limit is None or session.position.batch < options.limit
    return not (within and (last is None or session.progress.batches < last))


def _consider(session: Session, cursors: list[Cursor], length: int | None, *, over: bool) -> list[Any]:
    """Saves if that is due. A loader without a length is asked for its next batch first, if there will be one.

    A resume from a loop's last batch hands out nothing, which breaks code that uses the last loss after the loop;
    so a save that is due there is taken at the epoch's end instead.
    """
    save = session.snapshots.save_if_due
    if over or length is not None:
        ends = over or session.position.batch >= (length or 0)
        save(last=ends and session.loop.mode == "epochs")
        return []
    if not session.saves.due:
        return []
    for cursor in cursors:
        cursor.hold()
    try:
        batch = _fetch(cursors)
    except Exception:
        save()  # else a loader that fails at the same place in every attempt would keep the run from getting further
        raise
    save(last=batch is None)
    return [batch]


def _fetch(cursors: list[Cursor]) -> list[Any] | None:
    """One batch of each loader, or None when the first of them ends."""
    try:
        return [cursor.next() for cursor in cursors]
    except StopIteration:
        return None


def _shown(batch: list[Any], index: int, options: Options, loaders: int) -> Any:
    value = batch[0] if loaders == 1 else tuple(batch)
    return (index, value) if options.enumerate else value


def _counts(cursors: list[Cursor], batch: list[Any], options: Options) -> tuple[int, int]:
    samples = options.samples(batch[0]) if options.samples is not None else cursors[0].samples(batch[0])
    tokens = options.tokens(batch[0]) if options.tokens is not None else 0
    return whole("samples", samples), whole("tokens", tokens)


def _shortest(cursors: list[Cursor], limit: int | None) -> int | None:
    """How many batches there will be, if every loader says."""
    return _at_most(cursors, limit) if all(one.length is not None for one in cursors) else None


def _at_most(cursors: list[Cursor], limit: int | None) -> int | None:
    """How many batches there will be at most, by those who say."""
    return min((length for length in [limit, *(one.length for one in cursors)] if length is not None), default=None)


def _nested(session: Session, loaders: tuple[Iterable[Any], ...], options: Options) -> Iterator[Any]:
    """Inside of the body of another loop; so it looks too behind an iterator that was advanced by hand and kept."""
    if options.train:
        session.voice.say("nested", _NESTED, once="nested")
    return _plain(loaders, options)


def _plain(loaders: tuple[Iterable[Any], ...], options: Options) -> Iterator[Any]:
    """A loop inside the body of another one, or a validation loop: as if holdfast were not there."""
    pairs: Iterator[Any] = iter(loaders[0]) if len(loaders) == 1 else zip(*loaders, strict=False)
    limited = itertools.islice(pairs, options.limit)
    return enumerate(limited) if options.enumerate else limited


def _validation(session: Session, loaders: tuple[Iterable[Any], ...], options: Options) -> Generator[Any, None, None]:
    # Nothing is restored here: what it draws, in front of the loops, would come on top of the restored random state.
    session.require_open()
    session.loop.start_validation([make_cursor(one, "run.batches(train=False)") for one in loaders])
    yield from _plain(loaders, options)


_NESTED = (
    "run.batches() in the body of another loop of the run is handed out as it is, without boundaries or saves, and a "
    "resume runs it whole; mark it with train=False if that is meant. If the other one is an iterator that is advanced "
    "by next(), close() it first."
)
_STALE = "this iterator of run.batches() was kept while its epoch ended: make a new one in each epoch."
_REGROUPED = (
    "the batches have another size than before the restart, or another number of ranks shares them: each sample of the "
    "epoch still comes once, in the same order, and batches that are run again are not compared."
)
_NOTHING_LEFT = (
    "resumed behind the last batch of epoch {}: the loop over batches hands out nothing more, so code behind it cannot "
    "use variables of its body; keep what it needs in run.values"
)
_HIDDEN = (
    "the attribute {} changes from epoch to epoch, and nothing restores it after a restart. If samples or their order "
    "depend on it, they cannot be promised after a resume: give a sampler state_dict() and load_state_dict(); give a "
    "dataset both and name it in state=, or set the attribute from the epoch's number in each epoch."
)
_LEFT_EARLY = (
    "this loader, or its sampler, keeps a state of its own, and the pass before was left early, or it failed to say "
    "how that ended: where it stands cannot be known, so a resume between two passes starts it afresh. Let its passes "
    "come to their end for exactness."
)
_LIVES_ON = (
    "this iterator lives on from epoch to epoch, and after a restart it is at its beginning again: hand out an "
    "iterable that makes a new iterator for each epoch, or make one epoch of it with run.steps(iterator, n)."
)
_WORKERS = (
    "this loader has workers: if its dataset draws random numbers in them, a resume in the middle of an epoch cannot "
    "repeat those (everything else is exact). For exactness use holdfast.data.DataLoader, or num_workers=0, draw them "
    "in the training loop, or save at the end of epochs with persistent_workers=False."
)
