"""What saves would cost, and how often to save."""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast import OnError, OnSignal
from holdfast.policies import units
from holdfast.policies.estimate import SHARDS, SYNCS, Rates, estimate
from holdfast.policies.phrases import save_policy
from holdfast.storage.local import LocalStorage
from holdfast.testing.faults import failing_call
from holdfast.testing.storage_conformance import blocks

DAY = 86400.0
RATES = Rates(copy=8e9, digest=4e9, write=1e9, read=2e9, sync=0.01, rename=0.02)


def other(**changes: float) -> Rates:
    return msgspec.structs.replace(RATES, **changes)


def test_training_waits_for_a_copy_in_memory():
    """And for nothing that the disk does."""
    assert estimate(8 * 10**9, RATES, DAY).stall == 1.0
    assert estimate(8 * 10**9, other(write=1.0), DAY).stall == 1.0


def test_a_save_is_durable_when_it_is_copied_written_and_committed():
    """The slower of writing and digesting counts, and every fsync and the rename come on top."""
    latencies = SYNCS * 0.01 + 0.02
    assert estimate(4 * 10**9, RATES, DAY).durable == pytest.approx(0.5 + 4.0 + latencies)
    assert estimate(4 * 10**9, other(write=8e9), DAY).durable == pytest.approx(0.5 + 1.0 + latencies)


def test_training_waits_for_the_writing_of_what_memory_does_not_hold():
    """A state that is larger than the memory that is left streams through it."""
    fits, streams = (estimate(2 * 10**9, RATES, DAY, memory) for memory in (2 * 10**9, 2 * 10**9 - 1))
    assert (fits.streams, streams.streams) == (False, True)
    assert streams.stall == streams.durable == fits.durable
    assert streams.persist == 0
    assert streams.best > fits.best


def test_a_load_reads_once():
    """It verifies on the way from the medium into place."""
    assert estimate(4 * 10**9, RATES, DAY).load == pytest.approx(2.0)


def test_a_commit_makes_so_many_files_durable(tmp_path):
    """What is counted is what the storage does: before its one rename, and once behind it, which `rename` holds."""
    storage = LocalStorage(tmp_path)
    attempt = storage.begin("step-00000001.a0001.n0001", "1")
    with failing_call("fsync", call=99) as synced, failing_call("rename", call=99) as renamed:
        for number in range(SHARDS):
            attempt.write(f"{number}.safetensors", blocks(b"x"), 1)
        attempt.commit(b"{}")
    assert (synced["fsync"], renamed["rename"]) == (SYNCS + 1, 1)


def test_a_checkpoint_of_a_training_has_so_many_files(finished_run):
    """Model, optimizer and random states."""
    assert {len(list(one.glob("*.safetensors"))) for one in finished_run.glob("step-*")} == {SHARDS}


def test_the_interval_is_that_of_young_and_daly():
    """√(2 × cost × time between failures), as a round one."""
    found = estimate(8 * 10**9, RATES, DAY)
    assert found.best == pytest.approx(math.sqrt(2 * 1.0 * DAY))
    assert (found.interval, found.phrase) == (300, "every 5 minutes | on signal | on error")


def test_it_is_not_shorter_than_a_save_takes():
    """Saves would wait for each other."""
    found = estimate(8 * 10**9, other(write=1e7), 60.0)
    assert found.best < found.persist < found.interval
    assert found.phrase.startswith("every 15 minutes")


def test_overhead_would_earn_the_wait_or_the_writing():
    """A hundredth of the time, but no save before the one before is written."""
    assert estimate(8 * 10**9, RATES, DAY).bounded.seconds == pytest.approx(100.0)
    slow = estimate(8 * 10**9, other(write=1e7), DAY)
    assert slow.bounded.seconds == pytest.approx(slow.persist)
    assert "to write a save" in slow.bounded.because


rate, latency = st.floats(1e3, 1e12), st.floats(0, 100)
rates = st.builds(Rates, copy=rate, digest=rate, write=rate, read=rate, sync=latency, rename=latency)


@given(size=st.integers(1, 10**18), speeds=rates, mtbf=st.floats(1e-3, 1e10))
def test_every_phrase_can_be_pasted(size, speeds, mtbf):
    """It is a policy of that interval, with signals and errors as a bare run has them; never below the writing."""
    found = estimate(size, speeds, mtbf)
    interval, *others = save_policy(found.phrase).policies
    assert others == [OnSignal(), OnError()]
    unit, number = units.given(interval)
    assert number * units.SECONDS[unit] == found.interval >= found.persist
