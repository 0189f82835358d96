"""Arguments and options that several commands take."""

from __future__ import annotations

from typing import Annotated

import typer

Run = Annotated[str, typer.Argument(metavar="RUN", help="A run folder.", show_default=False)]
RunOrCheckpoint = Annotated[
    str, typer.Argument(metavar="RUN", help="A run folder, or one checkpoint.", show_default=False)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs. Errors become JSON too.")]
