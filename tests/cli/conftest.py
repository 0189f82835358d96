"""The command in this process, and its words."""

import json
import re
from dataclasses import dataclass

import pytest

from holdfast.cli import main


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)

    @property
    def words(self):
        """The output without line breaks and repeated blanks."""
        return re.sub(r"\s+", " ", self.out)


@pytest.fixture
def holdfast(capsys, monkeypatch):
    """Runs ``holdfast`` with these arguments; ``columns`` is the width of what it is shown on."""
    monkeypatch.delenv("COLUMNS", raising=False)

    def run(*arguments, columns=None):
        if columns is not None:
            monkeypatch.setenv("COLUMNS", str(columns))
        capsys.readouterr()
        code = main([str(one) for one in arguments])
        return Outcome(code, *capsys.readouterr())

    return run
