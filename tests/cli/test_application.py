"""The command as a whole: exit codes, help, pipes, and what it must not do."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import holdfast as package
from holdfast.cli import application
from holdfast.errors import HoldfastError

README = Path(__file__).parents[2] / "README.md"
COMMANDS = ("ls", "show", "verify")

WATCHED = """
import os, sys
from pathlib import Path

sys.modules["torch"] = None  # importing it fails, as on a machine without it
touched = []
opened = []

def watch(event, arguments):
    if event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod"):
        touched.append((event, str(arguments[0])))
    if event == "open" and isinstance(arguments[0], str):
        opened.append(arguments[0])
        if arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC):
            touched.append((event, arguments[0]))
    if event.startswith("fcntl."):
        touched.append((event, ""))

sys.addaudithook(watch)
from holdfast.cli import main
codes = [main([command, sys.argv[1]]) for command in ("ls", "show", "verify")]
print(json.dumps({"codes": codes, "touched": touched, "locks": [one for one in opened if one.endswith(".lock")]}))
"""


def python(*arguments, **options):
    command = [sys.executable, "-B", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, **options)


def test_only_reads_takes_no_lock_and_needs_no_framework(run_folder):
    """No file is opened to be written, nothing is made or renamed, no lock file is opened, and torch may be missing."""
    done = python("-c", "import json\n" + WATCHED, run_folder)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {"codes": [0, 0, 0], "touched": [], "locks": []}


def test_help_imports_nothing_slow():
    """What every call pays for: neither numpy, rich, msgspec and the digests, nor a framework."""
    code = "import sys\nfrom holdfast.cli import main\nmain(['--help'])\nprint(sorted(sys.modules), file=sys.stderr)"
    brought = python("-c", code).stderr
    assert "'holdfast.cli.application'" in brought
    for module in ("torch", "numpy", "rich", "msgspec", "blake3", "xxhash", "holdfast.engine"):
        assert f"'{module}'" not in brought


def test_is_a_module_too(run_folder):
    """``python -m holdfast`` does the same, for environments whose scripts are not on the path."""
    done = python("-m", "holdfast", "ls", run_folder, "--json")
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)) == 4


def test_prints_its_version(holdfast):
    """The version is that of the package."""
    done = holdfast("--version")
    assert (done.code, done.out) == (0, f"holdfast {package.__version__}\n")


@pytest.mark.parametrize(("path", "code"), [("x" * 5000, 3), ("a\0b", 2)], ids=["long", "nul"])
@pytest.mark.parametrize("command", [*COMMANDS, "save-now", "pin", "unpin", "prune", "probe"])
def test_a_path_that_cannot_be_one_has_the_exit_code_of_its_error(holdfast, command, path, code):
    """Nothing is there, or it is a wrong call; no traceback, and JSON for programs."""
    more = ["--keep", "all"] if command == "prune" else []
    done = holdfast(command, path, *more, "--json")
    assert (done.code, done.json["error"]["kind"]) == (code, {3: "not_found", 2: "usage"}[code])


@pytest.mark.parametrize("command", [*COMMANDS, "prune", "pin", "unpin", "save-now", "probe"])
def test_every_command_has_help_with_an_example(holdfast, command):
    """Help says what the command does and shows calls that work, each in a line of its own."""
    done = holdfast(command, "--help", columns=100)
    assert done.code == 0
    assert re.search(rf"\n  Examples?:\n    holdfast {command} runs/digits", done.out)
    assert "--json" in done.out


def test_help_and_readme_name_the_same_exit_codes(holdfast):
    """Those that the commands can end with."""
    said = holdfast("--help", columns=100).out.partition("Exit codes:")[2]
    (sentence,) = re.findall(r"The exit code tells (.*?)\n\n", README.read_text(), re.DOTALL)
    codes = ["0", "11", "130", "141", "2", "3", "4", "5", "8"]
    assert sorted(re.findall(r"\b\d+\b", said)) == sorted(re.findall(r"\b\d+\b", sentence)) == codes


def test_ctrl_c_has_its_exit_code(holdfast, monkeypatch, run_folder):
    """130, as a shell expects it, and no traceback."""

    def interrupt(path):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "listdir", interrupt)
    assert holdfast("ls", run_folder).code == 130


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: None, "is not there"),
        (lambda path: path.write_text("a file"), "is a file, not a run folder"),
        (lambda path: path.mkdir(), "is not a run folder"),
    ],
)
def test_what_is_no_run_is_not_found(holdfast, tmp_path, command, make, reason):
    """A folder that is missing, a file, or any other folder: exit code 3, in words or as JSON."""
    path = tmp_path / "place"
    make(path)
    done, found = holdfast(command, path), holdfast(command, path, "--json")
    assert (done.code, done.out, found.code, found.err) == (3, "", 3, "")
    assert f"holdfast: {path}: {reason}" in done.err
    assert found.json["error"]["kind"] == "not_found"
    assert reason in found.json["error"]["message"]


def test_runs_below_the_folder_are_suggested(holdfast, run_folder):
    """Who names the folder of all runs is told what is in it."""
    assert "It contains runs, though: run." in holdfast("ls", run_folder.parent).err


def test_debris_is_no_checkpoint(holdfast, newest):
    """What an interrupted save left is refused, whatever it holds."""
    debris = newest.rename(newest.with_name(f"{newest.name}.partial-9f3c"))
    done = holdfast("show", debris)
    assert done.code == 3
    assert "unfinished" in done.err


def test_a_checkpoint_that_is_a_link_is_corrupt(holdfast, newest, tmp_path):
    """A directory with a checkpoint's name is never followed elsewhere."""
    newest.rename(tmp_path / "elsewhere")
    newest.symlink_to(tmp_path / "elsewhere")
    done = holdfast("show", newest)
    assert done.code == 4
    assert "symbolic link" in done.err


