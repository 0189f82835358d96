"""What rollbacks leave behind."""

from __future__ import annotations

from holdfast.engine.catalog import Entry
from holdfast.engine.lineage import find_abandoned
from holdfast.engine.run_folder import AttemptRecord
from holdfast.format.manifest import Manifest


def entry(attempt: int, ordinal: int) -> Entry:
    manifest = Manifest(run="r", attempt=attempt, ordinal=ordinal, try_id="t", created="")
    return Entry(str(manifest.name), manifest, 0)


def start(attempt: int, back: Entry | None = None) -> AttemptRecord:
    name = None if back is None else back.name
    return AttemptRecord(attempt=attempt, host="", pid=0, started="", resumed_from=name, rollback=back is not None)


def test_going_back_to_what_had_been_left_behind_takes_it_up_again() -> None:
    """Its line counts again, and the line that is left now does not; what an earlier rollback left stays left."""
    one, two, three, other, next_one = entry(1, 1), entry(1, 2), entry(1, 3), entry(2, 1), entry(3, 1)
    entries, attempts = [one, two, three, other, next_one], [start(1), start(2, one), start(3, two)]
    assert find_abandoned(entries, attempts[:2]) == {two.name, three.name}
    assert find_abandoned(entries, attempts) == {three.name, other.name}
    assert find_abandoned(entries, [*attempts, start(4), start(5, other)]) == {two.name, three.name, next_one.name}
