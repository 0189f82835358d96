"""``holdfast probe``."""

import re
import subprocess
import sys

import pytest

from holdfast.cli.comparison import Question, Report, fastest, page
from holdfast.cli.output import console
from holdfast.cli.verdicts import KEPT, SLOW_SYNC, verdicts
from holdfast.policies.estimate import Rates, estimate
from holdfast.storage import platform
from holdfast.storage.capabilities import Capabilities, Trial
from holdfast.storage.mounts import Mount
from holdfast.storage.probe import Probe
from holdfast.storage.speed import Latency, Speed, Transfer

QUICK = ("--sample", "8 MiB")
PHRASE = re.compile(r'save="every \d+ \w+ \| on signal \| on error"')


def test_tells_what_was_measured_and_what_it_means(holdfast, tmp_path):
    """One folder: speeds, estimates, a verdict on everything, and last a phrase to paste."""
    done = holdfast("probe", tmp_path, *QUICK, columns=80)
    assert done.code == 0
    lines = done.out.splitlines()
    assert lines[0] == str(tmp_path)
    assert " free" in lines[1]
    for label in ("sample", "write", "read", "fsync", "rename", "training waits", "durable after", "loaded after"):
        assert re.search(rf"^ *{label} +\S+ ", done.out, re.MULTILINE), label
    for name in ("fsync", "rename", "record locks"):
        assert re.search(rf"^✓ {name} ", done.out, re.MULTILINE), name
    assert PHRASE.fullmatch(lines[-1])
    assert list(tmp_path.iterdir()) == []


def test_json_holds_numbers(holdfast, tmp_path):
    """Bytes and seconds, the verdicts, and the estimate."""
    done = holdfast("probe", tmp_path, *QUICK, "--size", "1 GB", "--mtbf", "2 hours", "--json")
    found = done.json
    assert done.code == 0
    assert (found["size"], found["sample"], found["mean_time_between_failures"]) == (10**9, 8 << 20, 7200)
    assert (found["ok"], found["error"], found["fastest"]) == (True, None, None)
    assert set(found["memory"]) == {"copy", "digest"}
    (place,) = found["places"]
    assert (place["path"], place["there"], place["fits"]) == (str(tmp_path), True, True)
    assert place["probe"]["speed"]["write"]["size"] == 8 << 20
    assert place["probe"]["capabilities"]["locks"] == {"works": True, "because": "", "lies": False}
    assert place["estimate"]["stall"] == pytest.approx(10**9 / found["memory"]["copy"])
    assert place["estimate"]["durable"] > place["estimate"]["stall"]
    assert {one["name"] for one in place["verdicts"]} >= {"fsync", "record locks", "room"}


def test_several_folders_stand_side_by_side(holdfast, tmp_path):
    """A column each, and which one is faster; their findings are compared by ticks."""
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        folder.mkdir()
    done = holdfast("probe", *folders, *QUICK, columns=200)
    (header,) = [line for line in done.out.splitlines() if line.startswith("measured")]
    assert header.split() == ["measured", *map(str, folders)]
    assert re.search(r"^ *record locks +✓ +✓$", done.out, re.MULTILINE)
    assert "A save of 2.1 GB is durable first in" in done.words
    assert done.out.splitlines()[-1].startswith(f'{folders[1]}: save="every')
    assert holdfast("probe", *folders, *QUICK, "--json").json["fastest"] in map(str, folders)


def test_one_that_cannot_be_tried_out_does_not_hide_the_others(holdfast, tmp_path, monkeypatch):
    """It is named at the end, with the reason; of one alone, the reason is the error."""
    (full := tmp_path / "full").mkdir()
    free_bytes = platform.free_bytes
    monkeypatch.setattr(platform, "free_bytes", lambda folder: 10**6 if folder == str(full) else free_bytes(folder))
    done = holdfast("probe", full, tmp_path, *QUICK)
    assert (done.code, done.err) == (8, "")
    reason = rf"{full}: was not tried out: cannot probe {full}: .* is free, and at least .* is needed"
    assert re.match(reason, done.out.splitlines()[-1])
    assert re.match(rf'{tmp_path}: save="every', done.out.splitlines()[-2])
    found = holdfast("probe", full, tmp_path, *QUICK, "--json").json
    assert [one["path"] for one in found["places"]] == [str(tmp_path)]
    assert [one["path"] for one in found["failed"]] == [str(full)]
    assert not found["ok"]
    assert holdfast("probe", full, *QUICK).err.startswith(f"holdfast: cannot probe {full}: ")


def test_a_state_that_does_not_fit_fails(holdfast, tmp_path):
    """As a run of it would; the option that says how large it is is named."""
    done = holdfast("probe", tmp_path, *QUICK, "--size", "900 TB")
    assert done.code == 8
    assert "a state of 900.0 TB does not fit here. --size says how large yours is." in done.words
    found = holdfast("probe", tmp_path, *QUICK, "--size", "900 TB", "--json").json
    assert not found["places"][0]["fits"]
    assert found["error"]["message"] == f"a state of 900.0 TB does not fit in {tmp_path}"


