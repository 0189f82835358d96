"""What the fork server imports once, so that no process has to."""

from tests.exactness import kills, scenarios_inexact
from tests.exactness.scripts import every_scenario
from tests.exactness.stage import play

__all__ = ["every_scenario", "kills", "play", "scenarios_inexact"]

every_scenario()
