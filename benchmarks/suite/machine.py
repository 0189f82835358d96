"""What machine this is."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from holdfast import wording


def describe() -> dict[str, str]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    found = {
        "processor": f"{os.cpu_count()} cores of {_processor()}",
        "memory": f"{wording.size(memory)} of memory",
        "system": f"Linux {platform.release().split('-')[0]}",
        "python": f"Python {platform.python_version()}",
    }
    gpu = _gpu()
    return {**found, "gpu": gpu} if gpu else found


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _gpu() -> str:
    versions = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    lines = versions[0].read_text().splitlines() if versions else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("Model")), "")


def file_system(folder: Path) -> str:
    """The kind that ``folder`` is on, of the mount with the longest name above it."""
    mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    place = str(folder.resolve())
    above = [(point, kind) for point, kind in mounts if place == point or place.startswith(point.rstrip("/") + "/")]
    return max(above, key=lambda one: len(one[0]))[1] if above else "an unknown file system"
