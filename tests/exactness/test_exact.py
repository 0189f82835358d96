"""Killed anywhere and run again, every scenario ends with the same bits as its twin without holdfast."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.exactness.attempts import Attempt, run_all
from tests.exactness.pictures import differences
from tests.exactness.proof import Proof
from tests.exactness.scripts import every_scenario


def parameter(scenario):
    name = scenario.name.removeprefix("tests.exactness.scenarios_").replace(":", ".")
    return pytest.param(scenario, id=name, marks=[pytest.mark.slow] if scenario.slow else [])


@pytest.mark.parametrize("scenario", [parameter(one) for one in every_scenario()])
def test_killed_anywhere_it_ends_with_the_bits_of_its_twin(tmp_path, scenario):
    """State, random numbers and all that is logged are those of the twin, whichever boundary the run is killed at."""
    proof = Proof(tmp_path, scenario)
    proof.run()
    assert not proof.problems, "\n".join(proof.problems[:20])
    assert proof.kills


def test_the_twins_are_what_a_process_makes_that_never_met_holdfast(tmp_path):
    """A fresh interpreter that cannot import holdfast trains to the same bits as a twin that the fork server made."""
    scenario = "tests.exactness.scenarios_state:scheduler_per_epoch"
    forked = Attempt(scenario=scenario, folder=str(tmp_path / "forked"), holdfast=False)
    fresh = dataclasses.replace(forked, folder=str(tmp_path))
    code = (
        f"import sys; sys.modules['holdfast'] = None; from tests.exactness.stage import play; play(**{vars(fresh)!r})"
    )
    assert run_all([forked]) == [0]
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=True, timeout=100)
    assert list(differences(torch.load(forked.outcome), torch.load(fresh.outcome))) == []
