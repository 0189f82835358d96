"""What a file or a dict says about a run and its savers, and where it says so."""

from __future__ import annotations

import os
import re
import reprlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from holdfast.errors import UsageError
from holdfast.hints import did_you_mean
from holdfast.policies.phrases import keep_policy, save_policy
from holdfast.run.config_text import Place, read_text
from holdfast.run.config_values import read_values
from holdfast.run.saver import DEFAULTS, checked

Where = Callable[..., str]
"""The name of a place, from keys and indices that lead there from the value that is checked."""
Parse = Callable[..., object]

IN_MEMORY = "the configuration"
"""What errors call one that is no file."""
SAVERS = "saver"
_RUN_KEYS = ("folder", "start_from", "arena", *(option for option in DEFAULTS if option != "folder"), SAVERS)


@dataclass(frozen=True, slots=True)
class Configuration:
    """Options of a run and its savers, each checked by itself, with the values as they were written.

    ``options`` are those at the top: ``folder``, ``start_from``, and what counts for every saver that says nothing
    else. ``savers`` has a table for each ``[[saver]]``. A relative ``folder`` is relative to the current directory, as
    everywhere, not to the file.
    """

    source: str
    options: Mapping[str, Any]
    savers: tuple[Mapping[str, Any], ...]
    places: Place | None = field(default=None, repr=False, compare=False)

    def where(self, *path: str | int) -> str:
        """The name for errors of what stands at ``path``, with its line where that is known: an entry's is its key's.

        >>> read_configuration({"saver": [{"keep": ["all"]}]}).where("saver", 0, "keep", 0)
        'the configuration: saver[0].keep[0]'
        """
        return _where(self.source, self.places, *path)


def read_configuration(source: str | os.PathLike[str] | Mapping[str, Any]) -> Configuration:
    r"""The configuration in a ``.toml``, ``.yaml``, ``.yml`` or ``.json`` file, or in a mapping.

    In ``pyproject.toml`` it is the table ``[tool.holdfast]``. YAML needs PyYAML, ``pip install 'holdfast[yaml]'``, and
    is read without tags, aliases and merge keys.

    Raises `NotFoundError` if there is no such file, and `UsageError`, which names the file, line and key, for what
    cannot be parsed, unknown keys, keys given twice, values that mean nothing, and phrases that are none. What depends
    on the run (its items, its metrics) is not checked.

    >>> with open("holdfast.toml", "w") as file:
    ...     _ = file.write('folder = "runs/digits"\n[[saver]]\nsave = ["at end",\n  "on error"]\n')
    >>> configuration = read_configuration("holdfast.toml")
    >>> configuration.options, configuration.savers
    ({'folder': 'runs/digits'}, ({'save': ['at end', 'on error']},))
    >>> configuration.where("saver", 0, "save", 1)
    'holdfast.toml, line 4: saver[0].save[1]'
    """
    if isinstance(source, Mapping):
        return _checked_configuration(IN_MEMORY, source, None)
    if not isinstance(source, (str, os.PathLike)):
        raise UsageError(f"{source!r}: expected the path of a configuration, or a dict.")
    text = read_text(source)
    return _checked_configuration(text.source, *read_values(text))


def _checked_configuration(source: str, values: Any, places: Place | None) -> Configuration:
    where = partial(_where, source, places)
    table = _table(_with_list(values, places), _RUN_KEYS, where)
    options = {key: _value(key, value, partial(where, key)) for key, value in table.items() if key != SAVERS}
    return Configuration(source, options, _savers(table.get(SAVERS, []), partial(where, SAVERS)), places)


def _with_list(values: Any, places: Place | None) -> Any:
    """A single table of a saver counts as a list of one."""
    if not isinstance(values, Mapping) or not isinstance(values.get(SAVERS), Mapping):
        return values
    if places is not None:
        place = places.inner[SAVERS]
        places.inner[SAVERS] = Place(place.line, {0: place})
    return {**values, SAVERS: [values[SAVERS]]}


