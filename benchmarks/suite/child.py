"""One process that measures one thing: ``python -m suite.child REQUEST ANSWER``, both files of JSON.

A process of its own gives each measurement its own memory, caches and processor time, and keeps what one package does
to the interpreter away from the others.
"""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from pathlib import Path

import msgspec

from suite.records import LIMITS, LOAD, MACHINE, RESUME, TRAIN, Answer, Request


def answer(request: Request) -> Answer:
    """What is heavy is imported here, because `first_batch` counts from the start of the process."""
    from suite.contenders import contender
    from suite.job import Job, state_size

    folder = Path(request.folder)
    if request.task == LIMITS:
        from suite.limits import measure_limits

        return measure_limits(request.workload, folder, state_size(request.workload))
    kind = None if request.contender == MACHINE else contender(request.contender)
    job = Job(request.workload)
    made = None if kind is None else kind(job, folder)
    if request.task == RESUME:
        from suite.loading import measure_resume

        return measure_resume(made, job, request)
    assert made is not None
    if request.task == LOAD:
        from suite.loading import measure_loads

        return measure_loads(made, request.digest)
    assert request.task == TRAIN
    from suite.training import measure

    return measure(made, request.saves)


def main() -> None:
    warnings.filterwarnings("ignore")
    request = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Request)
    try:
        reply = answer(request)
    except Exception as error:
        traceback.print_exc()
        reply = Answer(cannot=f"{type(error).__name__}: {error}")
    Path(sys.argv[2]).write_bytes(msgspec.json.encode(reply))
    if request.task != TRAIN or reply.cannot:
        # A training would go on here, and a run that ended would save once more; what failed may never end.
        sys.stdout.flush()
        os._exit(0)


if __name__ == "__main__":
    main()
