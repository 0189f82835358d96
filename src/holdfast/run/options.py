"""The options of a run and its savers: which of several places says what each one is.

The order is that of `PRECEDENCE`; ``docs/savers.md`` has it as a table.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from holdfast.errors import UsageError
from holdfast.hints import did_you_mean
from holdfast.policies.keep import KeepPolicy
from holdfast.policies.keep_newest import parse_size
from holdfast.policies.save import SavePolicy
from holdfast.policies.written import written
from holdfast.run.configuration import Configuration
from holdfast.run.name_template import NameTemplate
from holdfast.run.saver import DEFAULTS, Saver, checked, given, with_options

PRECEDENCE = ("Saver", "argument", "configuration", "environment", "default")
"""Whose word counts, the first one first; within a configuration, that of a saver's own table."""
PREFIX = "HOLDFAST_"
RUN_OPTIONS = ("folder", "start_from", "arena")
_LISTS = ("items", "exclude")


@dataclass(frozen=True, slots=True)
class Setting:
    """The value of an option, the kind of place that says so, and where that is."""

    value: Any
    place: str
    source: str


@dataclass(frozen=True, slots=True)
class Override:
    """A method that a saver's class has in place of Saver's own, and the policy that it was given all the same."""

    method: Callable[..., object]
    policy: SavePolicy | KeepPolicy | None

    def __str__(self) -> str:
        code = getattr(self.method, "__code__", None)
        place = f" ({os.path.basename(code.co_filename)}:{code.co_firstlineno})" if code is not None else ""
        asked = f", which may ask {written(self.policy)}" if self.policy is not None else ""
        return f"{self.method.__qualname__.rpartition('<locals>.')[2]}{place}{asked}"


def resolve(found: Sequence[Setting]) -> Setting:
    """The setting that counts: that of the place that stands first in `PRECEDENCE`.

    >>> resolve([Setting(3, "environment", "HOLDFAST_KEEP"), Setting(5, "argument", "Run(keep=)")]).value
    5
    """
    return min(found, key=lambda one: PRECEDENCE.index(one.place))


@dataclass(slots=True)
class Options:
    """What a run was given, in all places.

    ``used`` has every option with the setting that counts, ``remarks`` are sentences that the user should hear.
    """

    arguments: Mapping[str, Any]
    configuration: Configuration | None
    environment: Mapping[str, str]
    used: dict[str, Setting] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    def folder(self) -> str:
        """The run's folder. Raises `UsageError` if nobody names one."""
        found = self._outside("folder")
        if not found:
            raise UsageError(
                f"folder: nobody names one. Give it in the configuration, to Run.from_config(), or as {PREFIX}FOLDER."
            )
        self._compare("folder", found)
        return str(self._use("folder", found))

    def start_from(self) -> Any:
        """Where the state comes from at first; None where nobody says."""
        found = self._outside("start_from")
        self._compare("start_from", found)
        return self._use("start_from", [*found, Setting(None, "default", "default")])

    def arena(self) -> int | None:
        """How many bytes the arena may have; None where nobody says."""
        found = self._outside("arena")
        self._compare("arena", found)
        text = self._use("arena", [*found, Setting(None, "default", "default")])
        return None if text is None else parse_size(text)

    def savers(self, given: Sequence[Saver] | None) -> list[Saver]:
        """The savers of the run, each with all of its options: those given, or those of the configuration, or one."""
        self._check_names()
        tables = self.configuration.savers if self.configuration is not None else ()
        if given is None:
            savers = [Saver() for _ in tables or (None,)]
            own = [self._table(index) for index, _ in enumerate(tables)] or [{}]
        else:
            savers = _listed(given)
            own = [_own(index, one) for index, one in enumerate(savers)]
            self._compare_savers(len(savers), len(tables))
        found = [
            with_options(saver, {option: self._of_saver(index, option, own[index]) for option in DEFAULTS})
            for index, saver in enumerate(savers)
        ]
        for index, saver in enumerate(found):
            self._use_overrides(index, saver)
        return found

    def _use_overrides(self, index: int, saver: Saver) -> None:
        """What a class of somebody's own decides by its methods, which ask the policy only if they want to."""
        for option, method in (("save", "should_save"), ("keep", "should_keep")):
            rule, name = getattr(type(saver), method), f"saver[{index}].{option}"
            if rule is not getattr(Saver, method):
                used = self.used[name]
                policy = used.value if used.place != "default" else None
                source = used.source if policy is not None else f"savers[{index}]"
                self.used[name] = Setting(Override(rule, policy), "Saver", source)

    def _compare_savers(self, given: int, described: int) -> None:
        """Tables of savers are not looked at where the script has savers of its own."""
        if described:
            assert self.configuration is not None
            where = self.configuration.where("saver", 0)
            self.remarks.append(
                f"savers: Run(savers=) gives {given}, and that counts; the {described} of the configuration ({where}) "
                "are not used"
            )

    def _of_saver(self, index: int, option: str, own: Mapping[str, Setting]) -> Any:
        found = [own[option]] if option in own else []
        # The folder that is named for the run is not one for all of its savers.
        found += self._outside(option) if option != "folder" else []
        self._compare(option, found, own.get(option))
        return self._use(f"saver[{index}].{option}", [*found, Setting(DEFAULTS[option], "default", "default")])

    def _compare(self, option: str, found: Sequence[Setting], own: Setting | None = None) -> None:
        """Says what is not used although somebody may think so; ``own`` is what the saver itself, or its table, says.

        What the top of a configuration says is there to be overruled by the script. Two places in one script
        contradict each other; a saver's own table looks more particular than the argument that counts before it; and a
        variable is set by somebody who starts the job and cannot see what else there is.
        """
        counts = resolve(found) if found else None
        for other in found:
            in_script = counts is not None and (counts.place, other.place) == ("Saver", "argument")
            surprising = in_script or other is own or other.place == "environment"
            if counts is not None and surprising and other.value != counts.value:
                self.remarks.append(
                    f"{option}: {counts.source} says {shown(counts.value)}, and that counts; "
                    f"{other.source} says {shown(other.value)}, which is not used"
                )

    def _table(self, index: int) -> dict[str, Setting]:
        """What a saver's own table in the configuration says."""
        assert self.configuration is not None
        where, table = self.configuration.where, self.configuration.savers[index]
        return {
            option: _checked(option, value, "configuration", where("saver", index, option))
            for option, value in table.items()
        }

    def _outside(self, option: str) -> list[Setting]:
        """What is said of an option outside of savers."""
        found = []
        if self.arguments.get(option) is not None:
            found.append(_checked(option, self.arguments[option], "argument", f"Run({option}=)"))
        if self.configuration is not None and option in self.configuration.options:
            value, where = self.configuration.options[option], self.configuration.where(option)
            found.append(_checked(option, value, "configuration", where))
        variable = _variable(option)
        if self.environment.get(variable):
            found.append(_checked(option, _parsed(option, self.environment[variable]), "environment", variable))
        return found

    def _use(self, name: str, found: Sequence[Setting]) -> Any:
        self.used[name] = resolve(found)
        return self.used[name].value

    def _check_names(self) -> None:
        known = {_variable(option) for option in (*RUN_OPTIONS, *DEFAULTS)}
        for name in sorted(self.environment.keys() - known):
            hint = did_you_mean(name, known, 0.8) or f" There are {', '.join(sorted(known))}."
            self.remarks.append(f"{name} in the environment means nothing to holdfast.{hint}")


