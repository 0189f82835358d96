"""Policies in words: one phrase for each, the same in every configuration file and at the shell."""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from holdfast.errors import UsageError
from holdfast.policies.best import Mode, OnBest
from holdfast.policies.deadline import BeforeDeadline
from holdfast.policies.event import AtEnd, AtStart, OnError, OnSignal
from holdfast.policies.interval import At, AtMostEvery, Every
from holdfast.policies.keep import KeepAll, KeepPolicy, as_keep_policy, keep_any
from holdfast.policies.keep import Rule as KeepRule
from holdfast.policies.keep_marks import KeepBest, KeepEvery
from holdfast.policies.keep_newest import KeepLast, KeepSize, KeepWithin
from holdfast.policies.overhead import Overhead
from holdfast.policies.save import AllOf, SavePolicy, any_of, as_policy
from holdfast.policies.save import Rule as SaveRule
from holdfast.policies.units import ABBREVIATED, COUNTS, SECONDS, SINGULAR

SaveOption = SavePolicy | SaveRule | str | Sequence[SavePolicy | SaveRule | str]
KeepOption = KeepPolicy | KeepRule | str | Sequence[KeepPolicy | KeepRule | str]
"""A policy, a callable in place of one, a phrase as in a configuration file, or a list of these."""
_SAVE_OPTION = (
    'a SavePolicy such as Every(steps=200), a phrase such as "every 200 steps", a callable that takes a Moment'
)
_KEEP_OPTION = 'a KeepPolicy such as KeepLast(3), a phrase such as "last 3", a callable that takes the checkpoints'

Build = Callable[[re.Match[str]], Any]


@dataclass(frozen=True, slots=True)
class Form:
    """A kind of phrase: how it looks, examples of it, the plainest first, and the policy that it stands for."""

    pattern: str
    examples: tuple[str, ...]
    build: Build


_NUMBER = r"(?P<number>\d+(?:\.\d+)?)"
_MODE = r"(?: (?P<mode>min|max))?"
_STOP = "(?P<stop> and stop)?"
_SLOPPY = re.compile(
    r"(?<!\S)(?P<before>every|within|after|leaving|last) ?"
    r"(?P<number>\d{1,3}(?:[,_]\d{3})+|\d{1,15}(?:\.\d+)?(?:e\d)?)(?![\d,.])"
    r"(?:(?P<factor>[km])(?= [a-z]))? ?(?P<unit>[a-z]*)",
    re.IGNORECASE,
)
"""A number and perhaps a unit that are no part of a phrase as they are."""
_NAMES = ("val_loss", "/run/preempt")
"""Words of examples in whose place any other may stand."""


_PLURAL = {singular: unit for unit, singular in SINGULAR.items()}


def _unit(*units: str) -> str:
    """A unit in the plural or, after a 1, in the singular."""
    return "(?P<unit>" + "|".join(f"{unit}|{SINGULAR[unit]}" for unit in units) + ")"


def _mode(match: re.Match[str]) -> Mode:
    return "max" if (match["mode"] or "").lower() == "max" else "min"


def _number(text: str) -> float:
    return float(text) if "." in text else int(text)


def _interval(kind: Callable[..., Any]) -> Build:
    return lambda match: kind(**{_plural(match["unit"] or match["one"]): _number(match["number"] or "1")})


def _plural(unit: str) -> str:
    return _PLURAL.get(unit.lower(), unit.lower())


def _duration(match: re.Match[str]) -> float | None:
    """The number and unit of a phrase that may leave both out, in seconds."""
    return _number(match["number"]) * SECONDS[_plural(match["unit"])] if match["unit"] else None


def _before(match: re.Match[str], **source: Any) -> BeforeDeadline:
    if match["margin"]:
        source["margin"] = _number(match["margin"]) * SECONDS[_plural(match["margin_unit"])]
    return BeforeDeadline(stop=bool(match["stop"]), **source)


def _overhead(match: re.Match[str]) -> Overhead:
    return Overhead(_number(match["percent"]) / 100, _duration(match))


def _on_signal(match: re.Match[str]) -> OnSignal:
    code = int(match["code"]) if match["code"] else None
    return OnSignal(exit_code=code, requeue=bool(match["requeue"]), grace=_duration(match))


def _within(match: re.Match[str]) -> KeepWithin:
    return KeepWithin(**{_plural(match["unit"]): _number(match["number"])})


def _before_notice(match: re.Match[str]) -> BeforeDeadline:
    given: dict[str, Any] = {"grace": _duration(match)} if match["unit"] else {}
    return _before(match, notice=match["path"], **given)


def _so_many(*units: str) -> str:
    """A number of a unit, or a single one by its name alone."""
    return rf"(?:{_NUMBER} {_unit(*units)}|(?P<one>{'|'.join(SINGULAR[unit] for unit in units)}))"


