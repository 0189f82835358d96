"""The package `torch_checkpointing`: asynchronous, by a process of its own."""

from __future__ import annotations

from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

from torch_checkpointing import CheckpointManager
from torch_checkpointing.storage.filesystem import LocalFileSystemStorageConfig

from suite.contenders.base import BySteps, Wait


class TorchCheckpointing(BySteps):
    name = "torch_checkpointing"
    asynchronous = True
    durable = "nothing"
    packages = ("torch_checkpointing", "torch")
    direct: ClassVar[bool] = True
    _manager: Any = None

    def open(self) -> None:
        storage = LocalFileSystemStorageConfig(use_direct_io=self.direct)
        self._manager = CheckpointManager(CheckpointManager.Config(storage_config=storage))

    def save(self) -> Wait:
        saved: Future[object] = self._manager.save(str(self.next_path()), self.job.state_dict())
        return saved.result

    def updating(self) -> AbstractContextManager[object]:
        lock: AbstractContextManager[object] = nullcontext() if self._manager is None else self._manager.lock()
        return lock

    def load(self) -> None:
        self._manager.load(str(self.newest()), into=self.job.state_dict())

    def close(self) -> None:
        self._manager.close()


class TorchCheckpointingBuffered(TorchCheckpointing):
    """Without its default O_DIRECT, whose unaligned writes ext4 and XFS refuse."""

    name = "torch_checkpointing, no O_DIRECT"
    direct = False
