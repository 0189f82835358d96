"""Where a scenario is played. In the twin, nothing here imports holdfast."""

from __future__ import annotations

import faulthandler
import importlib
import random
import warnings
from typing import Any

import numpy as np
import torch

from tests.exactness.attempts import Attempt
from tests.exactness.pictures import picture
from tests.exactness.scripts import Script

HANGING_SECONDS = 50


def play(**fields: Any) -> None:
    """Runs an attempt to its end, in this process, and stores what it made."""
    faulthandler.dump_traceback_later(HANGING_SECONDS, exit=True)
    warnings.simplefilter("always")
    attempt = Attempt(**{**fields, "kill": fields["kill"] and tuple(fields["kill"])})
    module, name = attempt.scenario.split(":")
    scene = getattr(importlib.import_module(module), name)
    # Seeds as different as those of processes in which nobody seeds: all else has to come from the checkpoint.
    random.seed(attempt.seed)
    np.random.seed(attempt.seed)
    torch.manual_seed(attempt.seed)
    script = Script(attempt)
    extras = scene(script) or {}
    script.job.close()
    outcome = {"state": picture(script.state), "values": picture(script.job.values), "extras": picture(extras)}
    outcome["random"] = picture([random.getstate(), np.random.get_state(legacy=False), torch.default_generator])
    outcome["logged"] = [list(entry) for entry in getattr(script.job, "logged", [])]
    torch.save(outcome, attempt.outcome)
    faulthandler.cancel_dump_traceback_later()