def test_a_folder_that_is_not_there_yet_is_tried_out_above(holdfast, tmp_path):
    """A run would make it there; the page says so, and nothing is made."""
    done = holdfast("probe", tmp_path / "runs" / "new", *QUICK)
    assert done.code == 0
    assert f"is not there yet: tried out in {tmp_path}, the nearest folder above" in done.words
    assert not holdfast("probe", tmp_path / "runs", *QUICK, "--json").json["places"][0]["there"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("inside", ["", "run", "runs/run"])
def test_a_file_is_no_folder(holdfast, tmp_path, inside):
    """Nor is there a folder below it; other folders are not measured first."""
    (tmp_path / "notes").write_text("mine")
    done = holdfast("probe", tmp_path, tmp_path / "notes" / inside, *QUICK)
    assert (done.code, done.out) == (3, "")
    assert done.err == f"holdfast: {tmp_path / 'notes'}: is a file, not a folder.\n"


def test_a_link_to_nowhere_is_no_folder(holdfast, tmp_path):
    """As where its disk is not mounted: what holds the link would be another storage."""
    (tmp_path / "runs").symlink_to(tmp_path / "disk")
    done = holdfast("probe", tmp_path / "runs" / "digits")
    assert done.code == 3
    assert f"{tmp_path / 'runs'}: is a link to {tmp_path / 'disk'}, which is not there" in done.err


@pytest.mark.parametrize("path", ["", "s3://bucket/runs"])
def test_what_is_no_path_is_a_wrong_call(holdfast, path):
    """An empty variable must not mean the folder one is in."""
    done = holdfast("probe", path)
    assert done.code == 2
    assert "expected the path of a folder" in done.err


@pytest.mark.parametrize("option", ["--size", "--sample"])
@pytest.mark.parametrize("size", ["0", "0 GB", "-1 GB", "lots", "12", "1001 PB", "99999999 TB", "9" * 400 + " GB", ""])
def test_a_size_that_makes_no_sense_is_a_wrong_call(holdfast, tmp_path, option, size):
    """It says what would."""
    done = holdfast("probe", tmp_path, option, size)
    assert done.code == 2
    assert f"{option} {size!r}: expected a size from" in done.err
    assert 'such as "2 GiB" or "500MB"' in done.err


def test_a_sample_of_less_than_a_block_is_a_wrong_call(holdfast, tmp_path):
    """There would be nothing to measure."""
    assert "expected a size from 4.2 MB" in holdfast("probe", tmp_path, "--sample", "1 MB").err


@pytest.mark.parametrize("duration", ["0 hours", "-1 h", "soon", "24", "999999999 days", ""])
def test_a_time_that_makes_no_sense_is_a_wrong_call(holdfast, tmp_path, duration):
    """It says what would."""
    done = holdfast("probe", tmp_path, "--mtbf", duration)
    assert done.code == 2
    assert f"--mtbf {duration!r}: expected a time above 0" in done.err


def test_a_run_in_training_does_not_notice(tmp_path, picture):
    """Neither its files nor its lock, and it goes on saving."""
    pytest.importorskip("torch")
    from holdfast import Every, Run, latest
    from tests.harness.small import small

    job = small()
    with Run(tmp_path / "run", job.state, save=Every(batches=2)) as run:

        def probe(batches):
            if batches == 3:
                run.wait()
                before = picture(tmp_path / "run")
                command = [sys.executable, "-m", "holdfast", "probe", tmp_path / "run", *QUICK]
                subprocess.run(command, check=True, capture_output=True, timeout=60)
                assert picture(tmp_path / "run") == before

        job.fit(run, 2, probe)
    latest(tmp_path / "run").verify()


def test_needs_no_framework(tmp_path):
    """As on the machine that mounts the storage."""
    code = "import sys; sys.modules['torch'] = None; from holdfast.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "probe", tmp_path, *QUICK]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_bare_run_keeps_so_many():
    """The verdict on the room says what a run really keeps."""
    pytest.importorskip("torch")
    from holdfast.run.saver import DEFAULT_KEEP

    assert DEFAULT_KEEP.count == KEPT


# ---- what is said of storages that are not here

WORKS = Trial(works=True)
ABLE = Capabilities(sync=WORKS, rename=WORKS, locks=WORKS, links=WORKS, direct=WORKS, reservation=WORKS)
ASKED = Question(size=2 * 10**9, sample=10**9, mean_time_between_failures=86400.0)


def mount(kind, *options):
    return Mount(point="/data", type=kind, source="source", options=options)


def report(path="/data", *, kind="ext4", options=(), free=10**12, sync=0.001, write=1e9, able=ABLE):
    latency = Latency(median=sync, worst=2 * sync, times=32)
    transfer = Transfer(size=10**9, seconds=10**9 / write)
    found = Probe(
        folder=path, mount=mount(kind, *options), free=free, total=10**12, sample=10**9, capabilities=able,
        speed=Speed(write=transfer, read=transfer, sync=latency, rename=latency),
    )  # fmt: skip
    rates = Rates(copy=1e10, digest=1e10, write=write, read=write, sync=sync, rename=sync)
    estimated = estimate(ASKED.size, rates, ASKED.mean_time_between_failures)
    return Report(path, True, found, verdicts(found, ASKED.size), estimated)


def verdict(name, **circumstances):
    (found,) = [one for one in report(**circumstances).verdicts if one.name == name]
    return found


def words(*reports, width=80):
    target = console()
    with target.capture() as captured:
        for part in page(reports, {}, ASKED, width):
            target.print(part, width=width)
    return captured.get()


def test_a_slow_fsync_is_named():
    """With what it adds to a save, however small; slow is no reason to fail."""
    assert verdict("fsync", sync=SLOW_SYNC).good
    slow = verdict("fsync", sync=0.2)
    assert (slow.good, slow.fatal, slow.means) == (False, False, "slow: the 5 of a save take 1 s, however small it is")


def test_memory_does_not_survive_the_machine():
    """Said as a verdict, and with the comparison if it is the fastest."""
    assert "does not survive the machine" in verdict("medium", kind="tmpfs").means
    assert "nothing to do" in verdict("fsync", kind="tmpfs").means
    several = words(report("/dev/shm", kind="tmpfs", write=4e9), report("/disk"))
    assert "durable first in /dev/shm" in several
    assert "It does not survive the machine, though." in " ".join(several.split())


def test_the_files_of_a_container_go_with_it():
    """People save there because it is there."""
    assert not verdict("medium", kind="overlay").good


def test_locks_of_one_machine_are_named():
    """They are taken and seen here, so only the option tells."""
    found = verdict("record locks", kind="nfs4", options=("rw", "local_lock=all"))
    assert (found.good, found.fatal) == (False, False)
    assert "a trainer on another machine would not be seen" in found.means


@pytest.mark.parametrize(
    ("free", "good", "expected"),
    [
        (8 * 10**9, True, "for 4 checkpoints of 2.0 GB"),
        (8 * 10**9 - 1, False, "for 3 checkpoints of 2.0 GB only; a bare Run keeps 3, and needs room for one more"),
        (2 * 10**9 - 1, False, "a state of 2.0 GB does not fit"),
    ],
)
def test_room_is_told_in_checkpoints(free, good, expected):
    """A checkpoint is committed before another one goes."""
    assert (verdict("room", free=free).good, verdict("room", free=free).means) == (good, expected)


def test_the_fastest_is_named_with_the_factor():
    """Of those in which a run can be kept, and for which there is room."""
    lying = Trial(works=False, because="another process was given the lock", lies=True)
    locks = Capabilities(sync=WORKS, rename=WORKS, locks=lying, links=WORKS, direct=WORKS, reservation=WORKS)
    reports = [
        report("/slow", kind="nfs"), report("/fast", write=3e9), report("/small", kind="xfs", write=8e9, free=10**9),
        report("/unsafe", write=8e9, able=locks), report("/again", write=2.9e9),
    ]  # fmt: skip
    assert fastest(reports, ASKED) is reports[1]
    said = " ".join(words(*reports, width=200).split())
    assert "durable first in /fast, after 0.873 s; /slow takes 2.5 times as long" in said
    assert "/again is on the same file system" in said
    assert "/small: a state of 2.0 GB does not fit here." in said
    assert "/unsafe: holdfast cannot keep a run here, for record locks." in said
    assert "/unsafe: save=" not in said


def test_alone_nothing_is_compared():
    """Nor is one that stands beside others that cannot be used."""
    assert fastest([report()], ASKED) is None
    assert "durable first" not in words(report())


def test_an_interval_that_writing_bounds_says_so():
    """Saving more often would lose less, if only it could be written."""
    assert "to write a save)" in words(report(write=1e6))


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("count", [1, 2, 3, 9])
def test_it_fits_the_terminal(width, count):
    """Long paths are cut at their beginning, and folders without room are named."""
    paths = [f"/mnt/filesystems/of/a/large/cluster/home/me/projects/runs/number-{one}" for one in range(count)]
    said = words(*(report(path, kind="tmpfs") for path in paths), width=width)
    assert max(map(len, said.splitlines())) <= width
    header = next(line for line in said.splitlines() if line.startswith("measured"))
    shown = header.count("number-") if "number-" in header else header.count("…")
    assert shown == count or "No room for" in said
