"""`torch.distributed.checkpoint`, in one process."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save, save

from suite.contenders.base import BySteps, Wait, at_once


class DcpSave(BySteps):
    name = "dcp.save"
    durable = "files"

    def save(self) -> Wait:
        save(self.job.state_dict(), checkpoint_id=self.next_path())
        return at_once

    def load(self) -> None:
        load(self.job.state_dict(), checkpoint_id=self.newest())


class DcpAsyncSave(DcpSave):
    name = "dcp.async_save"
    asynchronous = True
    loads = resumes = False  # as dcp.save

    def save(self) -> Wait:
        saved = async_save(self.job.state_dict(), checkpoint_id=self.next_path())
        assert isinstance(saved, Future)
        return saved.result


class DcpDefaultStager(DcpSave):
    """With a stager that keeps its memory from save to save, and copies while the next step begins."""

    name = "dcp.async_save, DefaultStager"
    asynchronous = True
    loads = resumes = False  # as dcp.save
    _staged: Future[Any] | None = None

    def open(self) -> None:
        cuda = torch.cuda.is_available()
        # Pinned memory and copies that do not block are refused without an accelerator.
        options = StagingOptions(
            use_pinned_memory=cuda, use_shared_memory=False, use_async_staging=True, use_non_blocking_copy=cuda
        )
        self._stager = DefaultStager(options)

    def save(self) -> Wait:
        saved = async_save(self.job.state_dict(), checkpoint_id=self.next_path(), async_stager=self._stager)
        assert not isinstance(saved, Future)
        self._staged = saved.staging_completion
        return saved.upload_completion.result

    def updating(self) -> AbstractContextManager[object]:
        return self._staging_done()

    @contextmanager
    def _staging_done(self) -> Iterator[None]:
        """Else the optimizer would change tensors that are still being copied."""
        if self._staged is not None:
            self._staged.result()
            self._staged = None
        yield

    def close(self) -> None:
        self._stager.close()
