"""The demo: its user's script, its comparison, and its picture."""

import json
import math
import signal
import struct
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

DIGITS = Path(__file__).parents[2] / "examples" / "digits"


@pytest.fixture
def demo(monkeypatch):
    """The demo's modules, which import each other as scripts of one folder do."""
    monkeypatch.syspath_prepend(str(DIGITS))
    import curve
    import demo
    import journals

    return SimpleNamespace(curve=curve, demo=demo, journals=journals)


def write_journals(folder, losses, ends, every=20):
    """Journals of attempts that died after the steps of ``ends`` and resumed at the last multiple of ``every``."""
    (folder / "journal").mkdir(parents=True)
    resumed = 0
    for number, end in enumerate(ends, 1):
        lines = [{"t": "resumed", "name": "any", "step": resumed}] if resumed else []
        for step in range(resumed + 1, end + 1):
            lines.append({"t": "batch", "at": [0, 0, step], "step": step, "log": {"loss": [losses[step - 1]]}})
            if step % every == 0:
                lines.append({"t": "saved", "name": "any", "step": step})
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / "journal" / f"{number:04d}.jsonl").write_text(text)
        resumed = end // every * every


def test_without_its_option_the_script_never_meets_holdfast(tmp_path):
    """The twin trains without holdfast being imported at all, and writes weights, optimizer and every loss."""
    out = tmp_path / "twin.pt"
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['train.py', '--epochs', '1', '--out', {str(out)!r}]\n"
        f"runpy.run_path({str(DIGITS / 'train.py')!r}, run_name='__main__')\n"
        "assert not any(name.startswith('holdfast') for name in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100)
    twin = torch.load(out, weights_only=True)
    assert set(twin) == {"model", "optimizer", "losses"}
    assert len(twin["losses"]) == 45


def test_journals_tell_what_was_resumed_logged_and_saved(demo, tmp_path):
    """Each attempt knows where it began, its losses by step and its saves; a line still being written is left out."""
    write_journals(tmp_path, [1.0 / step for step in range(1, 51)], [30, 50])
    with (tmp_path / "journal" / "0002.jsonl").open("a") as file:
        file.write('{"t":"batch","st')
    first, second = demo.journals.read_attempts(tmp_path)
    assert (first.resumed, first.last, first.saved) == (0, 30, [20])
    assert (second.resumed, second.last, second.saved) == (20, 50, [40])
    assert second.losses[21] == 1 / 21


def test_a_checkpoint_committed_after_the_trainer_died_belongs_to_its_attempt(demo, tmp_path):
    """The one resumed from counts as saved by the attempt that was killed before it could write that down."""
    write_journals(tmp_path, [1.0] * 50, [30, 50])
    first = tmp_path / "journal" / "0001.jsonl"
    first.write_text("".join(line for line in first.read_text().splitlines(keepends=True) if "saved" not in line))
    assert demo.journals.read_attempts(tmp_path)[0].saved == [20]


def flipped(tensor):
    """The same tensor with the lowest bit of its first element flipped."""
    copy = tensor.clone()
    copy.view(torch.int32)[0] ^= 1
    return copy


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (lambda twin: twin["model"].update(weight=flipped(twin["model"]["weight"])), "/model/weight"),
        (lambda twin: twin["model"].update(weight=twin["model"]["weight"].double()), "/model/weight"),
        (lambda twin: twin["model"].pop("weight"), "/model/weight"),
        (lambda twin: twin["model"].update(bias=torch.zeros(1)), "/model/bias"),
        (lambda twin: twin["optimizer"].update(lr=math.nextafter(0.1, 1)), "/optimizer/lr"),
        (lambda twin: twin["losses"].__setitem__(1, -0.0), "/losses/1"),
        (lambda twin: twin["losses"].append(1.0), "/losses/2"),
    ],
    ids=["bit", "dtype", "missing", "more", "option", "zero's sign", "length"],
)
def test_one_flipped_bit_is_a_difference(demo, change, where):
    """The comparison sees a single bit, a dtype, a missing and an additional leaf, and says where."""

    def loaded():
        return {"model": {"weight": torch.ones(3)}, "optimizer": {"lr": 0.1}, "losses": [0.5, 0.0]}

    held = loaded()
    assert demo.demo.differences(held, loaded()) == []
    change(held)
    assert demo.demo.differences(held, loaded()) == [where]


def test_a_loss_logged_by_a_killed_attempt_is_compared_too(demo, tmp_path):
    """A replayed or lost step whose loss is not the twin's is named with its attempt."""
    losses = [1.0 / step for step in range(1, 51)]
    write_journals(tmp_path, losses, [30, 50])
    attempts = demo.journals.read_attempts(tmp_path)
    assert demo.demo.journal_differences(attempts, losses) == []
    (bits,) = struct.unpack("q", struct.pack("d", losses[24]))
    (losses[24],) = struct.unpack("d", struct.pack("q", bits + 1))
    assert demo.demo.journal_differences(attempts, losses) == [
        "attempt 1, loss of step 25",
        "attempt 2, loss of step 25",
    ]


def test_the_picture_is_drawn(demo, tmp_path):
    """The loss curve of a run with crashes becomes a PNG."""
    losses = [2.0 / step for step in range(1, 91)]
    write_journals(tmp_path, losses, [25, 50, 90])
    demo.curve.draw(tmp_path / "demo.png", losses, demo.journals.read_attempts(tmp_path), "identical")
    assert (tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG")


def test_a_seed_repeats_the_kills(demo):
    """The same seed kills at the same instants, in ascending order and before the run ends."""
    instants = demo.demo.instants(7, 1125)
    assert instants == demo.demo.instants(7, 1125) != demo.demo.instants(8, 1125)
    assert sorted(instants) == instants
    assert all(0 < step < 1125 for step, _ in instants)


def test_a_training_that_ends_by_itself_was_not_killed(demo, tmp_path):
    """A process that is gone before its step came is reported as not killed, so that the demo can stop."""
    with subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"]) as process:
        assert not demo.demo.kill(process, tmp_path / "none.jsonl", 1, 0.0)


def test_the_step_is_waited_for_and_then_killed(demo, tmp_path):
    """The process is killed with SIGKILL once its journal holds the step."""
    write_journals(tmp_path, [1.0] * 10, [10])
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        assert demo.demo.kill(process, tmp_path / "journal" / "0001.jsonl", 10, 0.0)
    assert process.returncode == -signal.SIGKILL


@pytest.mark.slow
def test_killed_three_times_and_equal_to_its_twin(demo, tmp_path, monkeypatch, capfd):
    """The whole demo, smaller: three SIGKILLs, and the end is the twin's, bit for bit."""
    monkeypatch.chdir(tmp_path)
    assert demo.demo.main(["--epochs", "4", "--seed", "1"]) == 0
    assert "identical, bit for bit" in capfd.readouterr().out
    assert (tmp_path / "demo.png").exists()
