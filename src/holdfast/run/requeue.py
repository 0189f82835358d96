"""Back into Slurm's queue."""

from __future__ import annotations

import os
import subprocess

_SECONDS = 30.0


def requeue() -> str | None:
    """Puts the Slurm job of this process back into the queue, as ``scontrol requeue`` does.

    None if Slurm has taken it, which then ends this process and starts the job's script again; otherwise a sentence
    that says what went wrong. Waits for at most 30 seconds. Raises nothing.
    """
    job = _job()
    if job is None:
        return "this process is in no Slurm job (SLURM_JOB_ID is not set), so there is nothing to put into the queue"
    command = f"scontrol requeue {job}"
    try:
        done = subprocess.run(
            ["scontrol", "requeue", job], stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8",
            errors="replace", timeout=_SECONDS, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"{command}: no answer within {_SECONDS:g} s"
    except OSError as error:
        return f"{command}: {error.strerror}"
    if done.returncode:
        return f"{command}: exit code {done.returncode}: {done.stderr.strip() or 'it said nothing'}"
    return None


def in_slurm() -> bool:
    """Whether there is a job to put back into the queue."""
    return _job() is not None


def _job() -> str | None:
    """What Slurm calls the job: of an array, only the task that this process belongs to."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID") or None
