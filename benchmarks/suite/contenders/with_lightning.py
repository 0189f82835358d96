"""Lightning's `ModelCheckpoint`, in a fit of Lightning's own `Trainer`."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from suite.contenders.base import Contender, Steps, Wait, at_once
from suite.job import Job


class Module(lightning.LightningModule):
    def __init__(self, job: Job) -> None:
        super().__init__()
        self.job, self.model = job, job.model

    def training_step(self, batch: torch.Tensor, index: int) -> torch.Tensor:
        return self.job.loss(batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.job.optimizer


class Asked(ModelCheckpoint):
    """Saves where the suite wants it instead of every so many steps; and wakes the suite after each batch."""

    def __init__(self, folder: Path, steps: Steps) -> None:
        super().__init__(dirpath=folder, filename="step-{step}", auto_insert_metric_name=False, every_n_train_steps=1)
        self._steps, self._begun = steps, False

    def on_train_batch_start(self, *arguments: Any) -> None:
        if not self._begun:
            self._begun = True
            self._go_on(arguments[0])

    def on_train_batch_end(self, *arguments: Any) -> None:
        self._arguments = arguments
        self._go_on(arguments[0])

    def on_train_epoch_end(self, *arguments: Any) -> None:
        """Nothing: the suite has asked for all that it wants."""

    def on_train_end(self, *arguments: Any) -> None:
        """The same."""

    def save(self) -> None:
        super().on_train_batch_end(*self._arguments)

    def _go_on(self, trainer: lightning.Trainer) -> None:
        try:
            next(self._steps)
        except StopIteration:
            trainer.should_stop = True


class LightningModelCheckpoint(Contender):
    name = "Lightning ModelCheckpoint"
    durable = "nothing"
    packages = ("lightning", "torch")
    loads = False  # only by resuming a fit

    def __init__(self, job: Job, folder: Path) -> None:
        super().__init__(job, folder)
        self._resume_from: Path | None = None
        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
        warnings.filterwarnings("ignore", module="lightning")

    def train(self, steps: Steps) -> None:
        self._asked = Asked(self.folder, steps)
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        device = "cuda" if self.job.device.type == "cuda" else "cpu"
        trainer = lightning.Trainer(
            accelerator=device, devices=1, max_epochs=1, callbacks=[self._asked], limit_train_batches=10**9, **quiet
        )
        batches = torch.utils.data.DataLoader(Batches(self.job), batch_size=None)
        trainer.fit(Module(self.job), batches, ckpt_path=self._resume_from, weights_only=True)

    def boundary(self, batch: int, due: bool) -> Wait | None:
        if not due:
            return None
        self._asked.save()
        return at_once

    def drop_older(self) -> None:
        """ModelCheckpoint does that."""

    def resume(self) -> None:
        self._resume_from = self.newest()


class Batches(torch.utils.data.IterableDataset[torch.Tensor]):
    """Without an end."""

    def __init__(self, job: Job) -> None:
        super().__init__()
        self._job = job

    def __iter__(self) -> Any:
        while True:
            yield self._job.next_batch()
