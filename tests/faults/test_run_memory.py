"""The arena does not fit into the memory allowed, by whatever sets the limit."""

from __future__ import annotations

import errno
import os
import resource
from pathlib import Path

import pytest

from holdfast import Every, HoldfastWarning, MemoryLimitError, Run
from holdfast.engine.arena import Arena
from holdfast.engine.memory import allowed_memory, require_memory
from tests.harness.history import History
from tests.harness.small import small

GIB = 1 << 30


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A /proc and a /sys/fs/cgroup of a machine with 8 GiB to spare and no control group."""
    for folder in ("proc/self", "groups"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text(f"MemTotal: 99999999 kB\nMemAvailable: {8 * GIB // 1024} kB\n")
    return tmp_path


def write(folder: Path, **values: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in values.items():
        (folder / name.replace("__", ".")).write_text(f"{value}\n")


def allowed(machine: Path) -> int | None:
    return allowed_memory(machine / "proc", machine / "groups")


def test_without_a_control_group_the_machine_decides(machine: Path) -> None:
    """What it has available."""
    assert allowed(machine) == 8 * GIB


def test_nothing_known_is_no_limit(tmp_path: Path) -> None:
    """A platform that says nothing refuses nothing."""
    assert allowed_memory(tmp_path, tmp_path) is None
    require_memory(1 << 60, "anything", None)


def test_version_2_counts_cache_as_free(machine: Path) -> None:
    """Of 4 GiB, 3 are used, of which 1 is cache that the kernel gives back."""
    write(machine / "proc/self", cgroup="0::/slurm/job1")
    stat = f"anon 1\ninactive_file {GIB // 2}\nactive_file {GIB // 2}"
    write(machine / "groups/slurm/job1", memory__max=4 * GIB, memory__current=3 * GIB, memory__stat=stat)
    assert allowed(machine) == 2 * GIB


def test_an_enclosing_group_is_a_limit_too(machine: Path) -> None:
    """The group itself says max, the one around it does not."""
    write(machine / "proc/self", cgroup="0::/slurm/job1")
    write(machine / "groups/slurm/job1", memory__max="max", memory__current=GIB)
    write(machine / "groups/slurm", memory__max=2 * GIB, memory__current=GIB)
    assert allowed(machine) == GIB


def test_inside_a_container_the_group_is_the_root(machine: Path) -> None:
    """The path that the kernel reports does not exist below the container's own mount."""
    write(machine / "proc/self", cgroup="0::/docker/0123456789")
    write(machine / "groups", memory__max=3 * GIB, memory__current=GIB)
    assert allowed(machine) == 2 * GIB


def test_version_1(machine: Path) -> None:
    """Its own folder, its own file names, and a number close to 2**63 for no limit."""
    write(machine / "proc/self", cgroup="5:cpu,cpuacct:/x\n4:memory:/job\n1:name=systemd:/y")
    group = machine / "groups/memory/job"
    write(group, memory__limit_in_bytes=9223372036854771712, memory__usage_in_bytes=GIB)
    assert allowed(machine) == 8 * GIB
    write(group, memory__limit_in_bytes=3 * GIB, memory__stat=f"total_inactive_file {GIB}\ntotal_active_file 0")
    assert allowed(machine) == 3 * GIB


def test_a_group_over_its_limit_leaves_nothing(machine: Path) -> None:
    """Never a negative number."""
    write(machine / "proc/self", cgroup="0::/job")
    write(machine / "groups/job", memory__max=GIB, memory__current=2 * GIB)
    assert allowed(machine) == 0


def test_a_snapshot_over_the_limit_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not at the first save, hours later, and not by the kernel's killer: a typed error that says what to raise."""
    monkeypatch.setattr("holdfast.engine.arena.allowed_memory", lambda: 50_000)
    job = small()
    folder = tmp_path / "run"
    run = Run(folder, job.state, save=Every(minutes=60))
    refused = pytest.raises(MemoryLimitError, match=r"resources\.limits\.memory")
    with pytest.warns(HoldfastWarning), refused as caught, run:
        job.fit(run)
    assert "the snapshot of this run's state needs" in str(caught.value)
    assert run.progress.step == 1
    assert History(folder).checkpoints == []


def test_memory_that_becomes_short_fails_the_save_and_not_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A state that grows beyond the arena is a failed save, said, and the next one may find room."""
    job = small()
    extra = {"more": []}
    limit = [1 << 40]
    monkeypatch.setattr("holdfast.engine.arena.allowed_memory", lambda: limit[0])

    def each(batches: int) -> None:
        run._session.saves.wait()
        if batches == 3:
            limit[0], extra["more"] = 100_000, ["x" * 200_000]
        if batches == 5:
            limit[0] = 1 << 40

    folder = tmp_path / "run"
    run = Run(folder, {**job.state, "extra": extra}, save=Every(batches=2))
    with pytest.warns(HoldfastWarning, match=r"n0002 failed: .*needs") as caught, run:
        job.fit(run, 2, each)
    assert len(caught) == 1
    assert [int(name[5:13]) for name in History(folder).checkpoints] == [2, 6, 8]


def test_a_hard_file_size_limit_is_a_refusal() -> None:
    """Shared memory falls under it; the soft limit, meant for files on disk, does not count."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 18))
        Arena(1 << 17).close()
        try:
            Arena(1 << 19)
        except MemoryLimitError as error:
            os._exit(0 if "ulimit -f" in str(error) and os.strerror(errno.EFBIG) in str(error) else 1)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert resource.getrlimit(resource.RLIMIT_FSIZE) == before
