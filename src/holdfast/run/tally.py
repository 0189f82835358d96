"""How far the run is: steps, batches, samples and seconds, counted from one boundary to the next."""

from __future__ import annotations

import time

import msgspec

from holdfast.run.boundary import Observer
from holdfast.run.counts import whole
from holdfast.types import Progress


class Tally:
    """Counts the `progress` of a run whose optimizers and parameters an observer watches."""

    def __init__(self, progress: Progress, observer: Observer) -> None:
        self.progress = progress
        self._gradients, self._shadow = observer.gradients, observer.shadow
        self._since: float | None = None

    def start_clock(self) -> None:
        """Training time passes from here on."""
        self._since = time.monotonic()

    def count_batch(self, epoch: int, samples: int, tokens: int) -> None:
        """A batch of a loop is done."""
        now = self.progress
        self._set(Progress(
            epoch=epoch, batch=now.batch + 1, step=now.step + self._stepped(), samples=now.samples + samples,
            tokens=now.tokens + tokens, batches=now.batches + 1, elapsed=self._elapsed(),
        ))  # fmt: skip

    def count_by_hand(
        self, epoch: int, batch: int, step: int | None, samples: int | None, tokens: int | None, *, again: bool
    ) -> None:
        """The same as a loop of the user's own tells it, in totals; ``again`` if the batch has been counted before."""
        now = self.progress
        self._set(Progress(
            epoch=epoch, batch=batch, batches=now.batches + (not again), elapsed=self._elapsed(),
            step=now.step + self._stepped() if step is None else whole("step", step),
            samples=now.samples if samples is None else whole("samples", samples),
            tokens=now.tokens if tokens is None else whole("tokens", tokens),
        ))  # fmt: skip

    def count_epoch(self, epoch: int) -> None:
        """Epoch number ``epoch`` is done."""
        self._set(self.after_epoch(epoch))

    def after_epoch(self, epoch: int) -> Progress:
        """The progress if epoch number ``epoch`` were done now."""
        step = self.progress.step + self._gradients.uncounted
        return msgspec.structs.replace(self.progress, epoch=epoch + 1, batch=0, step=step, elapsed=self._elapsed())

    def _set(self, progress: Progress) -> None:
        if self._since is not None:
            self._since += progress.elapsed - self.progress.elapsed
        self.progress = progress

    def _elapsed(self) -> float:
        return self.progress.elapsed + (time.monotonic() - self._since if self._since is not None else 0.0)

    def _stepped(self) -> bool:
        """Whether the interval that ends had an optimizer step; where none can be seen, each batch counts as one.

        An optimizer whose `step` is never called, but whose parameters change all the same, steps by another method.
        """
        if self._gradients.uncounted or not self._gradients.counts_steps:
            return True
        return not self._gradients.ever_stepped and not self._shadow.unchanged()
