"""A run goes on with other workers and other batches, exactly where it was."""

import json
import signal

import pytest
import torch

from holdfast import DataOrderError, Every, Run
from holdfast.data import DataLoader, Permutation
from tests.harness.photographs import EPOCHS, LENGTH
from tests.harness.small import small
from tests.harness.trainers import start

TRAIN, TWIN = "tests.harness.photographs:train", "tests.harness.photographs:twin"


def attempts(tmp_path, *each):
    """One process after the other; each but the last is killed in the batch that it names."""
    files = {"folder": str(tmp_path / "run"), "weights": str(tmp_path / "weights"), "seen": str(tmp_path / "seen")}
    for number, arguments in enumerate(each):
        trainer = start(TRAIN, tmp_path / f"output{number}", **files, **arguments)
        assert trainer.wait() == (-signal.SIGKILL if "die_at" in arguments else 0), trainer.text
    return torch.load(tmp_path / "weights")


def seen(tmp_path):
    """By epoch, the samples in the order in which they were learned from."""
    found = [[] for _ in range(EPOCHS)]
    for line in (tmp_path / "seen").read_text().splitlines():
        epoch, numbers = json.loads(line)
        found[epoch] += numbers
    return found


def test_augmented_images_through_other_numbers_of_workers_give_the_weights_of_the_twin(tmp_path):
    """No worker, four, then one, over two kills in the midst of epochs: equal to the last bit."""
    twin = start(TWIN, tmp_path / "twin", weights=str(tmp_path / "expected"))
    found = attempts(
        tmp_path, {"die_at": 4}, {"die_at": 6, "num_workers": 4, "persistent_workers": True}, {"num_workers": 1}
    )
    assert twin.wait() == 0, twin.text
    expected = torch.load(tmp_path / "expected")
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_batches_of_another_size_go_on_with_every_sample_once_and_in_order(tmp_path):
    """The order is the one of a run that was left alone; it is said that replayed batches are not compared."""
    attempts(
        tmp_path, {"die_at": 3}, {"die_at": 4, "batch_size": 3}, {"die_at": 2, "batch_size": 10}, {"batch_size": 1}
    )
    assert seen(tmp_path) == [Permutation(LENGTH, 8, epoch)(range(LENGTH)).tolist() for epoch in range(EPOCHS)]
    assert "the batches have another size than before the restart" in (tmp_path / "output1").read_text()


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (lambda: DataLoader(range(19), 4, shuffle=True), "length: 20 in the state, 19 here"),
        (lambda: DataLoader(range(20), 4, shuffle=True, seed=1), "seed: 0 in the state, 1 here"),
        (lambda: DataLoader(range(20), 4), "order: shuffled in the state, sequential here"),
        (lambda: torch.utils.data.DataLoader(range(20), 4), "resumes by position, this one resumes by index"),
    ],
)
def test_other_data_is_refused_on_a_resume(tmp_path, other, named):
    """By what differs, and nothing is lost: the loader of the run goes on."""
    with pytest.raises(Crash):
        trained(tmp_path, DataLoader(range(20), 4, shuffle=True), 3)
    with pytest.raises(DataOrderError, match=named):
        trained(tmp_path, other())
    found = trained(tmp_path, DataLoader(range(20), 4, shuffle=True))
    assert found == Permutation(20, 0, 1)(range(20)).tolist()


def trained(tmp_path, loader, until=None, **options):
    """Two epochs, or a crash behind so many batches; the samples of the last epoch."""
    job, found = small(), []
    with Run(tmp_path / "run", job.state, save=Every(batches=1)) as run:
        for _ in run.epochs(2):
            found = []
            for numbers in run.batches(loader, **options):
                found += numbers.tolist()
                job.step(torch.ones(2, 2))
                run.wait()
                if run.progress.batches == until:
                    raise Crash(found)
    return found


class Crash(Exception):
    pass


def test_the_order_may_be_another_one_where_that_is_asked_for(tmp_path):
    """``exact=False`` takes over the position only."""
    with pytest.raises(Crash):
        trained(tmp_path, DataLoader(range(20), 4, shuffle=True), 3)
    with pytest.raises(Crash) as caught:
        trained(tmp_path, DataLoader(range(20), 4, shuffle=True, seed=1), 4, exact=False)
    assert caught.value.args[0] == Permutation(20, 1, 0)(range(12, 20)).tolist()
