"""What stands between a loop of the run and the user's `for`, and keeps a count that no resume can bring back."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Iterator, Mapping
from types import FrameType, GeneratorType
from typing import Any

from holdfast.errors import ExactnessWarning, UsageError
from holdfast.run.voice import Voice

BATCHES: Mapping[type, str] = {
    enumerate: "use run.batches(loader, enumerate=True), whose count goes on where it was",
    itertools.islice: "use run.batches(loader, limit=n), which counts the batches before the restart too",
    zip: "use run.batches(a, b), which hands out one batch of each",
}
STEPS: Mapping[type, str] = {
    enumerate: "use run.progress.batches, which counts the batches before the restart too",
    itertools.islice: "give the number of steps to run.steps(loader, n) itself",
    zip: "make one loader of both",
}


def check_holders(frame: FrameType, advice: Mapping[type, str], voice: Voice) -> None:
    """Called as the first thing that the generator running in ``frame`` does, when its holder was made a moment ago.

    Raises `UsageError` for a `zip` of two loops; warns of whatever else hides the position.
    """
    for holder in _holders(frame, advice):
        name = type(holder).__name__
        if sum(one.gi_code is frame.f_code for one in _generators(holder)) > 1:
            raise UsageError(
                f"{name}() of two loops of the run would lose the second one's position on a resume: {advice[zip]}."
            )
        voice.warn(
            "hidden_position",
            f"{name}() around a loop of the run starts again from its beginning after a resume: {advice[type(holder)]}",
            ExactnessWarning,
            once=name,
        )


def _holders(frame: FrameType, kinds: Mapping[type, str]) -> list[Any]:
    """Looks among young objects only: a search of all of them takes as long as there is data in memory.

    No list here may come to hold itself, nor this be a generator: such a cycle would keep the loop's own generator
    alive, and a `break` would go unnoticed.
    """
    young = itertools.chain(gc.get_objects(0), gc.get_objects(1))
    return [one for one in young if type(one) in kinds and any(each.gi_frame is frame for each in _generators(one))]


def _generators(holder: Any) -> Iterator[GeneratorType[Any, Any, Any]]:
    """The generators that ``holder`` draws from; a `zip` has them in a tuple."""
    for referent in gc.get_referents(holder):
        parts = referent if isinstance(referent, tuple) else (referent,)
        yield from (one for one in parts if isinstance(one, GeneratorType))
