"""The parts of the benchmark suite measure what they say."""

import doctest
import importlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import speed
import suite
from suite import figures, stored
from suite.contenders import HOLDFAST, NAMES
from suite.job import Job, state_size
from suite.loading import measure_loads
from suite.memory_watch import MemoryWatch
from suite.page_cache import cache, cached, evict, sync
from suite.process_tree import cpu_seconds, members, memory_bytes
from suite.records import LOAD, MACHINE, Measurement, Request
from suite.schedule import Failed, Plan, ask
from suite.workload import DENSE, PARTIAL, TINY, WORKLOADS, Workload

PARTS = [path.stem for path in Path(suite.__file__).parent.glob("*.py") if path.stem not in ("__init__", "child")]


def workload(name):
    return Workload(name=name, size=1 << 20, tensors=80)


@pytest.mark.parametrize("name", PARTS)
def test_examples_run_as_printed(name):
    """Every ``>>>`` example of the module prints what its docstring says."""
    assert doctest.testmod(importlib.import_module(f"suite.{name}")).failed == 0


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_job_is_the_same_in_every_process_and_has_the_size_that_it_is_said_to_have(name):
    """A load in another process can be compared with what was saved, and the limits are for as many bytes."""
    one, other = Job(workload(name)), Job(workload(name))
    for job in (one, other):
        job.step()
    assert one.digest() == other.digest()
    assert one.size() == state_size(workload(name))


@pytest.mark.parametrize("name", WORKLOADS)
def test_every_step_changes_what_is_said_to_change(name):
    """The bytes that a save has to write at least are not taken from a formula."""
    job = Job(workload(name))
    job.step()
    before = {key: one.clone() for key, one in job.tensors().items()}
    job.step()
    changed = sum(one.nbytes for key, one in job.tensors().items() if not torch.equal(one, before[key]))
    assert changed == job.changed()


def test_tiny_tensors_are_as_many_as_asked_for():
    """20,000 tensors are parameters and what AdamW keeps for each of them."""
    job = Job(workload(TINY))
    job.step()
    assert len(job.tensors()) == 80


def test_a_hundredth_of_the_partial_model_is_trained():
    """The workload is the one that it is called."""
    job = Job(Workload(name=PARTIAL, size=64 << 20, tensors=8))
    parameters = list(job.model.parameters())
    trained = sum(one.numel() for one in parameters if one.requires_grad)
    assert trained / sum(one.numel() for one in parameters) == pytest.approx(0.01, rel=0.1)


def test_a_load_that_does_nothing_is_found_out(tmp_path):
    """A contender is not fast by leaving the tensors as they are."""

    class Idle:
        job, files = Job(workload(DENSE)), list

        def open(self):
            return None

        def load(self):
            return None

    with pytest.raises(AssertionError, match="did not bring the saved values back"):
        measure_loads(Idle(), "digest of something else")


def test_an_evicted_file_is_in_memory_only_after_it_was_read(tmp_path):
    """A cold load is cold, and a warm one warm, whether or not the loads before it went through the page cache."""
    path = tmp_path / "file"
    path.write_bytes(os.urandom(3 << 20))
    assert evict([path]).startswith(("posix_fadvise", "drop_caches"))
    assert not cached(path)
    cache([path])
    assert cached(path)


def test_files_are_synced_with_every_folder_that_names_them(tmp_path, monkeypatch):
    """What the suite calls durable has a durable name too, also where a checkpoint is a folder of folders."""
    path = tmp_path / "checkpoints" / "step-1" / "deep" / "file"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"1")
    synced, real = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: synced.append(os.readlink(f"/proc/self/fd/{file}")) or real(file))
    sync([path], tmp_path / "checkpoints")
    named = {str(one) for one in (path, *list(path.parents)[:3])}
    assert set(synced) == named
    assert synced[0] == str(path)