_INTERVAL = _so_many(*COUNTS, *SECONDS)
_MARK = _so_many("steps", "batches", "epochs", "minutes", "hours", "days")
_DURATION = rf"{_NUMBER} {_unit(*SECONDS)}"
_MARGIN = "(?: leaving " + _DURATION.replace("<unit>", "<margin_unit>").replace("<number>", "<margin>") + ")?"
_SAVE = (
    Form(rf"every {_INTERVAL}", ("every 200 steps",), _interval(Every)),
    Form(rf"every {_NUMBER} ?%", ("every 5 %",), lambda match: Every(fraction=_number(match["number"]) / 100)),
    Form(rf"at most every {_INTERVAL}", ("at most every 5 minutes",), _interval(AtMostEvery)),
    Form(rf"at {_unit(*COUNTS)} (?P<points>\d+(?:[ ,]+\d+)*)", ("at steps 100 1000",),
         lambda match: At(**{_plural(match["unit"]): [int(one) for one in re.findall(r"\d+", match["points"])]})),
    Form(rf"overhead (?P<percent>\d+(?:\.\d+)?) ?%(?: with a failure every {_DURATION})?",
         ("overhead 1 %", "overhead 1 % with a failure every 6 hours"), _overhead),
    Form("at start", ("at start",), lambda match: AtStart()),
    Form("at end", ("at end",), lambda match: AtEnd()),
    Form(rf"on signal(?: exit (?P<code>\d+))?(?P<requeue> requeue)?(?: kill after {_DURATION})?",
         ("on signal", "on signal exit 75 requeue kill after 30 seconds"), _on_signal),
    Form("on error", ("on error",), lambda match: OnError()),
    Form(rf"on best (?P<metric>\S+){_MODE}(?: by {_NUMBER})?",
         ("on best val_loss min", "on best val_loss min by 0.01", "on best val_loss max by 0.5"),
         lambda match: OnBest(match["metric"], mode=_mode(match), improvement=_number(match["number"] or "0"))),
    Form(rf"before slurm ends{_MARGIN}{_STOP}",
         ("before slurm ends", "before slurm ends and stop", "before slurm ends leaving 60 seconds and stop"),
         lambda match: _before(match, slurm=True)),
    Form(rf"before (?P<at>\d\S*(?: \d\S*)?){_MARGIN}{_STOP}",
         ("before 2026-11-26T08:00Z", "before 2026-11-26T08:00Z and stop"),
         lambda match: _before(match, at=match["at"])),
    Form(rf"before notice (?P<path>\S+)(?: within {_DURATION})?{_MARGIN}{_STOP}",
         ("before notice /run/preempt", "before notice /run/preempt within 30 seconds and stop"), _before_notice),
)  # fmt: skip
_KEEP = (
    Form(r"last (?P<number>\d+)", ("last 3",), lambda match: KeepLast(int(match["number"]))),
    Form(rf"best (?P<metric>\S+){_MODE}(?: (?P<number>\d+))?", ("best val_loss min 2",),
         lambda match: KeepBest(match["metric"], int(match["number"] or 1), mode=_mode(match))),
    Form(rf"every {_MARK}", ("every 24 hours",), _interval(KeepEvery)),
    Form(rf"within {_NUMBER} {_unit('minutes', 'hours', 'days')}", ("within 6 hours",), _within),
    Form(r"size (?P<size>.+)", ("size 50 GiB",), lambda match: KeepSize(match["size"])),
    Form("all", ("all",), lambda match: KeepAll()),
)  # fmt: skip


_JOINED = "; two phrases are joined by '|'"


def save_policy(given: SaveOption, where: str = "save") -> SavePolicy:
    """The save policy that a phrase, a policy or a callable stands for, or any of a list of them.

    In a phrase ``|`` joins two of which one is enough, and ``&``, which binds tighter, two that both have to be due.

    Raises `UsageError` that names ``where``, the phrase, and the nearest phrase that exists.

    >>> save_policy(["every 200 steps", "at end"])
    Every(steps=200) | AtEnd()
    """
    policies = [
        _save_phrase(one, where) if isinstance(one, str) else as_policy(one) or _refuse(name, one, _SAVE_OPTION)
        for name, one in _listed(given, where, _SAVE_OPTION)
    ]
    return any_of(policies)


def keep_policy(given: KeepOption, where: str = "keep") -> KeepPolicy:
    """The keep policy that the same stands for: what any of a list or of a phrase with ``|`` keeps stays.

    Raises like `save_policy`.

    >>> keep_policy("last 3")
    KeepLast(count=3)
    """
    policies = [
        _keep_phrase(one, where) if isinstance(one, str) else as_keep_policy(one) or _refuse(name, one, _KEEP_OPTION)
        for name, one in _listed(given, where, _KEEP_OPTION)
    ]
    return keep_any(policies)


def _save_phrase(phrase: str, where: str) -> SavePolicy:
    return any_of([_both(one, where) for one in _split(phrase, "|", where)])


