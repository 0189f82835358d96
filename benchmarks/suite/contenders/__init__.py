"""Everybody who saves, by name. Each is imported only where it runs: one that is not installed hinders nobody else."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from suite.contenders.base import Contender

HOLDFAST = "holdfast"
TORCH_SAVE = "torch.save"
SAFETENSORS = "safetensors"
DCP = "dcp.save"
DCP_ASYNC = "dcp.async_save"
DCP_STAGER = "dcp.async_save, DefaultStager"
TORCH_CHECKPOINTING = "torch_checkpointing"
TORCH_CHECKPOINTING_BUFFERED = "torch_checkpointing, no O_DIRECT"
LIGHTNING = "Lightning ModelCheckpoint"
ORBAX = "Orbax"

_PLACES = {
    HOLDFAST: ("with_holdfast", "Holdfast"),
    TORCH_SAVE: ("with_torch", "TorchSave"),
    SAFETENSORS: ("with_safetensors", "Safetensors"),
    DCP: ("with_dcp", "DcpSave"),
    DCP_ASYNC: ("with_dcp", "DcpAsyncSave"),
    DCP_STAGER: ("with_dcp", "DcpDefaultStager"),
    TORCH_CHECKPOINTING: ("with_torch_checkpointing", "TorchCheckpointing"),
    TORCH_CHECKPOINTING_BUFFERED: ("with_torch_checkpointing", "TorchCheckpointingBuffered"),
    LIGHTNING: ("with_lightning", "LightningModelCheckpoint"),
    ORBAX: ("with_orbax", "Orbax"),
}
NAMES = tuple(_PLACES)


def contender(name: str) -> type[Contender]:
    """Raises `ImportError` if what it needs is not installed."""
    module, attribute = _PLACES[name]
    found: type[Contender] = getattr(importlib.import_module(f"suite.contenders.{module}"), attribute)
    return found
