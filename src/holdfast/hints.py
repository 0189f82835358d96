"""What somebody may have meant."""

from __future__ import annotations

import difflib
from collections.abc import Collection


def did_you_mean(given: str, known: Collection[str], likeness: float = 0.6) -> str:
    """A question to be put behind a sentence, or nothing where nothing known is ``likeness`` (0 to 1) like ``given``.

    >>> did_you_mean("modle", ["model", "optimizer"]), did_you_mean("x", ["model"])
    (" Did you mean 'model'?", '')
    """
    near = difflib.get_close_matches(given, known, 1, likeness)
    return f" Did you mean {near[0]!r}?" if near else ""
