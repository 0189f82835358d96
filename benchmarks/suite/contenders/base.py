"""What the suite asks of everybody who saves a training job."""

from __future__ import annotations

import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

from suite.job import Job
from suite.page_cache import files_in
from suite.records import Traits

Wait = Callable[[], object]
"""Returns when the saver says that the checkpoint is complete."""
Steps = Generator[None, None, None]
"""Wants one step of training at each `yield`, and looks at the clock in between."""


def at_once() -> None:
    """What there is to wait for behind a save that is not asynchronous."""


class Contender(ABC):
    """Saves and loads one `Job` below one folder. Made where training begins, or where a fresh process resumes it."""

    name: ClassVar[str]
    asynchronous: ClassVar[bool] = False
    durable: ClassVar[str]
    """What has survived a power cut when the saver says that it is done; behind everybody but holdfast, the suite's own
    fsync of files and folder is part of the time to durable."""
    syncs: ClassVar[bool] = False
    """Whether nothing is left to do for the suite's own fsync."""
    verifies: ClassVar[str] = "no"
    loads: ClassVar[bool] = True
    """Whether it loads in a way of its own."""
    resumes: ClassVar[bool] = True
    packages: ClassVar[tuple[str, ...]] = ("torch",)

    def __init__(self, job: Job, folder: Path) -> None:
        self.job, self.folder = job, folder
        self.count = 0

    @classmethod
    def traits(cls) -> Traits:
        versions = {package: version(package) for package in cls.packages}
        return Traits(asynchronous=cls.asynchronous, durable=cls.durable, verifies=cls.verifies, versions=versions)

    def open(self) -> None:
        """Makes what saving and loading need beside the job."""
        return None

    def begin(self) -> None:
        """A training that has nothing to resume begins to call `boundary`."""
        self.open()

    @abstractmethod
    def boundary(self, batch: int, due: bool) -> Wait | None:
        """Called after each batch; saves if that is ``due``. Comes back when training may go on."""

    def finish(self, wait: Wait) -> None:
        """Waits for a save with nothing to do beside it."""
        wait()

    def updating(self) -> AbstractContextManager[object]:
        """Around each step of the optimizer."""
        return nullcontext()

    def train(self, steps: Steps) -> None:
        """One step of the job at each `yield`."""
        for _ in steps:
            self.job.step(self.updating)

    def load(self) -> None:
        """Brings the newest checkpoint into the job's own tensors."""
        raise NotImplementedError

    def resume(self) -> None:
        """What a script does between its start and its first batch."""
        self.job.initialise()
        self.load()

    def close(self) -> None:
        """The end of the training."""
        return None

    def newest(self) -> Path:
        """The file or folder of the newest checkpoint."""
        return max(self.folder.glob("step-*"), key=lambda path: int(path.name.split("-")[1].split(".")[0]))

    def files(self) -> list[Path]:
        """Of the newest checkpoint."""
        newest = self.newest()
        return files_in(newest) if newest.is_dir() else [newest]

    def drop_older(self) -> None:
        """Deletes all but the newest checkpoint, as a run that keeps one does. Not timed."""
        newest = self.newest()
        for path in self.folder.glob("step-*"):
            if path != newest:
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def next_path(self, suffix: str = "") -> Path:
        self.count += 1
        return self.folder / f"step-{self.count}{suffix}"


class BySteps(Contender):
    """One that a training loop calls with the state whenever it wants to save."""

    def boundary(self, batch: int, due: bool) -> Wait | None:
        return self.save() if due else None

    @abstractmethod
    def save(self) -> Wait: ...


def copy_tensors(source: dict[str, Any], target: dict[str, Any]) -> None:
    """Into the tensors of ``target``, which has the keys of ``source``, at any depth."""
    for key, value in target.items():
        if isinstance(value, dict):
            copy_tensors(source[key], value)
        elif hasattr(value, "copy_"):
            value.copy_(source[key])


def poll(ready: Callable[[], bool], every: float = 0.005) -> None:
    while not ready():
        time.sleep(every)
