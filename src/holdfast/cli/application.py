"""The commands put together, and how each way of ending becomes an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from holdfast import __version__
from holdfast.cli.ls import ls
from holdfast.cli.output import PipeClosed, print_error
from holdfast.cli.pin import pin, unpin
from holdfast.cli.probe import probe
from holdfast.cli.prune import prune
from holdfast.cli.save_now import save_now
from holdfast.cli.show import show
from holdfast.cli.verify import verify
from holdfast.errors import HoldfastError, UsageError

PIPE_CLOSED = 128 + 13
"""What a shell reports of a command that SIGPIPE ended."""
INTERRUPTED = 128 + 2

CHECKPOINT = "step-00000500.a0001.n0003"


def _examples(*calls: str) -> str:
    r"""What stands below a command's help, each call in a line of its own (``\b`` keeps them apart).

    >>> print(_examples("ls runs/digits").lstrip("\b"))
    <BLANKLINE>
    Example:
      holdfast ls runs/digits
    """
    return "\n".join(("\b", f"Example{'s' * (len(calls) > 1)}:", *(f"  holdfast {one}" for one in calls)))


app = typer.Typer(
    help="Looks at runs that hold fast: what was saved, what is in it, whether it is intact, and what should stay.",
    epilog=_examples("ls runs/digits")
    + "\n\n\b\nExit codes:\n"
    + "  0  all is well          5  a newer format\n"
    + "  2  a wrong call         8  the storage refused\n"
    + "  3  not found           11  no checkpoint came that was asked for\n"
    + "  4  corrupt            130  Ctrl-C, 141 the reader of the output went away",
    rich_markup_mode=None,  # rich doubles the time that help takes
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(short_help="List the checkpoints of a run.", epilog=_examples("ls runs/digits", "ls runs/digits --json"))(
    ls
)
app.command(
    short_help="Show what a checkpoint holds.",
    epilog=_examples(
        "show runs/digits", f"show runs/digits {CHECKPOINT} --tensors", "show runs/digits --config --lineage"
    ),
)(show)
app.command(
    short_help="Check every byte against its digest.",
    epilog=_examples("verify runs/digits", f"verify runs/digits/{CHECKPOINT} --tampering"),
)(verify)
app.command(
    short_help="Delete what a keep policy lets go.",
    epilog=_examples(
        'prune runs/digits --keep "last 3" --keep "best val_loss min 2" --dry-run', "prune runs/digits --abandoned"
    ),
)(prune)
app.command(short_help="Keep a checkpoint, whatever the policy.", epilog=_examples(f"pin runs/digits {CHECKPOINT}"))(
    pin
)
app.command(short_help="Leave a checkpoint to the policy again.", epilog=_examples(f"unpin runs/digits {CHECKPOINT}"))(
    unpin
)
app.command(
    "save-now", short_help="Ask a live run for a checkpoint.",
    epilog=_examples("save-now runs/digits", "save-now runs/digits --wait 60"),
)(save_now)  # fmt: skip
app.command(
    short_help="Find out what a storage can do for checkpoints.",
    epilog=_examples("probe runs/digits", 'probe /scratch /home/me/runs --size "12 GiB" --mtbf "8 hours"'),
)(probe)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"holdfast {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """The options that stand before a command."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs ``holdfast`` with ``arguments`` (default: the process's own) and returns its exit code.

    0 if all went well, ``error.exit_code`` for a `HoldfastError`, 2 for a wrong call, 141 if the reader of the output
    went away, 130 after Ctrl-C. With ``--json`` among the arguments errors are printed as JSON on standard output.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    _print_anything()
    try:
        code = app(given, prog_name="holdfast", standalone_mode=False)
        sys.stdout.flush()
    except (PipeClosed, BrokenPipeError):
        _silence_output()
        return PIPE_CLOSED
    except HoldfastError as error:
        print_error(error, "--json" in given)
        return error.exit_code
    except typer.Abort:
        return INTERRUPTED
    except Exception as error:
        return _wrong_call(error, "--json" in given)
    return code if isinstance(code, int) else 0


def _wrong_call(error: Exception, as_json: bool) -> int:
    """What typer raises for arguments that it does not understand; its class has moved between versions."""
    show = getattr(error, "show", None)
    if show is None:
        raise error
    if as_json:
        print_error(UsageError(getattr(error, "format_message", error.__str__)()), as_json)
    else:
        show()
    return UsageError.exit_code


def _print_anything() -> None:
    """A terminal that cannot show a character gets a question mark instead of a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def _silence_output() -> None:
    """Python flushes standard output once more at exit, which would complain again."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):
        return