def test_a_wrong_call_has_exit_code_2(holdfast):
    """As words with a hint, or as JSON."""
    done, found = holdfast("lss"), holdfast("show", "--json")
    assert (done.code, found.code) == (2, 2)
    assert "No such command 'lss'" in done.err
    assert found.json["error"]["kind"] == "usage"


@pytest.mark.parametrize("kind", HoldfastError.__subclasses__())
def test_each_error_has_its_exit_code(holdfast, monkeypatch, kind):
    """The process ends with the error's own code and its message, without a traceback."""

    def fail(*arguments, **options):
        raise kind("what happened")

    monkeypatch.setattr(application, "app", fail)
    done = holdfast("ls", "x")
    assert (done.code, done.err) == (kind.exit_code, "holdfast: what happened\n")


def test_an_unreadable_folder_is_a_storage_error(holdfast, run_folder, monkeypatch):
    """What the system says comes with advice and exit code 8."""

    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "listdir", refuse)
    done = holdfast("ls", run_folder)
    assert done.code == 8
    assert f"cannot list {run_folder}: Permission denied" in done.err
    assert "Errno" not in done.err


def test_a_closed_pipe_ends_quietly(run_folder):
    """``holdfast ls | head -0`` leaves no traceback, and the exit code of a command that SIGPIPE ended."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "holdfast", "ls", run_folder], stdout=writer, stderr=subprocess.PIPE, timeout=60
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


def test_colour_is_for_terminals(run_folder):
    """Bold and green on a terminal, plain text in a pipe, and plain text where NO_COLOR asks for it."""
    piped = python("-m", "holdfast", "ls", run_folder).stdout
    assert "\x1b" not in piped
    assert "\x1b[1;32m→" in on_terminal(run_folder, {"TERM": "xterm-256color"})
    assert "32m" not in on_terminal(run_folder, {"TERM": "xterm-256color", "NO_COLOR": "1"})


def on_terminal(folder, environment):
    pty = pytest.importorskip("pty")
    leader, follower = pty.openpty()
    kept = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "COLUMNS")}
    with subprocess.Popen(
        [sys.executable, "-m", "holdfast", "ls", folder], stdout=follower, env={**kept, **environment}
    ) as process:
        os.close(follower)
        shown = b""
        while True:
            try:
                data = os.read(leader, 65536)
            except OSError:
                break
            shown += data
            if not data:
                break
        process.wait(timeout=60)
    os.close(leader)
    return shown.decode()
