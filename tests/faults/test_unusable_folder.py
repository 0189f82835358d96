"""The run folder is a file, or may not be written to."""

from __future__ import annotations

import errno
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast.errors import StorageError
from holdfast.storage.local import LocalStorage
from holdfast.testing.storage_conformance import NAME


@pytest.mark.parametrize("inside", ["", "run", "runs/run"])
def test_a_run_folder_that_is_a_file_is_refused(tmp_path: Path, inside: str) -> None:
    """The error names the path and says to choose another folder; the file is untouched."""
    file = tmp_path / "notes.txt"
    file.write_bytes(b"mine")
    storage = LocalStorage(file / inside)
    for verb in (
        storage.prepare,
        storage.list,
        lambda: storage.create("holdfast.json", b"{}"),
        lambda: storage.append("journal/1"),
        lambda: storage.begin(NAME, "1"),
    ):
        with pytest.raises(StorageError, match=r"notes\.txt.*is a file, not a folder: choose another") as caught:
            verb()
        assert caught.value.errno == errno.ENOTDIR
    assert file.read_bytes() == b"mine"


@pytest.mark.parametrize("inside", ["", "run", "runs/run"])
def test_a_run_folder_behind_a_link_to_nowhere_is_refused(tmp_path: Path, inside: str) -> None:
    """As where its disk is not mounted: the error names the link and where it leads, and nothing is made there."""
    link, target = tmp_path / "runs", tmp_path / "disk"
    link.symlink_to(target)
    with pytest.raises(StorageError, match=rf"{link} is a link to {target}, which is not there: mount") as caught:
        LocalStorage(link / inside).prepare()
    assert caught.value.errno == errno.ENOENT
    assert list(tmp_path.iterdir()) == [link]


PREPARE = """
import os, sys
from holdfast.errors import StorageError
from holdfast.storage.local import LocalStorage
if os.geteuid() == 0:
    os.setuid(65534)
try:
    LocalStorage(sys.argv[1]).prepare()
except StorageError as error:
    print(error.errno, error)
"""


def test_a_folder_without_permission_is_refused(tmp_path: Path, python: Callable[..., subprocess.Popen[str]]) -> None:
    """Where this user may not write, the error names the folder and the way out, and nothing is left behind."""
    tmp_path.chmod(0o500)
    output, _ = python(PREPARE, tmp_path / "run").communicate()
    assert output.startswith(f"{errno.EACCES} [Errno {errno.EACCES}] cannot create the folder {tmp_path}/run: ")
    assert "change the permissions, or choose another folder" in output
    tmp_path.chmod(0o700)
    assert list(tmp_path.iterdir()) == []