def _savers(values: Any, where: Where) -> tuple[Mapping[str, Any], ...]:
    if not isinstance(values, (list, tuple)):
        raise UsageError(f"{where()}: expected a table for each saver, not {_shown(values)}.")
    return tuple(_saver(one, partial(where, index)) for index, one in enumerate(values))


def _saver(values: Any, where: Where) -> dict[str, Any]:
    table = _table(values, tuple(DEFAULTS), where)
    return {key: _value(key, value, partial(where, key)) for key, value in table.items()}


def _table(values: Any, keys: Collection[str], where: Where) -> Mapping[str, Any]:
    if not isinstance(values, Mapping):
        raise UsageError(f"{where()}: expected a table of {', '.join(keys)}, not {_shown(values)}.")
    for key in values:
        if key not in keys:
            raise UsageError(
                f"{where(key)}: there is no such key.{did_you_mean(str(key), keys)} There are: {', '.join(keys)}."
            )
    return values


def _value(key: str, value: Any, where: Where) -> Any:
    """``value``, checked, in lists and dicts of its own."""
    match key:
        case "save":
            _check_phrases(value, save_policy, "every 200 steps", where)
        case "keep":
            _check_phrases(value, keep_policy, "last 3", where)
        case "start_from":
            _check_start(value, where)
        case _:
            _check_option(key, value, where)
    return _copied(value)


def _check_phrases(value: Any, parse: Parse, example: str, where: Where) -> None:
    if not isinstance(value, (list, tuple)) or not value:
        _check_phrase(value, parse, example, where())
        return
    for index, phrase in enumerate(value):
        _check_phrase(phrase, parse, example, where(index))


def _check_phrase(phrase: Any, parse: Parse, example: str, where: str) -> None:
    if not isinstance(phrase, str):
        raise UsageError(
            f'{where}: expected a phrase in quotes, such as "{example}", not {_shown(phrase)}.{_hint(phrase, where)}'
        )
    parse(phrase, where=where)


def _check_start(value: Any, where: Where) -> None:
    if not isinstance(value, Mapping):
        _check_path(value, where())
    elif not value:
        raise UsageError(f"{where()}: the table is empty; name an item and a checkpoint for it, or leave it out.")
    else:
        for item, one in value.items():
            _check_stored(one, where(item))


def _check_stored(value: Any, where: str) -> None:
    """A path, or a path and the name of an item in it."""
    if not isinstance(value, (list, tuple)):
        _check_path(value, where)
    elif len(value) != 2 or not all(isinstance(one, str) and one for one in value):
        raise UsageError(f"{where}: expected a path, or a path and the name of an item in it, not {_shown(value)}.")


def _check_path(value: Any, where: str) -> None:
    if not isinstance(value, (str, os.PathLike)) or not os.fspath(value):
        raise UsageError(
            f"{where}: expected the path of a run folder or of a checkpoint, not {_shown(value)}.{_hint(value, where)}"
        )


def _check_option(option: str, value: Any, where: Where) -> None:
    try:
        checked(option, value)
    except ValueError as error:  # a UsageError is one too, and so is that of a number too long to be shown
        raise UsageError(f"{where()}: {error}{_hint(value, where())}") from None


def _shown(value: Any) -> str:
    """A value in an error, which a whole file in the wrong place must not flood."""
    try:
        return reprlib.repr(value)
    except ValueError:  # what Python reads in hexadecimal it may refuse to write in decimals
        return "a number of thousands of digits"


def _hint(value: Any, where: str) -> str:
    if isinstance(value, bool) and re.search(r"\.ya?ml[,:]", where):
        return " In YAML, yes, no, on and off are booleans unless in quotes."
    return ""


def _copied(value: Any) -> Any:
    """So that a dict that its owner changes later changes nothing here."""
    if isinstance(value, Mapping):
        return {key: _copied(one) for key, one in value.items()}
    return [_copied(one) for one in value] if isinstance(value, (list, tuple)) else value


def _where(source: str, places: Place | None, *path: str | int) -> str:
    place = places.at(path) if places is not None and path else None
    line = f", line {place.line}" if place is not None else ""
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    name = "".join(parts).removeprefix(".")
    return f"{source}{line}: {name}" if name else source
