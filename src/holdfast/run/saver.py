"""Where, when and what stays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from holdfast.errors import UsageError
from holdfast.policies.event import AtEnd, OnError, OnSignal
from holdfast.policies.interval import Every
from holdfast.policies.keep import KeepPolicy, Kept, as_keep_policy
from holdfast.policies.keep import Rule as KeepRule
from holdfast.policies.keep_newest import KeepLast
from holdfast.policies.moment import Moment
from holdfast.policies.phrases import keep_policy, save_policy
from holdfast.policies.save import Rule as SaveRule
from holdfast.policies.save import SavePolicy, as_policy

SaveOption = SavePolicy | SaveRule | str | list[str]
KeepOption = KeepPolicy | KeepRule | str | list[str]
"""A policy, a callable in place of one, or phrases as in a configuration file."""

DEFAULT_SAVE = Every(minutes=10) | AtEnd() | OnSignal() | OnError()
DEFAULT_KEEP = KeepLast(3)


class Saver:
    """Binds a save policy and a keep policy. Override `should_save` or `should_keep` for anything else.

    Without arguments it saves every 10 minutes, at the end, on a signal and on an error, and keeps the last 3. Both
    take policies, callables, or phrases.

    >>> from holdfast import Every, KeepLast, Saver
    >>> Saver(save=Every(steps=200), keep=KeepLast(5)).save == Saver(save="every 200 steps").save
    True
    """

    def __init__(self, *, save: SaveOption | None = None, keep: KeepOption | None = None, name: str = "saver") -> None:
        self.save = _save_policy(DEFAULT_SAVE if save is None else save)
        self.keep = _keep_policy(DEFAULT_KEEP if keep is None else keep)
        self.name = name

    def should_save(self, moment: Moment) -> str | None:
        """Why a checkpoint is due at ``moment``, or None."""
        return self.save.due(moment)

    def should_keep(self, checkpoints: Sequence[Kept]) -> Mapping[str, str]:
        """Of ``checkpoints``, oldest first, the names of those that stay, each with why."""
        return self.keep.reasons(checkpoints)


def _save_policy(given: object) -> SavePolicy:
    policy = save_policy(given) if isinstance(given, (str, list)) else as_policy(given)
    if policy is None:
        raise UsageError(
            f"save={given!r}: expected a SavePolicy such as Every(steps=200) | AtEnd(), phrases such as "
            '["every 200 steps", "at end"], or a callable that takes a Moment.'
        )
    return policy


def _keep_policy(given: object) -> KeepPolicy:
    policy = keep_policy(given) if isinstance(given, (str, list)) else as_keep_policy(given)
    if policy is None:
        raise UsageError(
            f'keep={given!r}: expected a KeepPolicy such as KeepLast(3), phrases such as "last 3", or a callable that '
            "takes the checkpoints."
        )
    return policy


def choose_saver(savers: Sequence[Saver] | None, save: SaveOption | None, keep: KeepOption | None) -> Saver:
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
