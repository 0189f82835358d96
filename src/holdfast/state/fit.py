"""Whether what is stored fits what is there: every difference collected before anything is refused."""

from __future__ import annotations

from dataclasses import dataclass, field

from holdfast.errors import MisfitError
from holdfast.types import ItemRecord, TensorSpec

NOT_CONVERTED = "(not converted)"
"""The end of a problem that a cast would solve."""
_FOUR_BITS = "float4_e2m1fn_x2"
"""Pairs of numbers: torch converts them neither from nor into another dtype."""


@dataclass(slots=True)
class Fit:
    """The differences between a stored item and the live object at ``path``.

    ``problems`` refuse the restore when it is strict; ``notes`` are told to the user.
    """

    path: str
    strict: bool = True
    cast: bool = False
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def leaf(self, name: str, stored: TensorSpec, live: TensorSpec) -> bool:
        """Whether the stored tensor can go into the live one; notes why not, or that it will be converted."""
        if stored.shape != live.shape:
            self.problems.append(f"{name}: shape {_shape(stored)} in the checkpoint, {_shape(live)} here")
            return False
        if stored.dtype == live.dtype:
            return True
        possible = _FOUR_BITS not in (stored.dtype, live.dtype)
        if self.cast and possible:
            self.notes.append(f"{self.path}/{name}: converted from {stored.dtype} to {live.dtype}")
            return True
        reason = NOT_CONVERTED if possible else "(cannot be converted)"
        self.problems.append(f"{name}: dtype {stored.dtype} in the checkpoint, {live.dtype} here {reason}")
        return False

    def names(self, stored: set[str], live: set[str]) -> None:
        """Notes the names that only one side has."""
        self.problems += [f"{name}: missing, it is here but not in the checkpoint" for name in sorted(live - stored)]
        self.problems += [f"{name}: unexpected, it is in the checkpoint but not here" for name in sorted(stored - live)]

    def settle(self) -> tuple[str, ...]:
        """The notes. Raises `MisfitError` with all problems if the restore is strict and there are any."""
        if self.strict:
            self.refuse()
        self.notes += [f"{self.path}/{problem}: left out" for problem in self.problems]
        return tuple(self.notes)

    def refuse(self) -> None:
        """Raises `MisfitError` if there is any problem, strict or not."""
        if not self.problems:
            return
        raise MisfitError(
            f"the checkpoint does not fit {self.path!r}; nothing was changed. Build it as it was when it was saved, "
            f"or start a new run. {len(self.problems)} difference{'s' * (len(self.problems) > 1)}:",
            tuple(self.problems),
        )


def check_kind(path: str, record: ItemRecord, kind: str) -> None:
    """Raises `MisfitError` if the checkpoint holds something else under this name."""
    if record.kind != kind:
        raise MisfitError(
            f"{path!r}: the checkpoint holds the state of another kind of object ({record.kind}; here: {kind}). "
            f"Give the object that was saved under this name."
        )


def _shape(spec: TensorSpec) -> str:
    return str(list(spec.shape))
