"""No full garbage collection in the midst of a save or a load."""

from __future__ import annotations

import gc

import pytest

from holdfast.garbage import no_collection

torch = pytest.importorskip("torch")

from holdfast import Run, latest  # noqa: E402  torch may be missing


@pytest.fixture(autouse=True)
def _as_it_was():
    yield
    gc.enable()


def test_collection_goes_on_behind_it_and_not_before():
    """The end of an inner one is not yet the end."""
    with no_collection():
        with no_collection():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()


def test_collection_goes_on_after_an_error():
    """Whatever a state or a storage raises."""

    @no_collection()
    def fail():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert gc.isenabled()


def test_what_was_off_stays_off():
    """A script that collects by itself, at moments of its own, is left alone."""
    gc.disable()
    with no_collection():
        pass
    assert not gc.isenabled()


class Witness:
    """An object of the state that looks whether the collector is on while it is saved and loaded."""

    def __init__(self):
        self.seen = []

    def state_dict(self):
        self.seen.append(("save", gc.isenabled()))
        return {}

    def load_state_dict(self, state):
        self.seen.append(("load", gc.isenabled()))


def test_a_save_and_a_load_are_not_interrupted(tmp_path):
    """Between the first object that is captured and the last that is put back, nothing is collected."""
    witness = Witness()
    with Run(tmp_path / "run", state={"witness": witness}) as run:
        witness.seen.clear()
        run.save()
        run.wait()
        assert ("save", False) in witness.seen
        assert gc.isenabled()
    latest(tmp_path / "run").load_into(witness=witness)
    assert ("load", False) in witness.seen
    assert gc.isenabled()