def environment() -> dict[str, str]:
    """The variables that concern holdfast."""
    return {name: value for name, value in os.environ.items() if name.startswith(PREFIX)}


_NOTHING = {
    "folder": "the run's", "start_from": "nothing", "items": "all", "exclude": "nothing", "name": "'step-{step:08d}'",
    "arena": "as large as the state",
}  # fmt: skip
"""What it means that an option is not given."""


def in_words(used: Mapping[str, Setting]) -> dict[str, dict[str, str]]:
    """Settings in words, for the attempt's record and ``holdfast show --config``."""
    return {option: {"value": _described(option, one.value), "source": one.source} for option, one in used.items()}


def _described(option: str, value: Any) -> str:
    return _NOTHING[option.rpartition(".")[2]] if value in (None, ()) else shown(value)


def shown(value: Any) -> str:
    """A value as one would write it in a script."""
    if isinstance(value, NameTemplate):
        return repr(value.text)
    if isinstance(value, Override):
        return str(value)
    return written(value) if isinstance(value, SavePolicy | KeepPolicy) else repr(value)


def _checked(option: str, value: Any, place: str, source: str) -> Setting:
    if option == "start_from":
        return Setting(value, place, source)
    try:
        return Setting(checked(option, value), place, source)
    except UsageError as error:
        # An argument's own name begins the message already.
        raise error if place == "argument" else UsageError(f"{source}: {error}") from None


def _parsed(option: str, text: str) -> Any:
    """Phrases in a variable are separated by semicolons, names by commas."""
    if option in ("save", "keep"):
        return [one.strip() for one in text.split(";") if one.strip()]
    return [one.strip() for one in text.split(",") if one.strip()] if option in _LISTS else text


def _variable(option: str) -> str:
    return f"{PREFIX}{option.upper()}"


def _own(index: int, saver: Saver) -> dict[str, Setting]:
    return {option: Setting(value, "Saver", f"savers[{index}]") for option, value in given(saver).items()}


def _listed(savers: Any) -> list[Saver]:
    found = list(savers) if isinstance(savers, (list, tuple)) else []
    if not found or not all(isinstance(one, Saver) for one in found):
        raise UsageError(f"savers={savers!r}: expected a list of Saver objects, at least one.")
    if len({id(one) for one in found}) < len(found):
        raise UsageError("savers=: the same Saver is in the list twice; make one for each folder.")
    return found
