"""The names that a storage takes and makes.

A path is ``name`` or ``folder/name``: one or two plain components, so nothing outside the root can be
named. Names with ``.partial-`` in them, and those that begin with ``.deleting-``, are never anything but debris
once their process is gone.
"""

from __future__ import annotations

import secrets

from holdfast.errors import UsageError

MANIFEST_FILE = "manifest.json"
_PARTIAL = ".partial-"
_DELETING = ".deleting-"
_FORBIDDEN = frozenset("/\\:\0")


def split_path(path: str) -> tuple[str, ...]:
    """The one or two components of ``path``. Raises `UsageError` for anything else.

    >>> split_path("step-00000500.a0001.n0003/manifest.json")
    ('step-00000500.a0001.n0003', 'manifest.json')
    """
    components = tuple(path.split("/"))
    if len(components) > 2:
        raise UsageError(f"{path!r} is not a path in a storage: expected 'name' or 'folder/name'")
    for component in components:
        check_name(component, path)
    return components


def check_name(name: str, path: str | None = None) -> None:
    """Refuses what is not one plain component: empty, ``.``, ``..``, or with a separator in it."""
    if name in ("", ".", "..") or _FORBIDDEN.intersection(name):
        raise UsageError(
            f"{path or name!r} is not a name in a storage: "
            "expected plain components, not empty, not '.' or '..', without '\\', ':' or NUL"
        )


def partial_name(name: str, try_id: str) -> str:
    """Where the try ``try_id`` writes what becomes ``name``.

    >>> partial_name("step-00000500.a0001.n0003", "7f3a")
    'step-00000500.a0001.n0003.partial-7f3a'
    """
    return f"{name}{_PARTIAL}{try_id}"


def deleting_name(name: str) -> str:
    """A fresh name under which ``name`` is taken away."""
    return f"{_DELETING}{name}-{fresh_id()}"


def fresh_id() -> str:
    """Eight hex digits from the system's randomness: the user's generators are left alone."""
    return secrets.token_hex(4)


def is_debris(name: str) -> bool:
    """Whether ``name`` was left by a save or a deletion that did not finish.

    >>> is_debris(".deleting-step-00000500.a0001.n0003-0f0f0f0f")
    True
    """
    return _PARTIAL in name or is_deleting(name)


def is_deleting(name: str) -> bool:
    """Whether ``name`` is what remains of a checkpoint whose deletion is under way, or was when its process died.

    >>> is_deleting(".deleting-step-00000500.a0001.n0003-0f0f0f0f")
    True
    """
    return name.startswith(_DELETING)
