"""Logged values on their way to the journal."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from holdfast.engine.journal import Journal
from holdfast.errors import UsageError
from holdfast.run.recorder import Recorder
from holdfast.run.voice import Voice
from holdfast.state.torch.scalars import HeldScalar
from holdfast.storage.memory import MemoryStorage


@pytest.fixture
def storage():
    return MemoryStorage()


@pytest.fixture
def recorder(storage):
    voice = Voice()
    voice.attach(Journal(storage, 1))
    return Recorder(voice, None)


def lines(storage):
    return [json.loads(line) for line in storage.read("journal/0001.jsonl", limit=1 << 20).splitlines()]


def boundary(batch):
    return {"t": "batch", "at": [0, 0, batch], "n": batch, "step": batch}


def test_each_boundary_is_one_line_with_the_values_logged_before_it(recorder, storage):
    """Repeated names keep their order of occurrence."""
    recorder.log({"loss": 1.0})
    recorder.log({"loss": torch.tensor([2.0]), "rate": 3})
    recorder.record(boundary(1))
    assert lines(storage)[0]["log"] == {"loss": [1.0, 2.0], "rate": [3.0]}
    assert recorder.metrics == {"loss": 2.0, "rate": 3.0}


def test_a_value_changed_after_logging_is_recorded_as_it_was(recorder, storage):
    """`loss /= 4` after `run.log(loss=loss)` would change a mere view of it."""
    loss = torch.tensor(8.0)
    recorder.log({"loss": loss})
    loss /= 4
    recorder.record(boundary(1))
    assert lines(storage)[0]["log"]["loss"] == [8.0]


def test_values_still_on_a_device_do_not_hold_up_the_loop(recorder, storage, monkeypatch):
    """A line waits, in order, until its values have arrived; `flush` waits for them."""
    arrived = False
    monkeypatch.setattr(HeldScalar, "ready", lambda self: arrived)
    recorder.log({"loss": 1.0})
    recorder.record(boundary(1))
    recorder.record(boundary(2))
    assert lines(storage) == []
    arrived = True
    recorder.record(boundary(3))
    assert [line["n"] for line in lines(storage)] == [1, 2, 3]


def test_infinities_and_nan_stay_what_they_are(recorder, storage):
    """JSON has no numbers for them, and they must not turn into null."""
    recorder.log({"a": math.inf, "b": -math.inf, "c": math.nan})
    recorder.record(boundary(1))
    assert lines(storage)[0]["log"] == {"a": ["inf"], "b": ["-inf"], "c": ["nan"]}


def test_nothing_is_logged_while_user_code_runs_for_the_second_time(recorder, storage):
    """Between the two restores of a resume, the code before the inner loop runs again."""
    recorder.muted = True
    recorder.log({"loss": 1.0})
    recorder.muted = False
    recorder.record(boundary(1))
    assert "log" not in lines(storage)[0]


COMPLEX = [1j, torch.tensor(1j), np.complex64(1j), np.array([1j])]


@pytest.mark.parametrize("value", [*COMPLEX, 10**400, np.array("text"), torch.zeros((), device="meta")], ids=repr)
def test_what_no_float_can_hold_is_refused_when_it_is_logged(recorder, storage, value):
    """Not at a later boundary, where nothing names it; what was logged with the batch is still recorded."""
    recorder.log({"rate": 1.0})
    with pytest.raises(UsageError, match="log\\(loss=…\\): expected a number"):
        recorder.log({"loss": value})
    recorder.record(boundary(1))
    assert lines(storage)[0]["log"] == {"rate": [1.0]}


@pytest.mark.parametrize("value", [torch.zeros(2), "text", [1.0], None])
def test_what_is_no_number_is_refused_with_its_name(recorder, value):
    """A tensor of several elements or a text has no place in a curve."""
    with pytest.raises(UsageError, match="log\\(loss="):
        recorder.log({"loss": value})
