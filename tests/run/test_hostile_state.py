"""Checkpoints whose manifest is sealed and whose content is not what a run wrote: refused in words, nothing changed."""

import copy
import itertools
import json
import random
import shutil
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from holdfast import Every, Run
from holdfast.errors import CorruptError, HoldfastError, MisfitError
from holdfast.format.manifest import seal_document

ITEMS = ("data", "rng", "values", "model", "optimizer", "scheduler")
PARTS = 12
SAMPLES = 150
VALUES = (None, -1, 10**9, "x", [], {}, {"$float": "nan"}, {"$tuple": [1]}, True)


class Enough(Exception):
    """The loop was entered, which is all that is wanted."""


def objects():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    return {"model": model, "optimizer": optimizer, "scheduler": scheduler}


def shuffled():
    points = TensorDataset(torch.arange(16.0).reshape(8, 2))
    return DataLoader(points, batch_size=2, shuffle=True, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a run that failed in its second epoch, and the document of its newest checkpoint, in mid-epoch."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    np.random.rand()  # which has a state only once it was used
    with pytest.raises(Enough):
        _train(folder, objects(), shuffled())
    (newest,) = sorted(folder.glob("step-*"))[-1:]
    for other in set(folder.glob("step-*")) - {newest}:
        shutil.rmtree(other)
    return folder, json.loads((newest / "manifest.json").read_text())


def _train(folder, state, loader):
    with Run(folder, state, save=Every(batches=3)) as run:
        run.values["seen"] = 1
        for _ in run.epochs(3):
            for (x,) in run.batches(loader):
                if run.progress.batches == 7:
                    raise Enough
                state["model"](x).square().sum().backward()
                state["optimizer"].step()
                state["optimizer"].zero_grad()
                state["scheduler"].step()
                run.wait()


@pytest.fixture
def resume(whole, tmp_path):
    """Resumes from a changed document up to the first batch; returns this library's error, or None."""

    def attempt(document):
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        folder = shutil.copytree(whole[0], tmp_path / "run")
        (manifest,) = folder.glob("step-*/manifest.json")
        manifest.write_bytes(seal_document(document))
        state = objects()
        before = _picture(state)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                _enter(folder, state)
            except Enough:
                return None
            except HoldfastError as error:
                if _refused_at_once(error):
                    assert _picture(state) == before
                return error
        return None

    return attempt


def _enter(folder, state):
    with Run(folder, state, save=Every(batches=1000)) as run:
        for _ in run.epochs(3):
            for _ in run.batches(shuffled()):
                raise Enough


def _refused_at_once(error):
    """Whether the error came from `Run` itself; in a loop, the state is restored already."""
    trace, names = error.__traceback__, []
    while trace is not None:
        names.append(trace.tb_frame.f_code.co_name)
        trace = trace.tb_next
    return "_start" in names


def _picture(state):
    generators = torch.get_rng_state().tolist(), random.getstate(), repr(np.random.get_state())
    return repr([one.state_dict() for one in state.values()]), generators


def places(tree, path=()):
    """Every place in nested JSON, but for long lists of numbers."""
    parts = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in parts:
        yield (*path, key)
        yield from places(value, (*path, key))


def changed(document, path, change, value=None):
    document = copy.deepcopy(document)
    owner = document
    for key in path[:-1]:
        owner = owner[key]
    if change == "delete":
        del owner[path[-1]]
    elif change == "add" and isinstance(owner[path[-1]], dict):
        owner[path[-1]]["zzz"] = value
    else:
        owner[path[-1]] = value
    return document


def changes(document):
    for item in ITEMS:
        for part in ("tree", "metadata"):
            where = ("items", item, part)
            for path in (where, *places(document["items"][item].get(part, {}), where)):
                if len(path) > 3:
                    yield path, "delete", None
                yield from ((path, "put", value) for value in VALUES)
                yield path, "add", 1


def test_the_document_itself_resumes(whole, resume):
    """What the others change is a checkpoint that can be resumed from."""
    assert resume(whole[1]) is None


BOUNDARY = ("items", "rng", "tree", "boundary")
GROUP = ("items", "optimizer", "tree", "param_groups", 0)
KNOWN = [
    ((*BOUNDARY, "numpy", "state", "pos"), 500_000_000, CorruptError),
    ((*BOUNDARY, "numpy", "state", "pos"), 5000, CorruptError),
    ((*BOUNDARY, "numpy", "bit_generator"), [], CorruptError),
    ((*BOUNDARY, "python", "gauss"), "x", CorruptError),
    (("items", "rng", "tree", "loop"), None, CorruptError),
    (("items", "rng", "tree"), None, CorruptError),
    (("items", "values", "tree"), [1], CorruptError),
    (("items", "values", "tree"), [], CorruptError),
    (("items", "data", "tree"), None, CorruptError),
    (("items", "data", "tree", "position", "epoch"), {}, CorruptError),
    (("items", "data", "tree", "position", "batch"), -1, CorruptError),
    (("items", "data", "tree", "mode"), "x", CorruptError),
    (("items", "data", "tree", "cursors"), -1, CorruptError),
    (("items", "data", "tree", "cursors", 0, "consumed"), "x", CorruptError),
    (("items", "data", "tree", "cursors", 0, "digests"), [1], CorruptError),
    (("items", "data", "tree", "memory"), {"x": 1}, CorruptError),
    (("items", "data", "tree", "memory"), {"$dict": [[0, {"warm": [False]}]]}, CorruptError),
    (("items", "data", "tree", "settings"), {"optimizer": 1}, CorruptError),
    (("items", "model", "metadata", "versions"), -1, CorruptError),
    ((*GROUP, "lr"), "x", MisfitError),
    ((*GROUP, "momentum"), None, MisfitError),
]


@pytest.mark.parametrize(("path", "value", "expected"), KNOWN, ids=lambda one: str(one)[-40:])
def test_a_value_that_no_run_has_written_is_refused(whole, resume, path, value, expected):
    """Before anything is changed; some of these would end the process, in the run or in its first step."""
    np.random.rand()
    assert type(resume(changed(whole[1], path, "put", value))) is expected


def test_any_change_of_a_stored_value_is_refused_in_words_or_resumes(whole, resume):
    """One value deleted, added or replaced: no other error than this library's, whatever the value is."""
    document = whole[1]
    everything = list(changes(document))
    for path, change, value in random.Random(0).sample(everything, SAMPLES):
        try:
            resume(changed(document, path, change, value))
        except Exception as error:
            raise AssertionError(f"{change} {value!r} at {'/'.join(map(str, path))}: {error!r}") from error


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_every_change_of_a_stored_value_is_refused_in_words_or_resumes(whole, resume, part):
    """The same for all of them, in parts that a busy machine gets through too."""
    document, wrong = whole[1], []
    for path, change, value in itertools.islice(changes(document), part, None, PARTS):
        try:
            resume(changed(document, path, change, value))
        except Exception as error:
            wrong.append(f"{change} {value!r} at {'/'.join(map(str, path))}: {error!r}")
    assert wrong == []