def test_a_process_is_watched_together_with_what_it_starts():
    """A saver does not get rid of its costs by handing its work to another process."""
    work = "import time; memory = b'1' * (64 << 20)\nwhile time.process_time() < 0.3: pass\n"
    script = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {work + 'time.sleep(60)'!r}]).wait()"
    with subprocess.Popen([sys.executable, "-c", script], start_new_session=True) as process:
        watch, begin = MemoryWatch(process), time.perf_counter()
        while memory_bytes(members(process.pid)) < 64 << 20 or cpu_seconds(members(process.pid)) < 0.3:
            time.sleep(0.05)
        time.sleep(0.5)
        everything = members(process.pid)
        os.killpg(process.pid, 9)
        process.wait()
        watch.close()
    assert len(everything) == 2
    assert watch.peak((begin, time.perf_counter())) > 64 << 20


def test_each_repetition_has_everybody_once_and_begins_with_another():
    """No place in the order is always the same one's."""
    plan = Plan([workload(DENSE)], list(NAMES), 5, 1, Path())
    orders = [[name for _, _, name in plan.turns(repetition)] for repetition in range(5)]
    assert sum(len(order) for order in orders) == len(plan)
    assert all(set(order) == {*NAMES, MACHINE} and order[0] == MACHINE for order in orders)
    assert len({order[1] for order in orders}) == 5


def test_a_measurement_that_fails_gives_its_reason(tmp_path):
    """One that cannot run is told, not left out."""
    request = Request(task=LOAD, contender=HOLDFAST, workload=workload(DENSE), folder=str(tmp_path / "no"), saves=1)
    with pytest.raises(Failed, match=r"AssertionError|NotFoundError"):
        ask(request, tmp_path)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--size", "2GB"], "is no size"),
        (["--repetitions", "0"], "at least 1"),
        (["--scratch", "/no/such/folder"], "there is no such folder"),
        (["--scratch", "/dev/shm"], "is in memory"),
    ],
)
def test_what_cannot_be_measured_is_refused(arguments, words):
    """Nothing is measured that does not mean what the page says."""
    with pytest.raises(ValueError, match=words):
        speed.plan_of(speed.parser().parse_args(arguments))


def planned(*arguments):
    return speed.plan_of(speed.parser().parse_args(arguments))


def test_the_command_of_results_says_what_it_takes_to_repeat_them_and_no_more():
    """A page that is published names no folder of the machine, and what is usual needs no words."""
    assert stored.command(planned("--scratch", "/tmp"), 5) == "python benchmarks/speed.py"
    assert stored.command(planned("--size", "64MiB", "--only", "dcp.async_save, DefaultStager"), 2) == (
        "python benchmarks/speed.py --size 64MiB --repetitions 2 --only 'dcp.async_save, DefaultStager'"
    )


def test_only_repetitions_of_the_same_are_added_to_stored_results():
    """A median over two sizes, or over two sets of peers, would mean nothing."""
    plan = planned("--size", "64MiB", "--only", HOLDFAST)
    turns = [Measurement(repetition=number, workload=one.name, contender=name) for number, one, name in plan.turns(0)]
    results = stored.extended(stored.begun(plan), plan, turns)
    stored.require_same(results, plan)
    with pytest.raises(ValueError, match="workloads of the stored results"):
        stored.require_same(results, planned("--size", "32MiB", "--only", HOLDFAST))
    with pytest.raises(ValueError, match="of other contenders"):
        stored.require_same(results, planned("--size", "64MiB"))


def test_results_that_are_not_there_or_of_another_version_are_told(tmp_path):
    """Nothing is extended, and no page is made, of what cannot be read."""
    with pytest.raises(ValueError, match="nothing is stored there yet"):
        stored.read(tmp_path / "none.json")
    (tmp_path / "old.json").write_text("{}")
    with pytest.raises(ValueError, match="Measure anew"):
        stored.read(tmp_path / "old.json")


def test_figures_have_names_of_their_own():
    """Two figures of one name would be mixed."""
    names = [value for key, value in vars(figures).items() if key.isupper()]
    assert len(names) == len(set(names))
