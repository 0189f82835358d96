"""The ``holdfast`` command: looks at runs and checkpoints. It reads only, takes no lock, and needs no framework."""

from holdfast.cli.application import main

__all__ = ["main"]
