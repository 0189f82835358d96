"""What no resume can repeat is refused, or said to be inexact, and said once."""

import signal

import pytest

from tests.exactness.attempts import Attempt, run_all


@pytest.fixture
def attempt(tmp_path):
    """Runs an attempt of a script of `scenarios_inexact`; returns its exit status and what it said."""

    def run(script, number=1, kill=None):
        scenario = f"tests.exactness.scenarios_inexact:{script}"
        one = Attempt(scenario=scenario, folder=str(tmp_path), number=number, kill=kill)
        (status,) = run_all([one])
        return status, one.said.read_text()

    return run


@pytest.mark.parametrize(
    ("script", "phrase"),
    [
        ("hidden_counter", "Forgetful.passes changes from epoch to epoch"),
        ("random_in_workers", "if its dataset draws random numbers"),
        ("random_in_persistent_workers", "if its dataset draws random numbers"),
        ("enumerated_outside", "use run.batches(loader, enumerate=True)"),
        ("sliced_outside", "use run.batches(loader, limit=n)"),
        ("enumerated_steps", "use run.progress.batches"),
        ("iterator_kept_over_epochs", "lives on from epoch to epoch"),
        ("zipped_with_a_plain_loader", "use run.batches(a, b)"),
        ("left_early_with_a_state_of_its_own", "the pass before was left early"),
    ],
)
def test_inexactness_is_said_once_and_training_goes_on(attempt, script, phrase):
    """The run comes to its end; one ExactnessWarning names the reason and the way out."""
    status, said = attempt(script)
    assert status == 0, said
    assert [phrase in line for line in said.splitlines() if ": ExactnessWarning: " in line] == [True], said


def test_a_sampler_with_a_hidden_counter_is_refused_in_mid_epoch(attempt):
    """The resumed epoch would have other samples: the digest of the drawn indices tells."""
    status, said = attempt("hidden_counter", kill=("at", 7))
    assert status == -signal.SIGKILL, said
    status, said = attempt("hidden_counter", number=2)
    assert status == 1
    assert "DataOrderError" in said
    assert "give it state_dict and load_state_dict" in said


@pytest.mark.parametrize("script", ["random_in_workers", "random_in_persistent_workers"])
def test_random_workers_resume_in_the_same_order_and_say_that_it_is_not_exact(attempt, script):
    """The order of the samples is checked and kept; only what the workers draw is another."""
    status, said = attempt(script, kill=("at", 7))
    assert status == -signal.SIGKILL, said
    status, said = attempt(script, number=2)
    assert status == 0, said
    assert said.count("ExactnessWarning: this loader has workers") == 1


def test_zip_around_batches_is_refused(attempt):
    """Its second loader would lose its place; the message names the call that keeps it."""
    status, said = attempt("zipped")
    assert status == 1
    assert "UsageError" in said
    assert "use run.batches(a, b)" in said
