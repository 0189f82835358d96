"""Saving before a known end comes."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from holdfast.errors import UsageError
from holdfast.format.reasons import BEFORE_DEADLINE
from holdfast.policies.moment import Moment
from holdfast.policies.save import SavePolicy
from holdfast.types import Json
from holdfast.wording import duration

Instant = datetime | str | float
"""An aware `datetime`, an ISO 8601 text with a zone, or seconds since 1970."""
Notice = Callable[[], Instant | None]
"""A callable that returns when the end comes, or None as long as nobody knows of one."""

JITTER_SECONDS = 5.0
"""By how much two answers for the same deadline may differ."""
RETRY_SECONDS = 10.0
"""Seconds of training after which a save that failed is tried again before the same deadline."""
_YEAR_10000 = 253402300800


@dataclass(frozen=True, slots=True, repr=False, kw_only=True)
class BeforeDeadline(SavePolicy):
    """Due once before a known end: so early that the save is durable ``margin`` seconds before it.

    Give exactly one source of the deadline:

    - ``at``: an aware `datetime`, an ISO 8601 text with a zone, or seconds since 1970.
    - ``slurm=True``: the end of the Slurm job that this process runs in. One that is moved is followed.
    - ``notice``: a path, whose notice has come when that file exists, or a callable without arguments that returns the
      instant, or None as long as there is none. The file may say the instant: as ISO 8601 text, as seconds since 1970,
      or as JSON with a ``"time"``, as the ``instance-action`` document of AWS. Otherwise the end is ``grace`` seconds
      after its modification: 30, the shortest notice that the large clouds give. Of a callable's answers the earliest
      counts, until it returns None.

    With ``stop`` the run ends itself after that save. An instant that had passed when the run began is no deadline;
    one that passes in the midst of a long batch is still acted on. Training waits for a save that is being written.
    Raises `UsageError` for anything else, such as an instant without a zone.

    >>> BeforeDeadline(at="2026-11-26T09:00+01:00", stop=True).key
    'at 2026-11-26T08:00:00+00:00'
    """

    at: Instant | None = None
    slurm: bool = False
    notice: str | os.PathLike[str] | Notice | None = None
    grace: float = 30.0
    margin: float = 30.0
    stop: bool = False

    def __post_init__(self) -> None:
        for name in ("slurm", "stop"):
            if not isinstance(getattr(self, name), bool):
                raise UsageError(f"BeforeDeadline({name}={getattr(self, name)!r}): expected True or False.")
        for name in ("grace", "margin"):
            _require_seconds(name, getattr(self, name))
        sources = {"at": self.at is not None, "slurm": self.slurm, "notice": self.notice is not None}
        if sum(sources.values()) != 1:
            found = ", ".join(name for name, given in sources.items() if given) or "none"
            raise UsageError(f"BeforeDeadline() takes exactly one of at, slurm, notice; got {found}.")
        if self.at is not None:
            object.__setattr__(self, "at", _utc(_named_instant(self.at)))
        if self.notice is not None:
            object.__setattr__(self, "notice", _path_or_callable(self.notice))

    @property
    def key(self) -> str:
        """What names the source of the deadline, the same in every attempt."""
        if self.at is not None:
            return f"at {_utc(instant(self.at)).isoformat()}"
        if callable(self.notice):
            return f"notice {getattr(self.notice, '__qualname__', type(self.notice).__name__)}"
        return "slurm" if self.slurm else f"notice {self.notice}"

    def lead(self, moment: Moment) -> float:
        """How many seconds before the deadline the save has to start."""
        # A save that is late is worth nothing, and no two take the same time; the one before it may have begun a moment
        # ago and is waited for, and the boundary after this one may come a whole batch later.
        return 1.5 * (moment.costs.durable + moment.costs.persist) + 2 * moment.costs.batch + self.margin

    def due(self, moment: Moment) -> str | None:
        deadline = self._pressing(moment)
        if deadline is None:
            return None
        left = deadline - moment.now
        if left < 0:
            return f"after the deadline ({duration(-left)} ago)"
        return f"{BEFORE_DEADLINE} (in {duration(left)})"

    def remember(self, moment: Moment) -> Mapping[str, Json]:
        deadline = self._pressing(moment)
        return {} if deadline is None else {self._memory_key: deadline}

    def insists(self, moment: Moment) -> bool:
        return self._pressing(moment) is not None

    def urgent(self, moment: Moment) -> bool:
        return self._pressing(moment) is not None

    def ends(self, moment: Moment) -> bool:
        return self.stop and self._pressing(moment) is not None

    def remark(self, moment: Moment) -> str | None:
        """Where a save is due but will hardly be durable in time."""
        deadline, needed = self._pressing(moment), moment.costs.needed
        if deadline is None or deadline - moment.now >= needed:
            return None
        left = deadline - moment.now
        late = f"a save takes about {duration(needed)}: it may come too late"
        if left < 0:
            return f"the deadline passed {duration(-left)} ago, and {late}"
        return f"{duration(left)} are left until the deadline, and {late}"

    @property
    def _memory_key(self) -> str:
        # With the margin: of two policies before the same end, the earlier must not silence the later one.
        return f"deadline {self.key} {self.margin:g}"

    def _pressing(self, moment: Moment) -> float | None:
        """The deadline, if it is time to act on it and that has not been done."""
        deadline = moment.deadlines.get(self.key)
        if deadline is None or moment.event not in ("boundary", "epoch_end"):
            return None
        # A storage that refuses is asked again, but not at every batch, and not when it is too late.
        if moment.failed and (moment.now > deadline or moment.since_save < RETRY_SECONDS):
            return None
        acted_on = moment.memory.get(self._memory_key)
        if isinstance(acted_on, (int, float)) and abs(acted_on - deadline) < JITTER_SECONDS:
            return None
        return deadline if moment.now >= deadline - self.lead(moment) else None


def instant(value: object) -> float:
    """Seconds since 1970 of an aware `datetime`, an ISO 8601 text with a zone, or such seconds themselves.

    Raises `UsageError` for anything else.

    >>> instant("1970-01-01T01:00:10+01:00")
    10.0
    """
    if isinstance(value, str):
        value = _from_text(value)
    if isinstance(value, datetime):
        if value.utcoffset() is None:
            raise UsageError(
                f"{value.isoformat()} names no zone, and nobody knows whose clock is meant: add one, such as Z for UTC "
                "or +01:00."
            )
        return value.timestamp()
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < _YEAR_10000:
        return float(value)
    raise UsageError(f"{value!r} is no instant: expected a datetime, an ISO 8601 text, or seconds since 1970.")


def _from_text(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"{text!r} is no instant: expected an ISO 8601 text such as 2026-11-26T08:00Z.") from None


def _named_instant(at: Instant) -> float:
    try:
        return instant(at)
    except UsageError as error:
        raise UsageError(f"BeforeDeadline(at={at!r}): {error}") from None


def _utc(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _path_or_callable(notice: object) -> Path | Notice:
    if isinstance(notice, (str, os.PathLike)) and os.fspath(notice):
        return Path(notice)
    if callable(notice) and not isinstance(notice, type):
        return notice
    raise UsageError(
        f"BeforeDeadline(notice={notice!r}): expected the path of a file, or a callable without arguments that returns "
        "None or an instant."
    )


def _require_seconds(name: str, value: object) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 0 <= value < math.inf:  # type: ignore[operator]  # a number by now
        raise UsageError(f"BeforeDeadline({name}={value!r}): expected seconds, at least 0.")
