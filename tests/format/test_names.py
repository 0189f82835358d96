"""Names in a run folder."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.format.names import (
    LABEL,
    CheckpointName,
    default_label,
    is_debris,
    is_label,
    partial_name,
)
from holdfast.storage.paths import deleting_name

LABELS = st.one_of(st.builds(default_label, st.integers(0, 10**17)), st.from_regex(LABEL, fullmatch=True))
NAMES = st.builds(CheckpointName, LABELS, st.integers(1, 10**17), st.integers(0, 10**17))
NAME = "step-00000500.a0001.n0003"


@given(NAMES)
def test_a_name_is_parsed_back(name):
    """What a name spells is read back as the same name."""
    assert CheckpointName.parse(str(name)) == name


@pytest.mark.parametrize(
    "text",
    [
        "", "manifest.json", "step-500.a001.n0003", "step-500.a00001.n0003", f"{NAME}.partial-1", f"{NAME}\n",
        f" {NAME}", NAME.upper(), "step-00000500.a0001", "step-٠٠٠٠٠٥٠٠.a0001.n0003", "-500.a0001.n0003",
        f"step-{'9' * 5000}.a0001.n0003", ".a0001.n0003", "a b.a0001.n0003", "a/b.a0001.n0003",
    ],
)  # fmt: skip
def test_other_texts_are_no_names(text):
    """Only the exact spelling counts: each checkpoint has one name."""
    assert CheckpointName.parse(text) is None


def test_newest_is_the_highest_attempt_then_ordinal():
    """The label does not make a checkpoint newer: a rollback comes later with fewer steps."""
    names = [
        CheckpointName("step-900", 1, 9), CheckpointName("step-100", 2, 1), CheckpointName("b", 2, 2),
        CheckpointName("step-5", 1, 10),
    ]  # fmt: skip
    assert sorted(names) == [names[0], names[3], names[1], names[2]]
    assert max(names) == names[2]


@pytest.mark.parametrize("text", ["", ".hidden", "a/b", "a b", "x" * 151, "ä", "a{hash}"])
def test_labels_are_short_and_plain(text):
    """A label leaves room for what a try or a deletion adds, and cannot lead anywhere."""
    assert not is_label(text)


@pytest.mark.parametrize(
    "name",
    [
        partial_name(NAME, "9f3c"),
        partial_name(NAME, "9f3c-again"),
        partial_name("holdfast.json", "9f3c"),
        partial_name("0001.json", "9f3c"),
        deleting_name(NAME),
    ],
)
def test_tries_and_deletions_are_debris(name):
    """What an interrupted save or deletion leaves may be removed."""
    assert is_debris(name)


@pytest.mark.parametrize(
    "name",
    [NAME, "holdfast.json", "journal", ".trainer.lock", "thesis.partial-2", ".deleting-me-later", f"{NAME}.partial-"],
)
def test_files_of_the_user_are_not_debris(name):
    """What holdfast did not name so itself is never removed."""
    assert not is_debris(name)
