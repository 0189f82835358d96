"""How checkpoints are named: a template for the part of a directory's name that is for people."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from holdfast.errors import UsageError
from holdfast.format.names import HASH, is_label, unhashed
from holdfast.hints import did_you_mean
from holdfast.types import Progress

_COUNTS = ("epoch", "batch", "step", "samples", "tokens", "batches", "attempt", "ordinal")
FIELDS = (*_COUNTS, "elapsed", "time", "run", "hash")
"""Fields that are no metrics."""
_TIME = "%Y%m%dT%H%M%SZ"
_LITERAL = re.compile(r"[A-Za-z0-9._=+,-]*")
_FOREIGN = re.compile(r"[^A-Za-z0-9._=+,-]")
_LONGEST = 150
_RESERVED = ".partial-"
"""What marks the directory of a save that is not committed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Naming:
    """What a name may tell of a checkpoint; ``created`` in UTC."""

    progress: Progress
    metrics: Mapping[str, Any]
    attempt: int
    ordinal: int
    created: datetime
    run: str


class NameTemplate:
    """The label of a checkpoint's name, such as ``"epoch-{epoch:03d}-{val_loss:.3f}"``; ``.a0001.n0003`` follows.

    Fields are those of the progress (``epoch``, ``batch``, ``step``, ``samples``, ``tokens``, ``batches`` and
    ``elapsed``), ``attempt``, ``ordinal``, ``time`` (UTC, with a format of `strftime`), ``run``, ``hash`` (of the
    content), and everything else is a metric by the name that it is logged under. One that has not been logged is
    ``no-val_loss``.

    Raises `UsageError` for what cannot become a directory's name.

    >>> template = NameTemplate("epoch-{epoch:03d}-{val_loss:.2f}-{hash}")
    >>> naming = Naming(progress=Progress(epoch=2), metrics={"val_loss": 0.5}, attempt=1, ordinal=1,
    ...                 created=datetime(2026, 11, 25, tzinfo=UTC), run="7f3a")
    >>> template.label(naming), template.metrics
    ('epoch-002-0.50-{hash}', ('val_loss',))
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self._parts = _parsed(text)
        self.metrics = tuple(dict.fromkeys(name for _, name, _ in self._parts if name and name not in FIELDS))
        self._check()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NameTemplate) and other.text == self.text

    def __hash__(self) -> int:
        return hash(self.text)

    def label(self, naming: Naming) -> str:
        """The label of one checkpoint, with ``{hash}`` where the content hash will stand."""
        values = _values(naming)
        shown = (literal + self._shown(name, spec, values) for literal, name, spec in self._parts)
        label = "".join(shown)
        if len(unhashed(label)) <= _LONGEST:
            return label
        return label.replace(HASH, "")[:_LONGEST].lstrip("._=+,-") or "checkpoint"

    def _shown(self, name: str | None, spec: str, values: Mapping[str, Any]) -> str:
        if name is None or name == "hash":
            return "" if name is None else HASH
        if name in values:
            return _FOREIGN.sub("_", _formatted(name, spec, values))
        return _FOREIGN.sub("_", f"no-{name}")

    def _check(self) -> None:
        first_literal, first_name, _ = self._parts[0]
        for literal, name, spec in self._parts:
            if not _LITERAL.fullmatch(literal) or name == "" or (name == "hash" and spec):
                raise self._refusal(repr(literal) if literal else f"{{{name}:{spec}}}")
        if not (first_literal[:1].isalnum() or (not first_literal and first_name in FIELDS)):
            raise self._refusal("its beginning")
        if sum(len(literal) for literal, _, _ in self._parts) > _LONGEST // 2:
            raise self._refusal("so much text")
        example, raw = self._example()
        if len(raw) > _LONGEST or _FOREIGN.search(raw):
            raise self._refusal(f"what becomes of it, such as {raw!r},")
        if not is_label(unhashed(example)) or _RESERVED in example:
            raise self._refusal(f"what becomes of it, such as {example!r}")

    def _example(self) -> tuple[str, str]:
        """The label of a checkpoint, and what the formats make before anything foreign is replaced in it."""
        metrics = dict.fromkeys(self.metrics, 0.5)
        moment = datetime(2026, 11, 25, tzinfo=UTC)
        naming = Naming(progress=Progress(), metrics=metrics, attempt=1, ordinal=1, created=moment, run="0" * 32)
        try:
            values = _values(naming)
            own = [(name, spec) for _, name, spec in self._parts if name in FIELDS and name != "hash"]
            raw = "".join(_formatted(name, spec, values) for name, spec in own)
            return self.label(naming), raw
        except (ValueError, TypeError) as error:
            meant = "".join(did_you_mean(one, FIELDS, 0.75) for one in self.metrics)
            raise self._refusal(f"a format in it ({error})", meant) from error

    def _refusal(self, what: str, hint: str = "") -> UsageError:
        return UsageError(
            f"name={self.text!r}: {what} cannot stand in a directory's name.{hint} Use letters, digits and . _ = + , - "
            "that begin with a letter, a digit or a field that is no metric, and fields such as {epoch:03d} or "
            "{val_loss:.3f}."
        )


def _parsed(text: Any) -> list[tuple[str, str | None, str]]:
    """Pieces of a template: the text before a field, the field's name, its format."""
    try:
        pieces = list(string.Formatter().parse(text))
    except (ValueError, TypeError) as error:
        raise UsageError(f"name={text!r}: is no template: {error}. Write fields as {{epoch:03d}}.") from error
    if not pieces:
        raise UsageError(f"name={text!r}: is empty; write a template such as 'epoch-{{epoch:03d}}'.")
    if any(conversion for *_, conversion in pieces):
        raise UsageError(
            f"name={text!r}: conversions such as {{epoch!r}} mean nothing here; use a format: {{epoch:03d}}."
        )
    return [(literal, name, spec or "") for literal, name, spec, _ in pieces]


def _formatted(name: str, spec: str, values: Mapping[str, Any]) -> str:
    return format(values[name], spec or (_TIME if name == "time" else ""))


def _values(naming: Naming) -> dict[str, Any]:
    progress = {name: getattr(naming.progress, name) for name in naming.progress.__struct_fields__}
    own = {"attempt": naming.attempt, "ordinal": naming.ordinal, "time": naming.created, "run": naming.run}
    return {**naming.metrics, **progress, **own}
