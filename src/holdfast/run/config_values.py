"""What the text of a configuration means: values, and the places where they stand."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable
from pathlib import PurePath
from typing import Any

from holdfast.errors import UsageError
from holdfast.run.config_scanner import Scanner, fits
from holdfast.run.config_text import ConfigText, Place

Read = Callable[[ConfigText], tuple[Any, Place | None]]


def read_values(text: ConfigText) -> tuple[Any, Place | None]:
    r"""The values in ``text``, whose language the ending of its name tells, and their places, where they can be told.

    Of a ``pyproject.toml``, the table ``[tool.holdfast]``. Raises `UsageError` for what cannot be parsed, for keys
    that are given twice, for another ending, and for YAML without PyYAML.

    >>> values, places = read_values(ConfigText("holdfast.json", '{"save":\n ["at end",\n "on error"]}'))
    >>> values, places.at(["save", 1]).line
    ({'save': ['at end', 'on error']}, 3)
    """
    path = PurePath(text.source)
    read = _LANGUAGES.get(path.suffix.lower())
    if read is None:
        raise UsageError(f"{text.source}: the name of a configuration ends in {', '.join(_LANGUAGES)}.")
    try:
        values, places = read(text)
    except RecursionError:
        raise UsageError(f"{text.source}: is nested too deeply to be a configuration.") from None
    return _tool_table(text.source, values, places) if path.name == "pyproject.toml" else (values, places)


def _toml(text: ConfigText) -> tuple[Any, Place | None]:
    try:
        values = tomllib.loads(text.text)
    except ValueError as error:
        message, line, column = _toml_problem(error)
        raise UsageError(f"{text.source}{line}{column}: is no valid TOML: {message}.") from None
    return values, _places(Scanner(text, _toml_key).document, values)


def _toml_problem(error: ValueError) -> tuple[str, str, str]:
    """What is wrong, and where as far as the parser tells."""
    told = re.fullmatch(r"(.*) \(at line (\d+), column (\d+)\)", str(error), re.DOTALL)
    return (str(error), "", "") if told is None else (told[1], f", line {told[2]}", f", column {told[3]}")


def _toml_key(quoted: str) -> str:
    return next(iter(tomllib.loads(f"{quoted} = 0")))


def _json(text: ConfigText) -> tuple[Any, Place | None]:
    try:
        values = json.loads(text.text)
    except json.JSONDecodeError as error:
        raise text.error(error.pos, f"is no valid JSON: {error.msg}.") from None
    except ValueError as error:  # a whole number of thousands of digits
        raise UsageError(f"{text.source}: is no valid JSON: {error}.") from None
    return values, _places(Scanner(text, json.loads).value, values)


def _yaml(text: ConfigText) -> tuple[Any, Place | None]:
    try:
        from holdfast.run.config_yaml import read_yaml
    except ModuleNotFoundError:
        raise UsageError(f"{text.source}: YAML is read by PyYAML: pip install 'holdfast[yaml]'") from None
    return read_yaml(text)


_LANGUAGES: dict[str, Read] = {".toml": _toml, ".yaml": _yaml, ".yml": _yaml, ".json": _json}


def _places(scan: Callable[[], Place], values: Any) -> Place | None:
    """The places of ``values``, or None: an error without a line misleads nobody, one with a wrong line does."""
    try:
        places = scan()
    except LookupError:
        return None
    return places if fits(places, values) else None


def _tool_table(source: str, values: Any, places: Place | None) -> tuple[Any, Place | None]:
    tool = values.get("tool")
    if not isinstance(tool, dict) or "holdfast" not in tool:
        raise UsageError(f"{source}: has no table [tool.holdfast].")
    return tool["holdfast"], places.at(["tool", "holdfast"]) if places is not None else None
