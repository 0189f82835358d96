"""Killed anywhere and run again, every scenario ends with the same bits as its twin without holdfast."""

import pytest

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
