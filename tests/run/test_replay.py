"""The comparison of replayed steps with the journal."""

from __future__ import annotations

from holdfast.engine.journal import Journal
from holdfast.run.replay import Replay, expect
from holdfast.storage.memory import MemoryStorage


def journal(storage: MemoryStorage, attempt: int, *losses: float, start: int = 1) -> None:
    """One line for each batch of epoch 0."""
    lines = Journal(storage, attempt)
    for batch, loss in enumerate(losses, start):
        lines.add("batch", at=[0, 0, batch], n=batch, step=batch, index=f"i{batch}", log={"loss": [loss]})
    lines.flush()


def replayed(storage: MemoryStorage, attempts: list[int]) -> Replay:
    return expect(storage, attempts, ((0, 0, 2), 2), step=2)


def test_only_what_came_after_the_checkpoint_is_expected():
    """Batches that the checkpoint holds are not run again."""
    storage = MemoryStorage()
    journal(storage, 1, 0.1, 0.2, 0.3, 0.4)
    assert set(replayed(storage, [1]).expected) == {(0, 0, 3), (0, 0, 4)}


def test_equal_records_are_counted_and_called_identical():
    """The report says how much was compared."""
    storage = MemoryStorage()
    journal(storage, 1, 0.1, 0.2, 0.3, 0.4)
    replay = replayed(storage, [1])
    replay.check((0, 0, 3), {"index": "i3", "log": {"loss": [0.3]}})
    assert not replay.done
    replay.check((0, 0, 4), {"index": "i4", "log": {"loss": [0.4]}})
    assert replay.done
    assert replay.report() == "resumed at step 2: 2 of 2 replayed batches compared, identical (2 logged values)"


def test_what_follows_the_last_batch_is_compared_but_is_no_batch():
    """The end of an epoch has a line of its own; the report counts what people count."""
    storage = MemoryStorage()
    journal(storage, 1, 0.1, 0.2, 0.3)
    lines = Journal(storage, 1)
    lines.add("tail", at=[1, 0, 0], n=3, step=3, log={"score": [0.5]})
    lines.flush()
    replay = replayed(storage, [1])
    replay.check((0, 0, 3), {"log": {"loss": [0.3]}})
    assert not replay.done
    replay.check((1, 0, 0), {"log": {"score": [0.5]}})
    assert replay.report() == "resumed at step 2: 1 of 1 replayed batches compared, identical (2 logged values)"
    other = replayed(storage, [1])
    other.check((1, 0, 0), {"log": {"score": [0.6]}})
    assert other.report().startswith("resumed at step 2: 0 of 1 replayed batches compared, first difference: 'score'")


def test_the_first_value_that_differs_is_named_with_the_largest_deviation():
    """A later, larger difference does not take the first one's place."""
    storage = MemoryStorage()
    journal(storage, 1, 0.1, 0.2, 0.3, 0.4)
    replay = replayed(storage, [1])
    replay.check((0, 0, 3), {"log": {"loss": [0.3003]}})
    replay.check((0, 0, 4), {"log": {"loss": [0.8]}})
    assert replay.difference is not None
    assert "'loss' (occurrence 0) at epoch 0, loop 0, batch 3 was 0.3 and is 0.3003" in replay.difference
    assert replay.largest_deviation == 0.5


def test_another_order_of_samples_and_a_missing_value_are_differences():
    """The digest of indices and the number of logged values are compared too."""
    storage = MemoryStorage()
    journal(storage, 1, 0.1, 0.2, 0.3, 0.4)
    other_order, missing = replayed(storage, [1]), replayed(storage, [1])
    other_order.check((0, 0, 3), {"index": "other", "log": {"loss": [0.3]}})
    missing.check((0, 0, 3), {"index": "i3"})
    assert "the order of the samples" in (other_order.difference or "")
    assert "was logged 1 times before and 0 times now" in (missing.difference or "")


def test_a_later_attempt_counts_more():
    """What the newest attempt recorded for a batch is what the replay is compared with."""
    storage = MemoryStorage()
    journal(storage, 1, 0.1, 0.2, 0.3)
    journal(storage, 2, 0.5, start=3)
    assert replayed(storage, [1, 2]).expected[0, 0, 3]["log"] == {"loss": [0.5]}


def test_a_journal_cut_off_in_a_line_counts_up_to_there():
    """A power cut may leave half a line."""
    storage = MemoryStorage()
    journal(storage, 1, 0.1, 0.2, 0.3)
    storage.append("journal/0001.jsonl").write(b'{"t":"batch","at":[0,0,4]')
    assert set(replayed(storage, [1]).expected) == {(0, 0, 3)}


def test_an_attempt_without_a_journal_expects_nothing():
    """An attempt that died before its first line left nothing to compare."""
    assert replayed(MemoryStorage(), [1]).expected == {}


def test_batches_that_logged_nothing_prove_nothing():
    """The report says so, and does not call them identical."""
    storage = MemoryStorage()
    lines = Journal(storage, 1)
    lines.add("batch", at=[0, 0, 3], n=3, step=3)
    lines.add("batch", at=[0, 0, 4], n=4, step=4, index="i4")
    lines.flush()
    bare, ordered = replayed(storage, [1]), replayed(storage, [1])
    bare.check((0, 0, 3), {})
    assert "nothing shows whether they are the same" in bare.report()
    ordered.check((0, 0, 4), {"index": "i4"})
    assert "the same samples in the same order; no values were logged" in ordered.report()
    assert "identical" not in bare.report() + ordered.report()


def test_a_damaged_line_is_left_out():
    """The journal has no digest: a line that makes no sense is not compared with, whatever it holds."""
    storage = MemoryStorage()
    journal(storage, 1, 0.1, 0.2, 0.3)
    lines = Journal(storage, 1)
    for fields in ({"at": [0, 0, {}]}, {"at": ["x", 0, 9]}, {"n": "x"}, {"n": None}, {"log": 3}, {"log": {"loss": 1}}):
        lines.add("batch", **({"at": [0, 0, 9], "n": 9} | fields))
    lines.flush()
    assert set(replayed(storage, [1]).expected) == {(0, 0, 3)}
