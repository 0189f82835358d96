"""Policies in words: one phrase for each, the same in every configuration file and at the shell."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from holdfast.errors import UsageError
from holdfast.policies.best import Mode, OnBest
from holdfast.policies.event import AtEnd, AtStart, OnError, OnSignal
from holdfast.policies.interval import At, AtMostEvery, Every
from holdfast.policies.keep import KeepAll, KeepAny, KeepPolicy
from holdfast.policies.keep_marks import KeepBest, KeepEvery
from holdfast.policies.keep_newest import KeepLast, KeepSize, KeepWithin
from holdfast.policies.save import AllOf, AnyOf, SavePolicy
from holdfast.policies.units import COUNTS, SECONDS

Build = Callable[[re.Match[str]], Any]


@dataclass(frozen=True, slots=True)
class Form:
    """A kind of phrase: how it looks, an example of it, and the policy that it stands for."""

    pattern: str
    example: str
    build: Build


_NUMBER = r"(?P<number>\d+(?:\.\d+)?)"
_MODE = r"(?: (?P<mode>min|max))?"


_SINGULAR = {unit: "batch" if unit == "batches" else unit.removesuffix("s") for unit in (*COUNTS, *SECONDS)}
_PLURAL = {singular: unit for unit, singular in _SINGULAR.items()}


def _unit(*units: str) -> str:
    """A unit in the plural or, after a 1, in the singular."""
    return "(?P<unit>" + "|".join(f"{unit}|{_SINGULAR[unit]}" for unit in units) + ")"


def _mode(match: re.Match[str]) -> Mode:
    return "max" if match["mode"] == "max" else "min"


def _number(text: str) -> float:
    return float(text) if "." in text else int(text)


def _interval(kind: Callable[..., Any]) -> Build:
    return lambda match: kind(**{_plural(match["unit"]): _number(match["number"])})


def _plural(unit: str) -> str:
    return _PLURAL.get(unit, unit)


_INTERVAL = rf"{_NUMBER} {_unit(*COUNTS, 'seconds', 'minutes', 'hours')}"
_SAVE = (
    Form(rf"every {_INTERVAL}", "every 200 steps", _interval(Every)),
    Form(rf"every {_NUMBER} ?%", "every 5 %", lambda match: Every(fraction=_number(match["number"]) / 100)),
    Form(rf"at most every {_INTERVAL}", "at most every 5 minutes", _interval(AtMostEvery)),
    Form(rf"at {_unit(*COUNTS)} (?P<points>\d+(?:[ ,]+\d+)*)", "at steps 100 1000",
         lambda match: At(**{_plural(match["unit"]): [int(one) for one in re.findall(r"\d+", match["points"])]})),
    Form("at start", "at start", lambda match: AtStart()),
    Form("at end", "at end", lambda match: AtEnd()),
    Form("on signal", "on signal", lambda match: OnSignal()),
    Form("on error", "on error", lambda match: OnError()),
    Form(rf"on best (?P<metric>\S+){_MODE}(?: by {_NUMBER})?", "on best val_loss min",
         lambda match: OnBest(match["metric"], _mode(match), _number(match["number"] or "0"))),
)  # fmt: skip
_KEEP = (
    Form(r"last (?P<number>\d+)", "last 3", lambda match: KeepLast(int(match["number"]))),
    Form(rf"best (?P<metric>\S+){_MODE}(?: (?P<number>\d+))?", "best val_loss min 2",
         lambda match: KeepBest(match["metric"], int(match["number"] or 1), _mode(match))),
    Form(rf"every {_NUMBER} {_unit('steps', 'epochs', 'hours', 'days')}", "every 24 hours", _interval(KeepEvery)),
    Form(rf"within {_NUMBER} {_unit('minutes', 'hours', 'days')}", "within 6 hours", _interval(KeepWithin)),
    Form(r"size (?P<size>.+)", "size 50 GiB", lambda match: KeepSize(match["size"])),
    Form("all", "all", lambda match: KeepAll()),
)  # fmt: skip


def save_policy(phrases: str | Sequence[str], where: str = "save") -> SavePolicy:
    """The save policy of one phrase or several, any of which is enough; ``&`` in a phrase joins two that both must be.

    Raises `UsageError` that names ``where``, the phrase, and the nearest phrase that exists.

    >>> save_policy(["every 200 steps", "at end"])  # doctest: +ELLIPSIS
    AnyOf(...)
    """
    policies = [_both(one, where) for one in _listed(phrases, where)]
    return policies[0] if len(policies) == 1 else AnyOf(tuple(policies))


def keep_policy(phrases: str | Sequence[str], where: str = "keep") -> KeepPolicy:
    """The keep policy of one phrase or several: what any of them keeps stays. Raises like `save_policy`.

    >>> keep_policy("last 3")
    KeepLast(count=3)
    """
    policies: list[KeepPolicy] = [_parsed(one, _KEEP, where) for one in _listed(phrases, where)]
    return policies[0] if len(policies) == 1 else KeepAny(tuple(policies))


def _both(phrase: str, where: str) -> SavePolicy:
    policies: list[SavePolicy] = [_parsed(one, _SAVE, where) for one in phrase.split("&")]
    return policies[0] if len(policies) == 1 else AllOf(tuple(policies))


def _listed(phrases: object, where: str) -> list[str]:
    given = [phrases] if isinstance(phrases, str) else phrases
    if not isinstance(given, Sequence) or not given or not all(isinstance(one, str) for one in given):
        raise UsageError(f"{where} = {phrases!r}: expected a phrase in quotes, or a list of them.")
    return list(given)


def _parsed(phrase: str, forms: tuple[Form, ...], where: str) -> Any:
    text = " ".join(phrase.split())
    for form in forms:
        match = re.fullmatch(form.pattern, text)
        if match is not None:
            return _built(form, match, phrase, where)
    raise UsageError(f"{where}: {phrase.strip()!r} is no phrase{_wrong_word(text, forms)}. {_nearest(text, forms)}")


def _built(form: Form, match: re.Match[str], phrase: str, where: str) -> Any:
    try:
        return form.build(match)
    except UsageError as error:
        raise UsageError(f"{where}: {phrase.strip()!r}: {error}") from None


def _wrong_word(text: str, forms: tuple[Form, ...]) -> str:
    """Where it stops to look like the phrase that it is nearest to."""
    words, likely = text.split(), _examples(text, forms)[0].split()
    for index, word in enumerate(words):
        if index >= len(likely):
            return f" (at word {index + 1}, {word!r})"
        if word != likely[index] and not (word[0].isdigit() and likely[index][0].isdigit()):
            return f" (at word {index + 1}, {word!r})"
    return " (it ends too early)"


def _nearest(text: str, forms: tuple[Form, ...]) -> str:
    first, *others = _examples(text, forms)
    return f'Did you mean "{first}"? There are also: {", ".join(others)}.'


def _examples(text: str, forms: tuple[Form, ...]) -> list[str]:
    """The examples, the one most like ``text`` first."""

    def likeness(example: str) -> float:
        return difflib.SequenceMatcher(None, text.lower(), example).ratio()

    return sorted((form.example for form in forms), key=likeness, reverse=True)
