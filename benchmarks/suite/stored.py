"""The results in their file: begun, extended by one repetition after the other, and read again."""

from __future__ import annotations

import datetime
from pathlib import Path

import msgspec

from suite import machine
from suite.contenders import NAMES
from suite.records import Measurement, Results
from suite.schedule import Plan
from suite.workload import WORKLOADS, size_text

SIZE, TENSORS, REPETITIONS, SAVES, DEVICE = 2 << 30, 20_000, 5, 1, "cpu"
"""What is measured where nothing else was asked for."""


def read(path: Path) -> Results:
    """Raises `ValueError` if there are none, or if they are of another version of the suite."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Results)
    except FileNotFoundError:
        raise ValueError(f"{path}: nothing is stored there yet. Measure first, without --append or --page.") from None
    except msgspec.MsgspecError as error:
        raise ValueError(f"{path}: are no results of this version of the suite ({error}). Measure anew.") from error


def write(results: Results, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text(results))


def text(results: Results) -> bytes:
    return msgspec.json.format(msgspec.json.encode(results), indent=1) + b"\n"


def begun(plan: Plan) -> Results:
    """Without a repetition yet."""
    return Results(
        command=command(plan, 0),
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        machine=machine.describe(),
        scratch=machine.file_system(plan.scratch),
        workloads=plan.workloads,
        repetitions=0,
        saves=plan.saves,
        traits={},
        measurements=[],
    )


def extended(results: Results, plan: Plan, found: list[Measurement]) -> Results:
    """By one whole repetition."""
    traits = {one.contender: one.traits for one in found if one.traits is not None}
    return msgspec.structs.replace(
        results,
        command=command(plan, results.repetitions + 1),
        repetitions=results.repetitions + 1,
        traits={**results.traits, **traits},
        measurements=[*results.measurements, *found],
    )


def require_same(results: Results, plan: Plan) -> None:
    """Raises `ValueError` if repetitions of ``plan`` are not more of the same: their medians would mean nothing."""
    new = begun(plan)
    for name in ("machine", "scratch", "workloads", "saves"):
        if getattr(results, name) != getattr(new, name):
            raise ValueError(
                f"--append: {name} of the stored results: {getattr(results, name)}; now: {getattr(new, name)}."
            )
    if {one.contender for one in results.measurements} != {one for _, _, one in plan.turns(0)}:
        raise ValueError("--append: the stored results are of other contenders.")


def command(plan: Plan, repetitions: int) -> str:
    """How to measure the same again. Where the scratch folder was is nobody's business."""
    one = plan.workloads[0]
    options = {
        "--size": (size_text(one.size), size_text(SIZE)),
        "--tensors": (one.tensors, TENSORS),
        "--repetitions": (repetitions, REPETITIONS),
        "--saves": (plan.saves, SAVES),
        "--device": (one.device, DEVICE),
        "--workloads": (" ".join(one.name for one in plan.workloads), " ".join(WORKLOADS)),
        "--only": (_quoted(plan.contenders), _quoted(NAMES)),
    }
    said = [f"{option} {value}" for option, (value, usual) in options.items() if value != usual]
    return " ".join(["python benchmarks/speed.py", *said])


def _quoted(names: list[str] | tuple[str, ...]) -> str:
    return " ".join(f"'{name}'" if " " in name else name for name in names)
