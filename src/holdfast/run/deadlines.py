"""Known deadlines: sources are asked from threads, so that one that takes its time does not stop training."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from holdfast.errors import UsageError
from holdfast.policies.deadline import BeforeDeadline, Notice, instant
from holdfast.wording import duration

LOOK_SECONDS = 1.0
"""How often a notice is looked for."""
SLURM_SECONDS = 300.0
"""How often Slurm is asked: its controller serves the whole cluster."""
LONGEST_SECONDS = 300.0
"""How rarely a source is asked at last that fails again and again."""
_COMMAND_SECONDS = 30.0
_NOTICE_LIMIT = 4096
_PLAUSIBLE = range(10**9, 10**10)
"""Numbers in a notice that are seconds since 1970: neither a flag such as 1 nor milliseconds."""

Ask = Callable[[], float | None]
"""Returns the end in seconds since 1970, or None as long as there is none. May block, and may raise."""


@dataclass(frozen=True, slots=True)
class Message:
    """Something to tell people; a warning, if ``alarming``."""

    text: str
    alarming: bool = True


class Deadlines:
    """Watches the sources of ``policies``: Slurm, notices, instants that are known beforehand.

    What can only be found out by asking is asked from one daemon thread for each source, which starts with `start` and
    ends with `stop`. They draw no random numbers and, like all threads, are not there in a forked child. What they
    have to say waits for the training thread to fetch it.

    Raises `UsageError` if two policies wait for notices that their keys do not tell apart.

    >>> deadlines = Deadlines([BeforeDeadline(at="2999-12-31T00:00Z")])
    >>> deadlines.start()
    >>> deadlines.known()
    {'at 2999-12-31T00:00:00+00:00': 32503593600.0}
    >>> deadlines.stop()
    """

    def __init__(self, policies: Sequence[BeforeDeadline]) -> None:
        self._policies = _by_key(policies)
        self._ends: dict[str, float] = {}
        self._messages: deque[Message] = deque()
        self._said: set[tuple[str, str]] = set()
        self._over: threading.Event | None = None
        self._began = 0.0
        self._pid = 0

    def start(self) -> None:
        """Looks from now on. A deadline that has already passed is none, which is said."""
        if self._over is not None:
            return
        self._over, self._pid = threading.Event(), os.getpid()
        self._began = self._began or time.time()
        for key, policy in self._policies.items():
            if policy.at is not None:
                self._learn(key, instant(policy.at))
            elif policy.slurm:
                self._start_slurm(key)
            elif callable(policy.notice):
                self._watch(key, partial(self._earliest, key, policy.notice), LOOK_SECONDS)
            else:
                path = Path(policy.notice or "").expanduser().absolute()
                self._watch(key, partial(_end_by_file, path, policy.grace), LOOK_SECONDS)

    def known(self) -> dict[str, float]:
        """The deadlines known by now, in seconds since 1970, by the key of their policy. Asks nobody."""
        return dict(self._ends)

    def messages(self) -> list[Message]:
        """What is to be told since the last call. Each thing is said once."""
        found: list[Message] = []
        while self._messages:
            found.append(self._messages.popleft())
        return found

    def stop(self) -> None:
        """Looks no more. Does not wait: a source that hangs would hold up the end of the run."""
        # In a forked child the event's lock may be held for ever, by a thread that was not forked.
        if self._over is not None and self._pid == os.getpid():
            self._over.set()
            self._over = None

    def _start_slurm(self, key: str) -> None:
        job = os.environ.get("SLURM_JOB_ID")
        if not job:
            text = "this process is in no Slurm job (SLURM_JOB_ID is not set), so there is no end of one to save before"
            self._say(key, "no job", text, alarming=False)
            return
        projected = os.environ.get("SLURM_JOB_END_TIME", "")
        if projected.isdecimal():
            self._learn(key, float(projected))
        self._watch(key, partial(_end_by_slurm, job), SLURM_SECONDS)

    def _watch(self, key: str, ask: Ask, seconds: float) -> None:
        arguments = (key, ask, seconds, self._over)
        threading.Thread(target=self._look, args=arguments, name=f"holdfast-deadline {key}", daemon=True).start()

    def _look(self, key: str, ask: Ask, seconds: float, over: threading.Event) -> None:
        pause = seconds
        while not over.is_set():
            try:
                self._learn(key, ask())
                pause = seconds
            except BaseException as error:
                # It must not end this thread, nor may a SystemExit: the notice may still come.
                self._fail(key, error)
                pause = min(2 * pause, max(seconds, LONGEST_SECONDS))
            over.wait(pause)

    def _earliest(self, key: str, notice: Notice) -> float | None:
        """A notice that says "in two minutes" whenever it is asked would never come: its first word counts."""
        answer, known = notice(), self._ends.get(key)
        if answer is None:
            return None
        return instant(answer) if known is None else min(known, instant(answer))

    def _learn(self, key: str, end: float | None) -> None:
        if end is not None and end > self._began:
            if key not in self._ends and self._policies[key].notice is not None:
                when = datetime.fromtimestamp(end, UTC).isoformat(timespec="seconds")
                text = f"«{key}» has come: the end is at {when}, in {duration(max(end - time.time(), 0.0))}"
                self._say(key, when, text, alarming=False)
            self._ends[key] = end
            return
        self._ends.pop(key, None)
        if end is not None:
            when = datetime.fromtimestamp(end, UTC).isoformat(timespec="seconds")
            self._say(key, "passed", f"the deadline «{key}» was {when}, before the run began: it is taken for none")

    def _fail(self, key: str, error: BaseException) -> None:
        if key in self._ends:  # by the job's environment, or by an earlier answer
            return
        what = f"{type(error).__name__}: {error}".removesuffix(".")
        text = f"asking for the deadline «{key}» failed ({what}); it is asked for again, ever more rarely"
        self._say(key, "failed", text)

    def _say(self, key: str, what: str, text: str, *, alarming: bool = True) -> None:
        if (key, what) not in self._said:
            self._said.add((key, what))
            self._messages.append(Message(text, alarming))


def _by_key(policies: Sequence[BeforeDeadline]) -> dict[str, BeforeDeadline]:
    found: dict[str, BeforeDeadline] = {}
    for policy in policies:
        other = found.setdefault(policy.key, policy)
        if (policy.notice, policy.grace) != (other.notice, other.grace):
            raise UsageError(
                f"two policies wait for «{policy.key}», but not for the same: {other} and {policy}. Give callables "
                "names of their own, and one file one grace."
            )
    return found


def _end_by_file(path: Path, grace: float) -> float | None:
    """When the end comes by the notice at ``path``; None as long as there is none."""
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    told = _told(_content(path)) if stat.S_ISREG(status.st_mode) else None
    return status.st_mtime + grace if told is None else told


def _content(path: Path) -> str:
    # A notice that cannot be read has come all the same.
    with contextlib.suppress(OSError), path.open("rb") as file:
        return file.read(_NOTICE_LIMIT).decode(errors="replace")
    return ""


def _told(content: str) -> float | None:
    """The instant that a notice's content tells, in seconds since 1970, if it is one."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        value = content.strip()
    if isinstance(value, dict):
        value = value.get("time")
    if isinstance(value, (int, float)):
        return float(value) if _PLAUSIBLE.start <= value < _PLAUSIBLE.stop else None
    with contextlib.suppress(UsageError):
        return instant(value)
    return None


