"""A training job bound to a folder: `Run`, and `Saver`, which says when to save and what to keep."""

from holdfast.run.run import Run
from holdfast.run.saver import Saver
from holdfast.run.voice import Event

__all__ = ["Event", "Run", "Saver"]
