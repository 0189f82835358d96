"""Watching deadlines: notices as files and callables, and Slurm with a stand-in for `squeue`."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import re
import signal
import stat
import threading
import time
import timeit
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from holdfast import BeforeDeadline
from holdfast.errors import UsageError
from holdfast.run import deadlines as module
from holdfast.run.deadlines import Deadlines, Message

LATER = float(int(time.time()) + 100_000)
SLURM = BeforeDeadline(slurm=True)
FORKS = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")

Watch = Callable[..., Deadlines]
Install = Callable[[str], Path]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks come a hundred times as often; this process is in no Slurm job, and there is no Slurm."""
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(module, "SLURM_SECONDS", 0.02)
    for name in [name for name in os.environ if name.startswith(("SLURM_", "SQUEUE_"))]:
        monkeypatch.delenv(name)


@pytest.fixture
def watch() -> Iterator[Watch]:
    """Watches the sources of policies until the test is over, when no thread is left."""
    watched: list[Deadlines] = []

    def begin(*policies: BeforeDeadline) -> Deadlines:
        watched.append(Deadlines(policies))
        watched[-1].start()
        return watched[-1]

    yield begin
    for one in watched:
        one.stop()
    await_(lambda: watchers() == [])


@pytest.fixture
def squeue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Makes this process one of job 4711, and puts a script in the place of `squeue`; gives the log of its calls."""
    monkeypatch.setenv("SLURM_JOB_ID", "4711")

    def install(script: str) -> Path:
        command, called = tmp_path / "squeue", tmp_path / "called"
        command.with_suffix(".new").write_text(f'#!/bin/sh\necho "$@ $SLURM_TIME_FORMAT" >> {called}\n{script}\n')
        command.with_suffix(".new").chmod(stat.S_IRWXU)
        command.with_suffix(".new").rename(command)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
        return called

    return install


def watchers() -> list[str]:
    return [one.name for one in threading.enumerate() if one.name.startswith("holdfast-deadline")]


def await_(condition: Callable[[], object]) -> None:
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.005)


def await_end(deadlines: Deadlines, policy: BeforeDeadline, end: float | None) -> None:
    await_(lambda: deadlines.known().get(policy.key) == end)


def await_messages(deadlines: Deadlines) -> list[Message]:
    found: list[Message] = []

    def come() -> list[Message]:
        found.extend(deadlines.messages())
        return found

    await_(come)
    return found


def alarms(deadlines: Deadlines) -> list[Message]:
    """What is to be told but for that a notice has come."""
    return [one for one in deadlines.messages() if one.alarming]


def texts(messages: Sequence[Message]) -> str:
    return "\n".join(one.text for one in messages)


# Instants.


def test_an_instant_is_known_from_the_start_and_needs_no_thread(watch: Watch) -> None:
    """There is nothing to ask anybody."""
    policy = BeforeDeadline(at=LATER)
    deadlines = watch(policy)
    assert deadlines.known() == {policy.key: LATER}
    assert deadlines.messages() == []
    assert watchers() == []


def test_an_instant_that_had_passed_is_no_deadline_and_that_is_said(watch: Watch) -> None:
    """A training that is started again the day after goes on."""
    deadlines = watch(BeforeDeadline(at="2020-01-01T00:00Z"))
    assert deadlines.known() == {}
    said = deadlines.messages()
    assert "«at 2020-01-01T00:00:00+00:00» was 2020-01-01T00:00:00+00:00, before the run began" in texts(said)
    assert said[0].alarming


def test_an_instant_that_passes_during_the_run_stays_a_deadline(watch: Watch) -> None:
    """Also where the run's loops are several, each of which starts to look."""
    policy = BeforeDeadline(at=time.time() + 0.05)
    deadlines = watch(policy)
    time.sleep(0.1)
    deadlines.stop()
    deadlines.start()
    assert policy.key in deadlines.known()


def test_before_the_start_nothing_is_known() -> None:
    """And no thread runs: a run that is only made trains nothing."""
    deadlines = Deadlines([BeforeDeadline(at=LATER), BeforeDeadline(notice="/run/preempt")])
    assert deadlines.known() == {}
    assert watchers() == []
    deadlines.stop()


# Notices as files.


def test_a_notice_has_come_when_its_file_exists(watch: Watch, tmp_path: Path) -> None:
    """The end is the grace after its modification; a notice that is taken back is none."""
    path = tmp_path / "preempt"
    policy = BeforeDeadline(notice=path, grace=500)
    deadlines = watch(policy)
    time.sleep(0.05)
    assert deadlines.known() == {}
    path.touch()
    await_end(deadlines, policy, path.stat().st_mtime + 500)
    path.unlink()
    await_end(deadlines, policy, None)
    (said,) = deadlines.messages()
    assert re.search(r"«notice .*preempt» has come: the end is at 20\d\d-.*\+00:00, in 8 min (19|20) s", said.text)


