"""Where, when, of what, and what stays."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from holdfast.engine.place import check_path
from holdfast.errors import UsageError
from holdfast.policies.event import AtEnd, OnError, OnSignal
from holdfast.policies.interval import Every
from holdfast.policies.keep import KeepPolicy, Kept
from holdfast.policies.keep_newest import SIZES, KeepLast, parse_size
from holdfast.policies.moment import Moment
from holdfast.policies.overhead import Overhead
from holdfast.policies.phrases import KeepOption, SaveOption, keep_policy, save_policy
from holdfast.policies.save import SavePolicy
from holdfast.policies.sense import check_sense
from holdfast.run.name_template import NameTemplate

Verify = Literal["digests", "readback"]
"""What is verified after writing, before the commit."""

DEFAULT_SAVE = (Every(fraction=0.05) | Every(minutes=10)) & Overhead(0.01) | AtEnd() | OnSignal() | OnError()
DEFAULT_KEEP = KeepLast(3)
DEFAULTS: Mapping[str, Any] = {
    "folder": None, "save": DEFAULT_SAVE, "keep": DEFAULT_KEEP, "items": None, "exclude": (), "name": None,
    "verify": "digests",
}  # fmt: skip
"""The options of a saver, and what they are where nobody says."""


class Saver:
    """Saves into a folder what is chosen of the state, when a policy says so; another policy says what is kept.

    ``folder`` is the run's own where none is given. ``save`` and ``keep`` take a policy, a callable, a phrase, or a
    list of these. By default it saves 20 times over the run or every 10 minutes, whichever is sooner, within 1 % of the
    training time, and at the end, on a signal and on an error, and keeps the last 3. ``items`` and ``exclude`` choose
    what is saved, by patterns of item names (``"model"``, ``"ema*"``) and, in ``exclude``, of tensors
    (``"model/head.*"``); a saver that leaves something out makes checkpoints to load from, not to resume from. ``name``
    is a template for names, such as ``"epoch-{epoch:03d}-{val_loss:.3f}"``. With ``verify="readback"`` the medium is
    read, past the page cache, before a checkpoint is committed.

    Override `should_save` or `should_keep` for anything else. A run works with a copy, which has the run's options
    where the saver says nothing. Raises `UsageError` for what cannot mean anything.

    >>> from holdfast import Every, KeepLast, Saver
    >>> Saver(save=Every(steps=200), keep=KeepLast(5)).save == Saver(save="every 200 steps").save
    True
    """

    def __init__(
        self,
        folder: str | os.PathLike[str] | None = None,
        *,
        save: SaveOption | None = None,
        keep: KeepOption | None = None,
        items: Sequence[str] | None = None,
        exclude: Sequence[str] | None = None,
        name: str | None = None,
        verify: Verify | None = None,
    ) -> None:
        options = {
            "folder": folder, "save": save, "keep": keep, "items": items, "exclude": exclude, "name": name,
            "verify": verify,
        }  # fmt: skip
        self._given: dict[str, Any] = {
            option: checked(option, value) for option, value in options.items() if value is not None
        }
        self._set({**DEFAULTS, **self._given})
        check_sense(self.save, self.keep)

    def _set(self, options: Mapping[str, Any]) -> None:
        self.folder: str | None = options["folder"]
        self.save: SavePolicy = options["save"]
        self.keep: KeepPolicy = options["keep"]
        self.items: tuple[str, ...] | None = options["items"]
        self.exclude: tuple[str, ...] = options["exclude"]
        self.name: NameTemplate | None = options["name"]
        self.verify: Verify = options["verify"]

    def should_save(self, moment: Moment) -> str | None:
        """Why a checkpoint is due at ``moment``, or None."""
        return self.save.due(moment)

    def should_keep(self, checkpoints: Sequence[Kept]) -> Mapping[str, str]:
        """Of ``checkpoints``, oldest first, the names of those that stay, each with why."""
        return self.keep.reasons(checkpoints)


def given(saver: Saver) -> Mapping[str, Any]:
    """The options that a saver was made with, checked."""
    return saver._given


def with_options(saver: Saver, options: Mapping[str, Any]) -> Saver:
    """A copy of a saver, of its own class, that has all of ``options``, checked ones, and what else it has.

    A run sets what the saver was not given; another run, which may have the same saver, sets something else.
    """
    found = copy.copy(saver)
    found._set(options)
    check_sense(found.save, found.keep)
    return found


def checked(option: str, value: Any) -> Any:
    """The value of an option as a saver or the run uses it. Raises `UsageError` that begins with the option's name."""
    match option:
        case "folder":
            return checked_folder(value)
        case "arena":
            return _size(option, value)
        case "save":
            return save_policy(value)
        case "keep":
            return keep_policy(value)
        case "items" | "exclude":
            return _patterns(option, value)
        case "name":
            return NameTemplate(value)
        case "verify":
            return _verify(value)
    raise AssertionError(f"no option of a saver: {option}")


def checked_folder(value: Any) -> str:
    """A path as text. Raises `UsageError` for anything else, for a URL, and for what a record cannot name."""
    text = os.fspath(value) if isinstance(value, (str, os.PathLike)) else None
    if not isinstance(text, str) or not text:
        raise UsageError(f"folder={value!r}: expected the path of a folder.")
    check_path(text, "folder=")
    if any("\ud800" <= one <= "\udfff" for one in os.path.abspath(text)):
        raise UsageError(f"folder={text!r}: its path is not UTF-8, and a checkpoint's records are. Rename it.")
    if "://" in text:
        raise UsageError(f"folder={text!r}: only local folders are supported; give a path.")
    return text


def _size(option: str, value: Any) -> int | str:
    if isinstance(value, str) and value.strip().isdecimal():
        value = int(value)  # a variable of the environment can only be text
    if parse_size(value) is None:
        raise UsageError(f'{option}={value!r}: expected {SIZES}, as in "4 GiB".')
    found: int | str = value
    return found


def _patterns(option: str, value: Any) -> tuple[str, ...]:
    names = value if isinstance(value, (list, tuple)) else [None]
    if not all(isinstance(one, str) and one for one in names) or (option == "items" and not names):
        raise UsageError(f'{option}={value!r}: expected a list of names of items, such as ["model"].')
    return tuple(names)


def _verify(value: Any) -> Verify:
    if value not in ("digests", "readback"):
        raise UsageError(f'verify={value!r}: expected "digests", or "readback" to read the medium before the commit.')
    return "readback" if value == "readback" else "digests"
