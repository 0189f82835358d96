"""How much room a keep policy will need, told before it is needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from holdfast.policies.keep import KeepAny, KeepPolicy, KeepWhen, Kept, plan
from holdfast.types import Progress

AHEAD = 64
"""How many saves are looked ahead: enough to see what a policy settles at."""
_LOOKS = 20_000
"""Records that are looked at, at most, which takes some tens of milliseconds."""


@dataclass(frozen=True, slots=True)
class Shortage:
    """After so many ``saves``, the checkpoints take ``needed`` bytes more than they do now, which is too much."""

    saves: int
    needed: int


def shortage(
    policy: KeepPolicy, there: Sequence[Kept], free: int, ahead: int = AHEAD, part: float = 1.0
) -> Shortage | None:  # fmt: skip
    """Whether saves like the newest of ``there`` (oldest first) will need more than ``free`` bytes, by plan.

    A checkpoint is committed before others go, so both are there for a moment. Each takes up that ``part`` of its size:
    the rest is linked. Pure: the policy is asked what it would keep.

    >>> from holdfast.policies.keep_newest import KeepLast
    >>> shortage(KeepLast(3), [Kept(name="1", progress=Progress(step=10), size=100)], free=250)
    Shortage(saves=3, needed=300)
    """
    now, checkpoints = sum(one.size for one in there), list(there)
    # Each step looks at all of them: with very many there, fewer steps have to do.
    for saves in range(1, min(ahead, max(_LOOKS // max(len(there), 1), 2)) + 1):
        checkpoints.append(_next(checkpoints, saves))
        needed = round(part * (sum(one.size for one in checkpoints) - now))
        if needed > free:
            return Shortage(saves, needed)
        reasons: Mapping[str, str | None] = plan(policy, checkpoints, {checkpoints[-1].name: "newest"})
        checkpoints = [one for one in checkpoints if reasons[one.name] is not None]
    return None


def is_foreseeable(policy: KeepPolicy) -> bool:
    """Whether a policy goes by the records alone, as all of holdfast's own do.

    >>> from holdfast import KeepLast, KeepWhen
    >>> is_foreseeable(KeepLast(2)), is_foreseeable(KeepLast(2) | KeepWhen(list))
    (True, False)
    """
    parts = policy.policies if isinstance(policy, KeepAny) else (policy,)
    return all(type(one).__module__.startswith("holdfast.") and not isinstance(one, KeepWhen) for one in parts)


def _next(checkpoints: Sequence[Kept], number: int) -> Kept:
    """A checkpoint as far from the newest as that one is from the one before it, and a little better by all metrics."""
    newest = checkpoints[-1]
    before = checkpoints[-2] if len(checkpoints) > 1 else Kept(name="", progress=Progress(), created=newest.created - 1)
    steps = {
        name: max(2 * getattr(newest.progress, name) - getattr(before.progress, name), 0)
        for name in newest.progress.__struct_fields__
    }
    return msgspec.structs.replace(
        newest,
        name=f"{newest.name}+{number}",
        progress=Progress(**steps),
        created=newest.created + max(newest.created - before.created, 0.0),
        metrics={name: value - 1e-9 * number for name, value in newest.metrics.items()},
        on_error=False,
    )
