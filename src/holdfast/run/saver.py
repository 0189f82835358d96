"""Where, when and what stays."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TypeVar

from holdfast.errors import UsageError
from holdfast.policies.keep import KeepLast, KeepPolicy, Kept
from holdfast.policies.moment import Moment
from holdfast.policies.save import AtEnd, Every, OnError, OnSignal, SavePolicy

Policy = TypeVar("Policy", SavePolicy, KeepPolicy)

DEFAULT_SAVE = Every(minutes=10) | AtEnd() | OnSignal() | OnError()
DEFAULT_KEEP = KeepLast(3)


class Saver:
    """Binds a save policy and a keep policy. Override `should_save` or `should_keep` for anything else.

    Without arguments it saves every 10 minutes, at the end, on a signal and on an error, and keeps the last 3.

    >>> from holdfast import Every, KeepLast, Saver
    >>> Saver(save=Every(steps=200), keep=KeepLast(5)).name
    'saver'
    """

    def __init__(self, *, save: SavePolicy | None = None, keep: KeepPolicy | None = None, name: str = "saver") -> None:
        self.save: SavePolicy = _checked("save", DEFAULT_SAVE if save is None else save, SavePolicy)
        self.keep: KeepPolicy = _checked("keep", DEFAULT_KEEP if keep is None else keep, KeepPolicy)
        self.name = name

    def should_save(self, moment: Moment) -> str | None:
        """Why a checkpoint is due at ``moment``, or None."""
        return self.save.due(moment)

    def should_keep(self, checkpoints: Sequence[Kept]) -> Mapping[str, str]:
        """Of ``checkpoints``, oldest first, the names of those that stay, each with why."""
        return self.keep.reasons(checkpoints)


def _checked(option: str, policy: Policy, kind: type) -> Policy:
    if not isinstance(policy, kind):
        example = "Every(steps=200) | AtEnd()" if kind is SavePolicy else "KeepLast(3)"
        raise UsageError(f"{option}={policy!r}: expected a {kind.__name__} such as {example}.")
    return policy


def choose_saver(
    savers: Sequence[Saver] | None, save: SavePolicy | None, keep: KeepPolicy | None, folder: str | os.PathLike[str]
) -> Saver:
    """The saver of a run from what `Run` was given. Raises `UsageError` where the arguments contradict each other."""
    if savers is None:
        return Saver(save=save, keep=keep)
    if save is not None or keep is not None:
        raise UsageError("Run takes either savers=[Saver(...)] or save= and keep=, not both: move them into the Saver.")
    if len(savers) != 1 or not isinstance(savers[0], Saver):
        raise UsageError(
            f"savers= takes a list with one Saver; got {savers!r}. Combine policies with `|` in one Saver."
        )
    return savers[0]