def _end_by_slurm(job: str) -> float | None:
    """When Slurm will end ``job``, as `squeue` says (its man page: ``%A`` and ``%e``); None if it has no limit.

    Raises `OSError` or `subprocess.SubprocessError` without an answer, `ValueError` for one that means nothing.
    """
    # The user's SQUEUE_* filter what is shown. Without %s the time would be that of the cluster's clock.
    own = {name: value for name, value in os.environ.items() if not name.startswith("SQUEUE_")}
    done = subprocess.run(
        ["squeue", "--noheader", f"--jobs={job}", "--format=%A %e"],
        env={**own, "SLURM_TIME_FORMAT": "%s"}, stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8",
        errors="replace", timeout=_COMMAND_SECONDS, check=False,
    )  # fmt: skip
    if done.returncode:
        raise OSError(f"squeue failed with exit code {done.returncode}: {done.stderr.strip() or 'it said nothing'}")
    # The first task of an array has the array's own id, for which all tasks are listed.
    ends = dict(line.split(maxsplit=1) for line in done.stdout.splitlines() if len(line.split()) == 2)
    end = ends.get(job, "").strip()
    if end in ("NONE", "N/A", "None", "Unknown"):
        return None
    with contextlib.suppress(ValueError):
        # A Slurm that does not know %s tells the local time, without a zone.
        return float(end) if end.isdecimal() else datetime.fromisoformat(end).timestamp()
    raise ValueError(f"squeue says nothing of the end of job {job}: {done.stdout.strip()!r}")
