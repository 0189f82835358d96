"""A small run of the whole benchmark."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from suite import figures
from suite.contenders import DCP_ASYNC, HOLDFAST, TORCH_CHECKPOINTING, TORCH_SAVE
from suite.page import page
from suite.records import MACHINE, Results
from suite.workload import DENSE, PARTIAL

SPEED = Path(__file__).parents[2] / "benchmarks" / "speed.py"
SMALL = ["--size", "8MiB", "--tensors", "80", "--repetitions", "1", "--workloads", DENSE, PARTIAL]
ALONE = {figures.STALL, figures.OVERHEAD, figures.BESIDE, figures.DURABLE, figures.CPU, figures.WRITTEN, figures.DISK}
LOADED = {figures.WARM, figures.COLD, figures.FIRST_BATCH, figures.FIRST_STEP}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_small_run_measures_holdfast_its_peers_and_the_machine(tmp_path):
    """Everything is measured in one run, and a peer that is not there says so."""
    output = tmp_path / "speed.json"
    names = [HOLDFAST, TORCH_SAVE, DCP_ASYNC, TORCH_CHECKPOINTING]
    command = [sys.executable, str(SPEED), *SMALL, "--only", *names, "--scratch", str(tmp_path), "--json"]
    done = subprocess.run([*command, "--output", str(output)], capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    found = msgspec.json.decode(output.read_bytes(), type=Results)
    assert msgspec.json.decode(done.stdout, type=Results) == found
    for name in (DENSE, PARTIAL):
        by_name = {one.contender: one for one in found.measurements if one.workload == name}
        assert set(by_name) == {*names, MACHINE}
        for contender, expected in ((HOLDFAST, ALONE | LOADED), (TORCH_SAVE, ALONE | LOADED), (DCP_ASYNC, ALONE)):
            assert by_name[contender].cannot == ""
            assert expected <= by_name[contender].figures.keys()
        if importlib.util.find_spec("torch_checkpointing") is None:
            assert by_name[TORCH_CHECKPOINTING].cannot.startswith("ModuleNotFoundError: No module named")
    assert not list(tmp_path.glob("speed-*"))
    assert found.repetitions == 1
    assert "**holdfast ÷ best peer**" in page(found)
