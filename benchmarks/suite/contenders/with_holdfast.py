"""holdfast, by the calls for loops written by hand, with everything at its default."""

from __future__ import annotations

from pathlib import Path

import holdfast
from suite.contenders.base import Contender, Wait, poll
from suite.job import Job
from suite.page_cache import files_in


class Holdfast(Contender):
    name = "holdfast"
    asynchronous = True
    durable = "files and folder"
    syncs = True
    verifies = "every byte"
    packages = ("holdfast", "torch")

    def __init__(self, job: Job, folder: Path) -> None:
        super().__init__(job, folder)
        self._place = folder / "run"
        self._events: list[str] = []

    def begin(self) -> None:
        self._run = self._made()
        self._run.resume()

    def _made(self) -> holdfast.Run:
        state = {"model": self.job.model, "optimizer": self.job.optimizer}
        run = holdfast.Run(self._place, state, save="at end", keep="last 1")
        run.on_event = lambda event: self._events.append(event.kind)
        return run

    def boundary(self, batch: int, due: bool) -> Wait | None:
        if due:
            known = self._committed()
            self._run.save()
        self._events.clear()
        self._run.batch_end(epoch=0, batch=batch)
        if not due:
            return None
        assert "snapshot" in self._events, f"no snapshot was taken: {self._events}"
        return lambda: poll(lambda: bool(self._committed() - known))

    def _committed(self) -> set[str]:
        """Names that a rename has made final."""
        names = {path.name for path in self._place.glob("step-*")}
        return {name for name in names if ".partial" not in name and ".deleting" not in name}

    def finish(self, wait: Wait) -> None:
        self._run.wait()

    def newest(self) -> Path:
        found = holdfast.latest(self._place)
        assert found is not None
        return Path(found.path)

    def files(self) -> list[Path]:
        return files_in(self.newest())

    def drop_older(self) -> None:
        """Its writer does that; while it does, the next save would have to wait."""
        self._run.wait()

    def load(self) -> None:
        newest = holdfast.latest(self._place)
        assert newest is not None
        newest.load_into(model=self.job.model, optimizer=self.job.optimizer)

    def resume(self) -> None:
        self._run = self._made()
        assert self._run.resume() is not None, "nothing was resumed from"
        self._run.batch_start(epoch=0)

    def close(self) -> None:
        self._run.close()
