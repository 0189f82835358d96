"""What somebody may have meant, and where to look."""

from __future__ import annotations

import difflib
import traceback
from collections.abc import Collection


def did_you_mean(given: str, known: Collection[str], likeness: float = 0.6) -> str:
    """A question to be put behind a sentence, or nothing where nothing known is ``likeness`` (0 to 1) like ``given``.

    >>> did_you_mean("modle", ["model", "optimizer"]), did_you_mean("x", ["model"])
    (" Did you mean 'model'?", '')
    """
    near = difflib.get_close_matches(given, known, 1, likeness)
    return f" Did you mean {near[0]!r}?" if near else ""


def raised_at(error: BaseException) -> str:
    """An exception with the line that raised it, for where its traceback is not shown.

    >>> try:
    ...     {}["loss"]
    ... except KeyError as error:
    ...     raised_at(error).startswith("KeyError('loss') at ")
    True
    """
    frames = traceback.extract_tb(error.__traceback__)
    return f"{error!r} at {frames[-1].filename}:{frames[-1].lineno}" if frames else repr(error)


def unknown_metric(metric: str, known: Collection[str]) -> str:
    """What is said where no checkpoint has ``metric``.

    >>> unknown_metric("los", ["val_loss", "loss"])
    "no checkpoint has a metric 'los'. Did you mean 'loss'? There are: loss, val_loss."
    """
    names = ", ".join(sorted(known)) or "no metrics at all"
    return f"no checkpoint has a metric {metric!r}.{did_you_mean(metric, known)} There are: {names}."
