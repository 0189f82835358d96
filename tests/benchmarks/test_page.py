"""`docs/performance.md` says what was measured, and nothing else."""

from pathlib import Path

import msgspec
import pytest

from suite import behind, figures
from suite.contenders import HOLDFAST, NAMES, TORCH_SAVE
from suite.excerpt import with_excerpt
from suite.page import page
from suite.records import MACHINE, Measurement, Results, Traits
from suite.summary import Summary
from suite.tables import SAVING, contender_table, target_table
from suite.targets import TARGETS
from suite.workload import DENSE, PARTIAL, TINY, Workload

ROOT = Path(__file__).parents[2]


def measured(repetition, contender, **found):
    return Measurement(
        repetition=repetition, workload=DENSE, contender=contender, figures={key: [one] for key, one in found.items()}
    )


def results(*measurements, repetitions=1):
    traits = {
        HOLDFAST: Traits(asynchronous=True, durable="files and folder", verifies="every byte", versions={}),
        TORCH_SAVE: Traits(asynchronous=False, durable="nothing", verifies="no", versions={"torch": "2.13"}),
    }
    return Results(
        command="python benchmarks/speed.py", date="2026-11-26", machine={"cores": "2 cores"}, scratch="ext4",
        workloads=[Workload(name=DENSE, size=1 << 30, tensors=8)], repetitions=repetitions, saves=1, traits=traits,
        measurements=list(measurements),
    )  # fmt: skip


def test_the_page_is_what_the_stored_results_give():
    """Nobody edits a figure of the page, and none of them is left behind by newer results."""
    folder = ROOT / "benchmarks" / "results"
    stored = msgspec.json.decode((folder / "speed.json").read_bytes(), type=Results)
    wanted = page(stored, behind.read(folder / "behind.json"))
    assert (ROOT / "docs" / "performance.md").read_text() == wanted


def test_the_table_of_the_readme_is_what_the_stored_results_give():
    """It says the same as the page, and its command."""
    stored = msgspec.json.decode((ROOT / "benchmarks" / "results" / "speed.json").read_bytes(), type=Results)
    readme = (ROOT / "README.md").read_text()
    assert with_excerpt(readme, stored) == readme
    assert stored.command in readme


def test_a_readme_without_a_place_for_the_table_is_left_alone():
    """Nothing is appended to a document that somebody has rearranged."""
    with pytest.raises(ValueError, match=r"README\.md needs the lines"):
        with_excerpt("# holdfast\n", results())


def test_what_was_measured_beside_a_device_is_kept_by_its_command(tmp_path):
    """A run takes the place of an earlier one of the same command, and the page shows all of them, as ratios too."""
    found = behind.Behind(
        command="python benchmarks/behind.py", date="2026-11-26", device="a device", torch="2.11",
        step=[0.2, 0.21, 0.19], stall=[0.002, 0.001, 0.003], longer=[-0.0001, 0.0, 0.0002],
        copy=[49e9, 50e9, 51e9], pinned=[50e9],
    )  # fmt: skip
    for one in (found, msgspec.structs.replace(found, command="other"), found):
        behind.add(one, tmp_path / "behind.json")
    stored = behind.read(tmp_path / "behind.json")
    assert [one.command for one in stored] == ["other", "python benchmarks/behind.py"]
    shown = page(results(), stored)
    assert "| 2.00 ms (1.00-3.00) | 0.0100 | 0.00 ms (-0.10-0.20) | 50.0 GB/s (49.0-51.0) | 1.000 |" in shown
    assert "On CUDA devices" not in page(results())


def test_everybody_and_every_workload_is_in_the_stored_results():
    """A peer or a size that was left out of the run is not left out of the page unnoticed."""
    stored = (ROOT / "benchmarks" / "results" / "speed.json").read_bytes()
    found = msgspec.json.decode(stored, type=Results)
    turns = {(one.workload, one.contender) for one in found.measurements}
    assert turns == {(workload, name) for workload in (DENSE, TINY, PARTIAL) for name in (*NAMES, MACHINE)}


def test_a_ratio_is_formed_within_a_repetition():
    """A repetition that met a slow machine does not lend its limit to another."""
    summary = Summary(
        results(
            measured(0, MACHINE, copy_warm=1.0), measured(0, HOLDFAST, stall=2.0),
            measured(1, MACHINE, copy_warm=10.0), measured(1, HOLDFAST, stall=20.0),
            measured(2, MACHINE, copy_warm=100.0), measured(2, HOLDFAST, stall=300.0),
            repetitions=3,
        )
    )  # fmt: skip
    found = summary.to_limit(DENSE, HOLDFAST, figures.STALL)
    assert (found.median, found.least, found.most) == (2.0, 2.0, 3.0)


def test_a_repetition_with_one_side_only_has_no_ratio():
    """Where one of the two failed, the other is not held against a different moment."""
    summary = Summary(results(measured(0, MACHINE, copy_warm=1.0), measured(1, HOLDFAST, stall=2.0), repetitions=2))
    assert summary.to_limit(DENSE, HOLDFAST, figures.STALL) is None


def test_the_best_peer_is_never_holdfast_itself():
    """Holdfast is held against others, also where it is the fastest."""
    summary = Summary(results(measured(0, HOLDFAST, stall=1.0), measured(0, TORCH_SAVE, stall=4.0)))
    assert summary.best_peer(DENSE, figures.STALL) == TORCH_SAVE
    assert summary.to_peer(DENSE, figures.STALL, TORCH_SAVE).median == 0.25


def test_who_syncs_nothing_is_shown_without_and_with_the_fsync_of_the_suite():
    """What a saver takes by itself is not hidden behind what the suite adds for it."""
    summary = Summary(results(measured(0, TORCH_SAVE, stall=4.0, call=3.0, durable=2.0, done=1.0)))
    rows = contender_table(summary, DENSE, SAVING).rows
    assert [(row[0], row[1]) for row in rows[:2]] == [("torch.save", "3 s"), ("torch.save + fsync", "4 s")]


def test_a_contender_that_cannot_run_says_why():
    """A missing row has its reason on the page."""
    failed = Measurement(repetition=0, workload=DENSE, contender=TORCH_SAVE, cannot="OSError: no")
    assert "torch.save cannot run: `OSError: no`" in page(results(failed))


@pytest.mark.parametrize(("stall", "verdict"), [(1.2, "reached"), (1.3, "**not reached**")])
def test_a_target_is_reached_at_its_bound(stall, verdict):
    """The verdict on the page is about the median of the ratios."""
    table = target_table(Summary(results(measured(0, MACHINE, copy_warm=1.0), measured(0, HOLDFAST, stall=stall))))
    row = next(row for row in table.rows if row[0] == "dense: stall ÷ a copy in warm memory")
    assert row[1:] == ["≤ 1.2", f"{stall}", verdict]


def test_a_target_without_its_figures_is_not_measured():
    """No verdict is made up where nothing was measured."""
    assert {row[-1] for row in target_table(Summary(results())).rows} == {"not measured"}
    assert len(target_table(Summary(results())).rows) == len(TARGETS)
