"""The names of what is measured."""

from __future__ import annotations

STEP = "step"
SIZE, CHANGED = "size", "changed"
"""Bytes of the state, and of what each step changes of it."""

FIRST_STALL, STALL, CALL, FIRST_OVERHEAD, OVERHEAD, BESIDE = (
    "first_stall", "stall", "call", "first_overhead", "overhead", "durable_beside",
)  # fmt: skip
"""Of a save beside training: how long the loop stood still, with the fsync of the suite and without; by how much the
loop with the save in it was longer; how long it took until the checkpoint was durable."""

DURABLE, DONE, CPU, WRITTEN, DISK = "durable", "done", "cpu", "written", "disk"
"""Of a save with nothing beside it: until durable; until the saver says that it is done; processor seconds; bytes
handed to the storage; bytes of the checkpoint's files."""

WARM, COLD = "load_warm", "load_cold"
FIRST_BATCH, FIRST_STEP = "first_batch", "first_step"
"""From the start of a process until it has its first batch, and until it has trained with it."""

SAVING_MEMORY, LOADING_MEMORY = "saving_memory", "loading_memory"
"""Bytes at the peak, beyond those of the training, or of the model and optimizer, alone."""

COPY_WARM, COPY_COLD, RAW_WRITE, RAW_READ, READ_WARM, XXH3, BLAKE3, PINNED = (
    "copy_warm", "copy_cold", "raw_write", "raw_read", "read_warm", "xxh3", "blake3", "pinned_copy",
)  # fmt: skip
"""Of the machine, all for the bytes of the state."""
