"""Which file system a path is on."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast.storage.mounts import Mount, mount_of

TABLE = r"""
22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw
23 22 0:30 / /data rw - nfs4 server:/data rw,vers=4.2,local_lock=none
24 22 0:31 / /data/my\040runs rw,nosuid shared:7 master:2 - xfs /dev/sdb rw
25 22 0:32 / /scratch rw - ext4 /dev/sdc rw
26 25 0:33 / /scratch rw - tmpfs none rw,size=4k
this line makes no sense - neither
and this one none at all
"""


@pytest.fixture
def table(tmp_path: Path) -> Path:
    file = tmp_path / "mountinfo"
    file.write_text(TABLE)
    return file


@pytest.mark.parametrize(
    ("path", "point", "kind"),
    [
        ("/home/me/runs", "/", "ext4"),
        ("/data", "/data", "nfs4"),
        ("/data/my runs/digits", "/data/my runs", "xfs"),
        ("/database", "/", "ext4"),
        ("/scratch/runs", "/scratch", "tmpfs"),
    ],
)
def test_the_innermost_and_latest_mount_around_a_path_is_it(table: Path, path: str, point: str, kind: str) -> None:
    """Names that only begin alike are no folders of it, and a mount on top of another one hides that."""
    found = mount_of(path, table)
    assert found is not None
    assert (found.point, found.type) == (point, kind)


def test_a_link_is_followed(table: Path, tmp_path: Path) -> None:
    """What counts is where the folder is."""
    (tmp_path / "link").symlink_to("/data")
    found = mount_of(str(tmp_path / "link"), table)
    assert found is not None
    assert found.source == "server:/data"


def test_where_the_system_does_not_tell_there_is_none(tmp_path: Path) -> None:
    """As on macOS."""
    assert mount_of("/", tmp_path / "not there") is None


@pytest.mark.parametrize("option", ["nolock", "local_lock=all", "local_lock=posix", "localflock"])
def test_locks_that_do_not_leave_the_machine_are_known_by_the_option(option: str) -> None:
    """Of NFS and Lustre."""
    mount = Mount(point="/", type="nfs", source="server:/", options=("rw", option))
    assert mount.local_locks == option
    assert Mount(point="/", type="nfs", source="server:/", options=("rw", "local_lock=none")).local_locks is None


@pytest.mark.parametrize(("kind", "expected"), [("tmpfs", True), ("ramfs", True), ("ext4", False)])
def test_memory_is_known_by_its_type(kind: str, expected: bool) -> None:
    """It is gone with the machine."""
    assert Mount(point="/", type=kind, source="none", options=()).in_memory is expected
