"""How much memory this process may still use, by its control group and by the machine."""

from __future__ import annotations

from pathlib import Path

from holdfast.errors import MemoryLimitError
from holdfast.wording import size

_UNLIMITED = 1 << 60
"""Control groups of version 1 say "no limit" with a number close to 2**63."""


def allowed_memory(proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes that may still be allocated, or None where the platform does not say.

    The smallest of what the machine has available and what each enclosing control group (versions
    1 and 2) leaves; page cache counts as free, because the kernel gives it back under pressure.
    """
    limits = [_machine(proc), *_control_groups(proc, groups)]
    known = [limit for limit in limits if limit is not None]
    return min(known) if known else None


def require_memory(needed: int, purpose: str, allowed: int | None) -> None:
    """Raises `MemoryLimitError` if ``needed`` bytes exceed ``allowed``."""
    if allowed is not None and needed > allowed:
        raise MemoryLimitError(
            f"{purpose} needs {size(needed)} of memory, but only {size(allowed)} may still be used here "
            "(memory limit of this control group or machine). Raise the limit, for example "
            "with --mem or resources.limits.memory, or make the state smaller."
        )


def _machine(proc: Path) -> int | None:
    for line in _lines(proc / "meminfo"):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _control_groups(proc: Path, groups: Path) -> list[int | None]:
    found: list[int | None] = []
    for line in _lines(proc / "self" / "cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            found += [_version_2(folder) for folder in _upwards(groups, path)]
        elif "memory" in controllers.split(","):
            found += [_version_1(folder) for folder in _upwards(groups / "memory", path)]
    return found


def _upwards(root: Path, path: str) -> list[Path]:
    """The group's folder and those around it. Inside a container the path may not exist below the mount."""
    folder = root / path.lstrip("/")
    inner = [folder, *folder.parents]
    return [place for place in inner if place.is_relative_to(root) and place.is_dir()]


def _version_2(folder: Path) -> int | None:
    return _left(folder, "memory.max", "memory.current", ("inactive_file", "active_file"))


def _version_1(folder: Path) -> int | None:
    names = ("total_inactive_file", "total_active_file")
    return _left(folder, "memory.limit_in_bytes", "memory.usage_in_bytes", names)


def _left(folder: Path, limit_file: str, usage_file: str, cache_names: tuple[str, str]) -> int | None:
    limit, usage = _number(folder / limit_file), _number(folder / usage_file)
    if limit is None or usage is None or limit >= _UNLIMITED:
        return None
    fields = dict(line.split()[:2] for line in _lines(folder / "memory.stat"))
    cache = sum(int(fields.get(name, 0)) for name in cache_names)
    return max(0, limit - max(0, usage - cache))


def _number(path: Path) -> int | None:
    text = "".join(_lines(path)).strip()
    return int(text) if text.isdigit() else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
