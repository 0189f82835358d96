"""The errors that holdfast raises, each with a stable ``kind`` and its own exit code at the shell.

::

    HoldfastError                     "error"           1
    ├── UsageError                    "usage"           2   also ValueError
    ├── NotFoundError                 "not_found"       3   also FileNotFoundError
    ├── CorruptError                  "corrupt"         4   also ValueError
    ├── UnsupportedFormatError        "unsupported"     5   also ValueError
    ├── MisfitError                   "misfit"          6   also ValueError
    ├── UnsafeValueError              "unsafe_value"    7   also TypeError
    ├── StorageError                  "storage"         8   also OSError
    │   └── AlreadyExistsError        "exists"          9   also FileExistsError
    ├── OwnershipError                "owned"          10   also RuntimeError
    ├── SaveError                     "save_failed"    11   also RuntimeError
    ├── MemoryLimitError              "memory_limit"   12   also MemoryError
    ├── DataOrderError                "data_order"     13   also ValueError
    └── PlatformError                 "platform"       14   also RuntimeError

A message says what happened, where, what was expected, and what to do about it.
"""

from __future__ import annotations

from typing import ClassVar


class HoldfastError(Exception):
    """Everything that holdfast raises on purpose."""

    kind: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 1


class UsageError(HoldfastError, ValueError):
    """An argument or a call that cannot mean anything: ``Every(steps=0)``, a reserved item name."""

    kind = "usage"
    exit_code = 2


class NotFoundError(HoldfastError, FileNotFoundError):
    """A run folder or checkpoint that is not there."""

    kind = "not_found"
    exit_code = 3


class CorruptError(HoldfastError, ValueError):
    """A checkpoint whose bytes are not the ones that were committed, or that contradicts itself."""

    kind = "corrupt"
    exit_code = 4


class UnsupportedFormatError(HoldfastError, ValueError):
    """A checkpoint of a newer format, or one that requires a feature this version lacks."""

    kind = "unsupported"
    exit_code = 5


class MisfitError(HoldfastError, ValueError):
    """A checkpoint that does not fit the objects it should be loaded into. Nothing was changed."""

    kind = "misfit"
    exit_code = 6

    def __init__(self, message: str, problems: tuple[str, ...] = ()) -> None:
        super().__init__("\n  ".join((message, *problems)))
        self.problems = problems


class UnsafeValueError(HoldfastError, TypeError):
    """A value in the state that has no safe representation on disk; ``path`` names it."""

    kind = "unsafe_value"
    exit_code = 7

    def __init__(self, message: str, path: str = "") -> None:
        super().__init__(message)
        self.path = path


class StorageError(HoldfastError, OSError):
    """The storage refused or lost an operation: full disk, no permission, an I/O error."""

    kind = "storage"
    exit_code = 8


class AlreadyExistsError(StorageError, FileExistsError):
    """A create-only operation found its name taken."""

    kind = "exists"
    exit_code = 9


class OwnershipError(HoldfastError, RuntimeError):
    """Another live trainer holds this run folder."""

    kind = "owned"
    exit_code = 10


class SaveError(HoldfastError, RuntimeError):
    """A save that was waited for did not become durable. Earlier checkpoints are untouched."""

    kind = "save_failed"
    exit_code = 11


class MemoryLimitError(HoldfastError, MemoryError):
    """The snapshot of this state does not fit into the memory this process may use."""

    kind = "memory_limit"
    exit_code = 12


class DataOrderError(HoldfastError, ValueError):
    """The data on resume is not the data of the run: another length, order or sampler."""

    kind = "data_order"
    exit_code = 13


class PlatformError(HoldfastError, RuntimeError):
    """Something this platform cannot do, such as running a ``Run`` on Windows."""

    kind = "platform"
    exit_code = 14


class ExactnessWarning(UserWarning):
    """The run goes on, but something about it cannot be promised to be bit-exact."""


class HoldfastWarning(UserWarning):
    """The run goes on, but something needs a person's attention: a save failed, a checkpoint is corrupt."""
