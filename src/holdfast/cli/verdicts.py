"""What the findings about a storage mean for the checkpoints of a run."""

from __future__ import annotations

from dataclasses import dataclass

from holdfast import wording
from holdfast.policies.estimate import SYNCS
from holdfast.storage.capabilities import Trial
from holdfast.storage.mounts import Mount
from holdfast.storage.probe import Probe

SLOW_SYNC = 0.05
"""Seconds that the fsync of a small file may take before it is named."""
KEPT = 3
"""Checkpoints that a bare `Run` keeps."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One finding: whether it is ``good`` for holdfast, and what it means; ``fatal`` where no run can be kept there."""

    name: str
    good: bool
    means: str
    fatal: bool = False


def verdicts(found: Probe, size: int) -> list[Verdict]:
    """One for each finding that there is, what matters most first, for a state of ``size`` bytes."""
    able = found.capabilities
    return [
        _sync(able.sync, found),
        _rename(able.rename),
        _locks(able.locks, found.mount),
        _links(able.links),
        _direct(able.direct),
        _reservation(able.reservation),
        *([_medium(found.mount)] if found.mount is not None else []),
        *([_room(found.free // size, size)] if found.free is not None else []),
    ]


def _sync(trial: Trial, found: Probe) -> Verdict:
    if not trial.works:
        return _fatal("fsync", trial, "nothing that is written here can be made durable")
    if found.mount is not None and found.mount.in_memory:
        return Verdict("fsync", True, "has nothing to do, because this is memory")
    if found.speed is not None and found.speed.sync.median > SLOW_SYNC:
        total = wording.duration(SYNCS * found.speed.sync.median)
        return Verdict("fsync", False, f"slow: the {SYNCS} of a save take {total}, however small it is")
    return Verdict("fsync", True, "what was committed survives a power cut, if the disk keeps its word")


def _rename(trial: Trial) -> Verdict:
    if not trial.works:
        return _fatal("rename", trial, "no checkpoint can be committed without risk to another one")
    return Verdict("rename", True, "a checkpoint appears whole, and never in the place of another one")


def _locks(trial: Trial, mount: Mount | None) -> Verdict:
    if trial.lies:
        return _fatal("record locks", trial, "two trainers in one folder are not kept apart")
    if not trial.works:
        return _fatal("record locks", trial, "no run starts here, because nobody could own its folder")
    if mount is not None and mount.local_locks:
        why = f"{mount.local_locks}: a trainer on another machine would not be seen, so use a folder from one only"
        return Verdict("record locks", False, why)
    return Verdict("record locks", True, "two trainers in one folder are kept apart")


def _links(trial: Trial) -> Verdict:
    if trial.lies:
        return _fatal("hard links", trial, "what must be created only once could be replaced")
    if not trial.works:
        why = f"{trial.because}: small records are made in two steps, and each save writes what is frozen"
        return Verdict("hard links", False, why)
    return Verdict("hard links", True, "small records appear whole or not at all, and checkpoints share what is frozen")


def _direct(trial: Trial) -> Verdict:
    if not trial.works:
        why = f"{trial.because}: writes go through the page cache, one copy more, in memory that training may need"
        return Verdict("O_DIRECT", False, why)
    return Verdict("O_DIRECT", True, "writes go past the page cache, straight out of the snapshot")


def _reservation(trial: Trial) -> Verdict:
    if not trial.works:
        return Verdict(
            "reserving", False, f"{trial.because}: a full disk is found while a save is written, which fails whole"
        )
    return Verdict("reserving", True, "a full disk is known before the first byte of a save")


def _medium(mount: Mount) -> Verdict:
    if mount.in_memory:
        why = f"{mount.type} is memory: a checkpoint here does not survive the machine, and takes room from training"
        return Verdict("medium", False, why)
    if mount.type == "overlay":
        return Verdict("medium", False, "overlay, as are a container's own files: they go with the container")
    return Verdict("medium", True, f"{mount.type}, not memory: survives a restart of the machine")


def _room(fitting: int, size: int) -> Verdict:
    checkpoints = f"{wording.count(fitting, 'checkpoint')} of {wording.size(size)}"
    if fitting > KEPT:
        return Verdict("room", True, f"for {checkpoints}")
    if fitting < 1:
        return Verdict("room", False, f"a state of {wording.size(size)} does not fit")
    return Verdict("room", False, f"for {checkpoints} only; a bare Run keeps {KEPT}, and needs room for one more")


def _fatal(name: str, trial: Trial, why: str) -> Verdict:
    return Verdict(name, False, f"{trial.because}: {why}", fatal=True)
