"""What a script uses where it would use holdfast: plain Python that hands out the same and keeps nothing."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from types import SimpleNamespace
from typing import Any

numbered = enumerate


class Plain:
    """The loop calls of a ``holdfast.Run``, as a script without holdfast would write them out."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.logged: list[tuple[str, float]] = []
        self.progress = SimpleNamespace(epoch=0, batch=0, batches=0)
        self.resumed_from = None

    def epochs(self, total: int) -> Iterator[int]:
        for epoch in range(total):
            self.progress.epoch, self.progress.batch = epoch, 0
            yield epoch

    def batches(
        self, *loaders: Iterable[Any], limit: int | None = None, enumerate: bool = False, train: bool = True, **_: Any
    ) -> Iterator[Any]:
        together = iter(loaders[0]) if len(loaders) == 1 else zip(*loaders, strict=False)
        limited = itertools.islice(together, limit)
        for item in numbered(limited) if enumerate else limited:
            yield item
            self._count(train)

    def steps(self, loader: Iterable[Any], total: int) -> Iterator[Any]:
        while self.progress.batches < total:
            for batch in itertools.islice(loader, total - self.progress.batches):
                yield batch
                self._count(True)

    def _count(self, train: bool) -> None:
        self.progress.batch += train
        self.progress.batches += train

    def log(self, **metrics: Any) -> None:
        self.logged += [(name, float(value)) for name, value in metrics.items()]

    def resume(self) -> None:
        return None

    def batch_start(self, *, epoch: int) -> None:
        return None

    def batch_end(self, **_: int) -> None:
        return None

    def save(self) -> None:
        return None

    def close(self) -> None:
        return None

    def __enter__(self) -> Plain:
        return self

    def __exit__(self, *_: object) -> None:
        return None