def _both(phrase: str, where: str) -> SavePolicy:
    policies: list[SavePolicy] = [_parsed(one, _SAVE, where) for one in _split(phrase, "&", where)]
    return policies[0] if len(policies) == 1 else AllOf(tuple(policies))


def _keep_phrase(phrase: str, where: str) -> KeepPolicy:
    return keep_any([_parsed(one, _KEEP, where) for one in _split(phrase, "|", where)])


def _split(phrase: str, sign: str, where: str) -> list[str]:
    """The phrases that ``sign`` joins. Raises `UsageError` if one of them is missing."""
    found = phrase.split(sign)
    if not all(one.strip() for one in found):
        problem = "is empty" if len(found) == 1 else f"has no phrase on one side of {sign!r}"
        raise UsageError(f"{where}: {phrase.strip()!r} {problem}.")
    return found


def _listed(given: object, where: str, expected: str) -> list[tuple[str, Any]]:
    """Each entry of a list, or what is no list, with its name."""
    if not isinstance(given, list | tuple):
        return [(where, given)]
    if not given:
        _refuse(where, given, expected)
    return [(f"{where}[{index}]", one) for index, one in enumerate(given)]


def _refuse(name: str, value: object, expected: str) -> NoReturn:
    raise UsageError(f"{name}={value!r}: expected {expected}, or a list of these.")


def _parsed(phrase: str, forms: tuple[Form, ...], where: str) -> Any:
    text = " ".join(phrase.split())
    found = _match(text, forms)
    if found is not None:
        return _built(*found, phrase, where)
    raise UsageError(f"{where}: {phrase.strip()!r} is no phrase{_wrong_word(text, forms)}. {_nearest(text, forms)}")


def _match(text: str, forms: tuple[Form, ...]) -> tuple[Form, re.Match[str]] | None:
    matches = ((form, re.fullmatch(form.pattern, text, re.IGNORECASE)) for form in forms)
    return next(((form, match) for form, match in matches if match is not None), None)


def _built(form: Form, match: re.Match[str], phrase: str, where: str) -> Any:
    try:
        return form.build(match)
    except UsageError as error:
        raise UsageError(f"{where}: {phrase.strip()!r}: {error}") from None


def _wrong_word(text: str, forms: tuple[Form, ...]) -> str:
    """Where it stops to look like the phrase that it is nearest to."""
    words, right = text.split(), _right_words(text, _nearest_first(text, forms)[0])
    if right == len(words):
        return " (it ends too early)"
    joined = words[right].lower() in ("or", "and", "&")
    return f" (at word {right + 1}, {words[right]!r}{_JOINED if joined else ''})"


def _right_words(text: str, example: str) -> int:
    """How many words at the beginning could be those of ``example``."""
    pairs = zip(text.split(), example.split(), strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: _alike(*pair), pairs))


def _alike(word: str, expected: str) -> bool:
    number = r"\d+(?:\.\d+)?%?" if expected.isdigit() else r"\d.*"
    either = expected in _NAMES or (expected[0].isdigit() and re.fullmatch(number, word) is not None)
    return either or word.lower() == expected.lower()


def _nearest(text: str, forms: tuple[Form, ...]) -> str:
    several = [one for one in re.split(r"\s*[;,]\s*", text) if one]
    if len(several) > 1 and all(_match(one, forms) for one in several):
        return f'Did you mean "{" | ".join(several)}"?'
    others = _KEEP if forms is _SAVE else _SAVE
    if _match(text, others):
        return f"It is one of {'keep' if others is _KEEP else 'save'}=."
    repaired = _SLOPPY.sub(_tidy, text)
    if _match(repaired, forms) is not None:
        return f'Did you mean "{repaired}"?'
    first, *_ = _nearest_first(text, forms)
    rest = [form.examples[0] for form in forms if first not in form.examples]
    return f'Did you mean "{first}"? There are also: {", ".join(rest)}.'


def _tidy(match: re.Match[str]) -> str:
    """The same in words of the grammar, as far as one can tell what was meant."""
    value = float(re.sub("[,_]", "", match["number"])) * {"k": 1e3, "m": 1e6}.get((match["factor"] or "").lower(), 1)
    number = str(int(value)) if value.is_integer() else f"{value:g}"
    return " ".join(filter(None, (match["before"].lower(), number, _meant(match["unit"].lower()))))


def _meant(word: str) -> str:
    if word in _PLURAL or word in ABBREVIATED:
        return ABBREVIATED.get(word, word)  # no phrase has these themselves: m is a million too
    near = difflib.get_close_matches(word, SINGULAR, 1, 0.75)
    return near[0] if near else word


def _nearest_first(text: str, forms: Sequence[Form]) -> list[str]:
    """All examples, the one most like ``text`` first."""

    def likeness(example: str) -> tuple[int, float]:
        return _right_words(text, example), difflib.SequenceMatcher(None, text.lower(), example).ratio()

    return sorted((example for form in forms for example in form.examples), key=likeness, reverse=True)