ISO = datetime.fromtimestamp(LATER, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@pytest.mark.parametrize(
    "content",
    [ISO, f" {ISO}\n", f"{LATER:.0f}", f"{LATER:.1f}\n", json.dumps({"action": "terminate", "time": ISO}),
     json.dumps({"time": LATER}), json.dumps(ISO)],
)  # fmt: skip
def test_the_instant_that_a_notice_tells_counts(watch: Watch, tmp_path: Path, content: str) -> None:
    """ISO 8601, seconds since 1970, or a document as AWS has it."""
    path = tmp_path / "preempt"
    path.write_text(content)
    policy = BeforeDeadline(notice=path)
    await_end(watch(policy), policy, LATER)


@pytest.mark.parametrize(
    "content",
    [b"", b"1", b"true", b"null", b"soon", b"\xff\xfe", f"{LATER * 1000:.0f}".encode(), b"NaN", b'{"time": 60}',
     b'{"action": "stop"}', b'{"time": null}', b"2126-11-26T08:00:00", b"[" * 5000, b"20261126", b"x" * 100_000],
)  # fmt: skip
def test_a_notice_that_tells_no_instant_has_come_all_the_same(watch: Watch, tmp_path: Path, content: bytes) -> None:
    """Flags, milliseconds, text without a zone and rubbish: the grace counts."""
    path = tmp_path / "preempt"
    path.write_bytes(content)
    policy = BeforeDeadline(notice=path, grace=500)
    deadlines = watch(policy)
    await_end(deadlines, policy, path.stat().st_mtime + 500)
    assert alarms(deadlines) == []


def test_anything_else_than_a_file_is_a_notice_too(watch: Watch, tmp_path: Path) -> None:
    """A directory, and a pipe that nobody writes to, which would block who opens it."""
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name in ("directory", "pipe"):
        policy = BeforeDeadline(notice=tmp_path / name, grace=500)
        await_end(watch(policy), policy, (tmp_path / name).stat().st_mtime + 500)


def test_a_notice_that_cannot_be_read_has_come(watch: Watch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its existence is the notice, whoever may read it."""
    path, open_ = tmp_path / "preempt", Path.open

    def refuse(self: Path, *arguments: Any) -> Any:
        if self == path:
            raise PermissionError
        return open_(self, *arguments)

    path.write_text(ISO)
    monkeypatch.setattr(Path, "open", refuse)
    policy = BeforeDeadline(notice=path, grace=500)
    await_end(watch(policy), policy, path.stat().st_mtime + 500)


def test_a_path_that_leads_nowhere_is_no_notice(watch: Watch, tmp_path: Path) -> None:
    """Its folder may be there only when the notice comes."""
    (tmp_path / "file").touch()
    deadlines = watch(BeforeDeadline(notice=tmp_path / "file" / "preempt"), BeforeDeadline(notice=tmp_path / "a" / "b"))
    time.sleep(0.05)
    assert deadlines.known() == {}
    assert deadlines.messages() == []


def test_of_a_notice_only_the_beginning_is_read(watch: Watch, tmp_path: Path) -> None:
    """Though it were a terabyte, once a second."""
    path = tmp_path / "preempt"
    path.touch()
    os.truncate(path, 1 << 40)
    policy = BeforeDeadline(notice=path, grace=500)
    await_end(watch(policy), policy, path.stat().st_mtime + 500)


def test_a_notice_left_over_from_before_is_none_until_it_is_renewed(watch: Watch, tmp_path: Path) -> None:
    """The file of an interruption that did not happen must not end every later run."""
    path = tmp_path / "preempt"
    path.touch()
    os.utime(path, (1e9, 1e9))
    policy = BeforeDeadline(notice=path, grace=500)
    deadlines = watch(policy)
    said = await_messages(deadlines)
    assert "was 2001-09-09T01:55:00+00:00, before the run began" in texts(said)
    assert deadlines.known() == {}
    path.touch()
    await_end(deadlines, policy, path.stat().st_mtime + 500)


def test_a_relative_path_is_that_of_the_start(watch: Watch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A script that changes its directory still hears of the notice; ``~`` is the user's home."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    relative, at_home = BeforeDeadline(notice="preempt", grace=500), BeforeDeadline(notice="~/preempt", grace=500)
    deadlines = watch(relative, at_home)
    monkeypatch.chdir("/")
    for policy, path in ((relative, tmp_path / "preempt"), (at_home, tmp_path / "home" / "preempt")):
        path.touch()
        await_end(deadlines, policy, path.stat().st_mtime + 500)


# Notices by callables.


def test_a_callable_is_asked_until_it_knows(watch: Watch) -> None:
    """None means that there is no notice, before and after."""
    answers: list[object] = [None, None, ISO]
    policy = BeforeDeadline(notice=lambda: answers[0] if len(answers) == 1 else answers.pop(0))  # type: ignore[arg-type,return-value]
    deadlines = watch(policy)
    await_end(deadlines, policy, LATER)
    answers.append(None)
    answers.pop(0)
    await_end(deadlines, policy, None)


def test_of_what_a_callable_says_the_earliest_counts(watch: Watch) -> None:
    """One that says "in two minutes" whenever it is asked would put the end off for ever; None takes it back."""
    answers: list[float | None] = [LATER + 30, LATER, LATER + 60, LATER + 90, None, LATER + 120]
    policy = BeforeDeadline(notice=lambda: answers[0] if len(answers) == 1 else answers.pop(0))
    deadlines = watch(policy)
    await_(lambda: len(answers) <= 3)
    assert deadlines.known() in ({policy.key: LATER}, {}, {policy.key: LATER + 120})
    await_end(deadlines, policy, LATER + 120)


def test_a_callable_that_hangs_stops_nobody(watch: Watch, tmp_path: Path) -> None:
    """Neither training, nor the other sources, nor the end of the run."""
    release = threading.Event()
    path = tmp_path / "preempt"
    file = BeforeDeadline(notice=path)
    deadlines = watch(BeforeDeadline(notice=release.wait), file)
    path.write_text(ISO)
    await_end(deadlines, file, LATER)
    begin = time.monotonic()
    deadlines.stop()
    assert time.monotonic() - begin < 1
    release.set()


def test_a_callable_that_raises_is_told_of_once_and_asked_again(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    """The metadata server may be back when the notice comes."""
    monkeypatch.setattr(module, "LONGEST_SECONDS", 0.03)
    calls: list[float] = []

    def spot() -> float:
        calls.append(time.monotonic())
        if len(calls) < 8:
            raise ConnectionError("no route to 169.254.169.254")
        return LATER

    policy = BeforeDeadline(notice=spot)
    deadlines = watch(policy)
    await_(lambda: len(calls) >= 8)
    await_end(deadlines, policy, LATER)
    said = alarms(deadlines)
    assert len(said) == 1
    assert "ConnectionError: no route to 169.254.169.254" in said[0].text
    assert policy.key in said[0].text
    assert said[0].alarming
    assert deadlines.messages() == []


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, asyncio.CancelledError])
def test_a_callable_that_wants_to_end_the_process_ends_no_watch(watch: Watch, kind: type[BaseException]) -> None:
    """It would end its own thread only, in silence, and the notice would never be seen."""
    calls: list[float] = []

    def spot() -> float:
        calls.append(time.monotonic())
        if len(calls) == 1:
            raise kind("a tool's main()")
        return LATER

    policy = BeforeDeadline(notice=spot)
    deadlines = watch(policy)
    await_end(deadlines, policy, LATER)
    (said,) = alarms(deadlines)
    assert f"{kind.__name__}: a tool's main()" in said.text


def test_a_callable_that_goes_on_raising_is_asked_ever_more_rarely(watch: Watch) -> None:
    """The pause doubles each time."""
    calls: list[float] = []

    def spot() -> None:
        calls.append(time.monotonic())
        raise ConnectionError

    watch(BeforeDeadline(notice=spot))
    await_(lambda: len(calls) >= 6)
    pauses = [later - before for before, later in itertools.pairwise(calls)]
    assert all(pause >= 0.02 * 2**index for index, pause in enumerate(pauses[:5]))


@pytest.mark.parametrize("answer", [datetime(2026, 1, 1), "soon", "2126-01-01T00:00", True, [], -1.0])
def test_an_answer_that_is_no_instant_is_told_of(watch: Watch, answer: object) -> None:
    """And is no deadline."""
    deadlines = watch(BeforeDeadline(notice=lambda: answer))  # type: ignore[arg-type,return-value]
    said = await_messages(deadlines)
    assert "UsageError" in texts(said)
    assert deadlines.known() == {}


def test_a_failure_after_an_answer_changes_nothing(watch: Watch) -> None:
    """What is known stays known, and nothing has to be said."""
    answers = [LATER]
    policy = BeforeDeadline(notice=lambda: answers.pop())
    deadlines = watch(policy)
    await_end(deadlines, policy, LATER)
    time.sleep(0.1)
    assert deadlines.known() == {policy.key: LATER}
    assert alarms(deadlines) == []


def test_sources_that_a_key_does_not_tell_apart_are_refused() -> None:
    """Two callables without names, or one file with two graces: whose end would it be?"""
    one, other = BeforeDeadline(notice=lambda: None), BeforeDeadline(notice=lambda: None)
    with pytest.raises(UsageError, match="not for the same"):
        Deadlines([one, other])
    with pytest.raises(UsageError, match="one file one grace"):
        Deadlines([BeforeDeadline(notice="/run/preempt"), BeforeDeadline(notice="/run/preempt", grace=60)])


def test_several_policies_of_one_source_ask_it_together(watch: Watch) -> None:
    """Two savers before the same end are one question."""

    def spot() -> float:
        return LATER

    early, late = BeforeDeadline(notice=spot, margin=600), BeforeDeadline(notice=spot, stop=True)
    await_end(watch(early, late), late, LATER)
    assert len(watchers()) == 1


# Slurm.


def test_the_jobs_environment_tells_its_end_at_once(
    watch: Watch, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where there is no squeue, as in a container, that is enough, and nothing is said."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    monkeypatch.setenv("SLURM_JOB_END_TIME", f"{LATER:.0f}")
    deadlines = watch(SLURM)
    assert deadlines.known() == {"slurm": LATER}
    time.sleep(0.1)
    assert deadlines.known() == {"slurm": LATER}
    assert deadlines.messages() == []


def test_squeue_is_asked_for_this_job_in_seconds_since_1970(watch: Watch, squeue: Install) -> None:
    """Not in the time of the cluster's clock."""
    called = squeue(f'echo "4711 {LATER:.0f}"')
    await_end(watch(SLURM), SLURM, LATER)
    assert called.read_text().splitlines()[0] == "--noheader --jobs=4711 --format=%A %e %s"


def test_what_the_user_has_squeue_show_does_not_matter(
    watch: Watch, squeue: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Filters and formats in the environment are for people."""
    monkeypatch.setenv("SQUEUE_STATES", "PENDING")
    monkeypatch.setenv("SLURM_TIME_FORMAT", "relative")
    squeue(f'[ -z "$SQUEUE_STATES" ] && echo "4711 {LATER:.0f}"')
    await_end(watch(SLURM), SLURM, LATER)


def test_a_time_limit_that_is_changed_is_noticed(
    watch: Watch, squeue: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Squeue knows better than the environment, which is that of the job's start."""
    monkeypatch.setenv("SLURM_JOB_END_TIME", f"{LATER:.0f}")
    squeue("exit 1")
    deadlines = watch(SLURM)
    assert deadlines.known() == {"slurm": LATER}
    squeue(f'echo "4711 {LATER + 3600:.0f}"')
    await_end(deadlines, SLURM, LATER + 3600)
    squeue('echo "4711 NONE"')
    await_end(deadlines, SLURM, None)


def test_a_slurm_that_tells_the_local_time_is_understood(
    watch: Watch, squeue: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An old one does not know `%s`, and tells no zone: that of its clock, which the job has too."""
    local = datetime.fromtimestamp(LATER).isoformat(timespec="seconds")
    squeue(f'echo "4711 {local}"')
    await_end(watch(SLURM), SLURM, float(int(LATER)))


def test_of_an_array_the_own_task_counts(watch: Watch, squeue: Install) -> None:
    """For the number of its first task squeue lists all of them."""
    squeue(f'echo "4712 {LATER + 9:.0f}"; echo "4711 {LATER:.0f}"; echo "4713 NONE"')
    await_end(watch(SLURM), SLURM, LATER)


@pytest.mark.parametrize("nothing", ["NONE", "N/A", "Unknown"])
def test_a_job_without_a_limit_has_no_deadline(watch: Watch, squeue: Install, nothing: str) -> None:
    """And that is nothing to speak of."""
    called = squeue(f'echo "4711 {nothing}"')
    deadlines = watch(SLURM)
    await_(lambda: called.exists() and len(called.read_text().splitlines()) > 2)
    assert deadlines.known() == {}
    assert deadlines.messages() == []


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1", "exit code 1: slurm_load_jobs error"),
        ("exit 2", "exit code 2: it said nothing"),
        ("exit 0", "says nothing of the end of job 4711: ''"),
        ("echo 4711 soon", "'4711 soon'"),
        ("echo 4712 1795680000", "'4712 1795680000'"),
        ("printf '\\377\\376'", "says nothing"),
        ("exec sleep 60", "TimeoutExpired"),
    ],
)
def test_an_end_that_nobody_tells_is_told_of_once(
    watch: Watch, squeue: Install, monkeypatch: pytest.MonkeyPatch, script: str, said: str
) -> None:
    """With what squeue said."""
    monkeypatch.setattr(module, "_COMMAND_SECONDS", 0.3)
    squeue(script)
    deadlines = watch(SLURM)
    messages = await_messages(deadlines)
    time.sleep(0.1)
    messages += deadlines.messages()
    assert said in texts(messages)
    assert [one.alarming for one in messages] == [True]
    assert deadlines.known() == {}


def test_without_squeue_and_without_the_environment_it_is_said(
    watch: Watch, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Nobody will save before that job's end."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    monkeypatch.setenv("SLURM_JOB_END_TIME", "soon")
    deadlines = watch(SLURM)
    said = await_messages(deadlines)
    assert "FileNotFoundError" in texts(said)
    assert "squeue" in texts(said)


def test_outside_of_slurm_there_is_no_deadline_and_nothing_to_warn_of(watch: Watch) -> None:
    """The same script runs on a laptop."""
    deadlines = watch(SLURM)
    assert deadlines.known() == {}
    assert [one.alarming for one in deadlines.messages()] == [False]
    assert watchers() == []


# Threads.


def test_starting_twice_starts_once(watch: Watch, tmp_path: Path) -> None:
    """Each loop of a run may ask for it."""
    deadlines = watch(BeforeDeadline(notice=tmp_path / "preempt"))
    deadlines.start()
    assert len(watchers()) == 1


def test_after_the_stop_nobody_is_asked(watch: Watch, tmp_path: Path) -> None:
    """The threads end, and a new start looks again."""
    policy = BeforeDeadline(notice=tmp_path / "preempt", grace=500)
    deadlines = watch(policy)
    deadlines.stop()
    await_(lambda: watchers() == [])
    (tmp_path / "preempt").touch()
    time.sleep(0.05)
    assert deadlines.known() == {}
    deadlines.start()
    await_end(deadlines, policy, (tmp_path / "preempt").stat().st_mtime + 500)


def test_no_random_number_is_drawn(watch: Watch, squeue: Install, tmp_path: Path) -> None:
    """The run's random numbers are the same with and without a deadline."""
    before = random.getstate()
    called = squeue(f'echo "4711 {LATER:.0f}"')
    file = BeforeDeadline(notice=tmp_path / "called")
    deadlines = watch(SLURM, file)
    await_(lambda: called.exists() and len(called.read_text().splitlines()) > 2 and len(deadlines.known()) == 2)
    assert random.getstate() == before


def test_asking_what_is_known_takes_no_time(watch: Watch) -> None:
    """It is done at each boundary: less than 10 µs."""
    deadlines = watch(BeforeDeadline(at=LATER), BeforeDeadline(at=LATER + 1))

    def ask() -> None:
        deadlines.messages()
        deadlines.known()

    assert min(timeit.repeat(ask, number=1000, repeat=20)) / 1000 < 10e-6


def forked(work: Callable[[], bool]) -> int:
    """Does ``work`` in a forked child; its exit status, which is 0 if that was true, and not if it hangs."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(5)
            code = 0 if work() else 2
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1]


@FORKS
def test_a_forked_child_does_not_look(watch: Watch) -> None:
    """Loader workers are forked at any moment: they ask nobody, and can end what they inherited."""
    pids: list[int] = []
    deadlines = watch(BeforeDeadline(notice=lambda: pids.append(os.getpid())))

    def inherited() -> bool:
        deadlines.start()
        deadlines.known()
        deadlines.messages()
        time.sleep(0.05)
        deadlines.stop()
        return os.getpid() not in pids and threading.active_count() == 1

    await_(lambda: pids)
    assert [forked(inherited) for _ in range(20)] == [0] * 20
    count = len(pids)
    await_(lambda: len(pids) > count)


@FORKS
def test_a_child_that_is_forked_while_a_thread_holds_the_event_is_not_held_up(watch: Watch, tmp_path: Path) -> None:
    """The thread that would let it go was not forked."""
    deadlines = watch(BeforeDeadline(notice=tmp_path / "preempt"))
    event = deadlines._over
    assert event is not None

    def stopped() -> bool:
        deadlines.stop()
        return True

    with event._cond:  # type: ignore[attr-defined]
        assert forked(stopped) == 0
