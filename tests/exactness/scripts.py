"""Scenarios: scripts that are written once and run in two ways, without holdfast or with it."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.exactness.attempts import Attempt
from tests.exactness.twin import Plain

MODULES = ("data", "gradients", "iterables", "loaders", "loops", "order", "state")


class Script:
    """What a scenario is given instead of ``import holdfast``."""

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt
        self._calls = 0
        self.options = attempt.options
        self.state: Mapping[str, Any] = {}
        self.job: Any = None

    def run(self, state: Mapping[str, Any], **options: Any) -> Any:
        """A ``holdfast.Run`` over ``state``; in the twin, plain Python."""
        self.state = state
        self.job = self._held(state, options) if self._attempt.holdfast else Plain()
        return self.job

    def fail_here(self) -> None:
        """A bug in the script, or a lack of memory: raises in one batch of one attempt."""
        self._calls += 1
        if self._attempt.kill == ("raise", self._calls):
            raise RuntimeError(f"the script fails in its batch {self._calls}")

    def _held(self, state: Mapping[str, Any], options: dict[str, Any]) -> Any:
        import holdfast
        from tests.exactness.kills import policy_of

        policy, listener = policy_of(self._attempt.kill, self._attempt.number)
        run = holdfast.Run(f"{self._attempt.folder}/run", state, save=policy, **options)
        run.on_event = listener(run)
        return run


Play = Callable[[Script], Mapping[str, Any] | None]


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """A script and what to expect of it.

    ``says`` are phrases of the warnings that holdfast gives, and no others; ``ways`` are those it is killed
    in (see `tests.exactness.kills`; ``ends``: only at the ends of epochs); an ordinary save ``waits`` for a
    boundary without pending gradients; ``slow`` ones run in CI only; ``first`` are options of its first attempt.
    """

    play: Play
    says: tuple[str, ...] = ()
    ways: tuple[str, ...] = ("at", "after")
    waits: bool = False
    slow: bool = False
    first: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.play.__module__}:{self.play.__name__}"


SCENARIOS: list[Scenario] = []


def scenario(**expectations: Any) -> Callable[[Play], Play]:
    """Registers a script; the keywords are those of `Scenario`."""

    def register(play: Play) -> Play:
        SCENARIOS.append(Scenario(play=play, **expectations))
        return play

    return register


def every_scenario() -> list[Scenario]:
    for name in MODULES:
        importlib.import_module(f"tests.exactness.scenarios_{name}")
    return SCENARIOS
