"""Every failure of the system becomes a StorageError that says what to do."""

from __future__ import annotations

import errno
import os

import pytest

from holdfast.errors import AlreadyExistsError, CorruptError, StorageError
from holdfast.storage.failures import failure, reported


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EDQUOT, "quota"),
        (errno.EFBIG, "ulimit -f"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "permissions"),
        (errno.EIO, "I/O error"),
        (errno.ENOTDIR, "choose another folder"),
    ],
)
def test_a_failure_names_operation_path_reason_and_way_out(number: int, advice: str) -> None:
    """The message can be acted upon without a look into the source, and errno is kept for programs."""
    error = failure(OSError(number, os.strerror(number)), "write", "/runs/a/model.safetensors")
    assert error.errno == number
    assert f"cannot write /runs/a/model.safetensors: {os.strerror(number)}" in str(error)
    assert advice in str(error)


@pytest.mark.parametrize("number", [errno.EEXIST, errno.ENOTEMPTY])
def test_a_name_that_is_taken_has_its_own_error(number: int) -> None:
    """Whoever creates only can tell «taken» from «broken»."""
    assert type(failure(OSError(number, "taken"), "create", "x")) is AlreadyExistsError


def test_holdfast_errors_pass_unchanged() -> None:
    """What already says what happened is not wrapped again."""
    inner = StorageError(errno.EIO, "inner")
    with pytest.raises(StorageError) as caught, reported("write", "x"):
        raise inner
    assert caught.value is inner
    with pytest.raises(CorruptError), reported("read", "x"):
        raise CorruptError("short")
