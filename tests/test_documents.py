r"""The documents' Python blocks run as printed.

The blocks of one file run in order, in one namespace, in a temporary folder. An HTML comment on the line before a block
may say ``<!-- setup: NAME -->``, which runs ``tests/documents/NAME.py`` first, or ``<!-- skip: REASON -->``.
"""

import ast
import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PREAMBLES = ROOT / "tests" / "documents"
DOCUMENTS = [path for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))) if path.exists()]
BLOCK = re.compile(r"(?:^<!-- *(\w+): *(.+?) *-->\n\n?)?^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)

RUN = """
import json, sys
namespace = {"__name__": "__main__"}
for where, source in json.load(sys.stdin):
    exec(compile(source, where, "exec"), namespace)
"""


@dataclass(frozen=True)
class Block:
    line: int
    source: str
    remark: str
    argument: str


def blocks(text: str) -> list[Block]:
    return [
        Block(text.count("\n", 0, match.start(3)), match[3], match[1] or "", match[2] or "")
        for match in BLOCK.finditer(text)
    ]


def script(document: str, text: str) -> list[tuple[str, str]]:
    """Pairs of name and source to run; blank lines before a source make its line numbers those of the document."""
    parts: list[tuple[str, str]] = []
    for block in blocks(text):
        assert block.remark in ("", "setup", "skip"), f"{document}:{block.line}: {block.remark!r} means nothing"
        if block.remark == "skip":
            continue
        if block.remark == "setup":
            preamble = PREAMBLES / f"{block.argument}.py"
            parts.append((str(preamble), preamble.read_text()))
        parts.append((document, "\n" * block.line + block.source))
    return parts


def run(parts: list[tuple[str, str]], folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", RUN]
    return subprocess.run(command, input=json.dumps(parts), cwd=folder, capture_output=True, text=True, timeout=100)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_blocks_of_a_document_run_as_printed(document, tmp_path):
    """Every Python block of the document runs, in order, in a fresh interpreter."""
    parts = script(str(document.relative_to(ROOT)), document.read_text())
    if parts:
        done = run(parts, tmp_path)
        assert done.returncode == 0, done.stderr


def test_the_readme_begins_with_a_block_that_is_run():
    """The first thing a reader copies is not skipped."""
    first = blocks((ROOT / "README.md").read_text())[0]
    assert first.remark != "skip"
    assert "import holdfast" in first.source


def test_a_failing_block_is_named_by_file_and_line(tmp_path):
    """A block that fails is reported with the document's own name and line number."""
    done = run(script("docs/some.md", "one\n\n```python\nx = 1\n```\n\n```python\nx / 0\n```\n"), tmp_path)
    assert done.returncode == 1
    assert 'File "docs/some.md", line 8' in done.stderr


def test_remarks_skip_a_block_or_set_it_up():
    """Only blocks marked as Python count; ``skip`` leaves one out, and ``setup`` puts its preamble before it."""
    text = "```\nno\n```\n<!-- skip: needs a cluster -->\n```python\nno\n```\n"
    text += "<!-- setup: training -->\n```python\nyes\n```\n"
    (preamble, _), (document, source) = script("a.md", text)
    assert (Path(preamble).name, document, source.strip()) == ("training.py", "a.md", "yes")


def test_a_misspelt_remark_is_an_error():
    """A remark that means nothing is not silently ignored."""
    with pytest.raises(AssertionError, match=r"a.md:2: 'skipp' means nothing"):
        script("a.md", "<!-- skipp: why -->\n```python\n1 / 0\n```\n")


def test_every_row_of_the_features_names_a_test_that_is_there():
    """A feature without a test is a claim."""
    text = (ROOT / "docs" / "features.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| ") and "shown by |" not in line]
    assert len(rows) > 50
    for row in rows:
        path, _, name = re.search(r"`(tests/[^`]+)`", row)[1].partition("::")
        found = {node.name for node in ast.walk(ast.parse((ROOT / path).read_text())) if hasattr(node, "name")}
        assert name in found, row
