"""YAML, of which a configuration needs little: texts, lists and mappings, written out."""

from __future__ import annotations

from typing import Any

import yaml

from holdfast.run.config_text import ConfigText, Place

_TEXT = "tag:yaml.org,2002:str"
_MERGE = "tag:yaml.org,2002:merge"


def read_yaml(text: ConfigText) -> tuple[Any, Place]:
    r"""The values of a YAML document and their places. An empty one is an empty mapping.

    Raises `UsageError` for what is no YAML, keys that are given twice or are no text, tags, merge keys and aliases.

    >>> values, places = read_yaml(ConfigText("holdfast.yaml", "folder: runs/digits\nsave:\n- at end\n"))
    >>> values, places.at(["save", 0]).line
    ({'folder': 'runs/digits', 'save': ['at end']}, 3)
    """
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        return ({}, Place(1)) if root is None else loader.build(root)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = ", ".join(part for part in (error.context, error.problem) if part)
        raise text.error(mark.index if mark is not None else 0, f"is no valid YAML: {problem}.") from None
    except yaml.reader.ReaderError as error:
        raise text.error(error.position, f"is no valid YAML: {error.reason}.") from None


class _Loader(yaml.SafeLoader):
    """Refuses aliases, by which a small text can stand for more than any memory, and tags, which nothing here needs."""

    def __init__(self, text: ConfigText) -> None:
        super().__init__(text.text)
        self._text = text

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]  # types-PyYAML does not type it
        if isinstance(event, yaml.AliasEvent):
            raise self._error(event, "aliases (*name) are not read here; write the value out.")
        if event.tag is not None:
            raise self._error(event, f"tags ({event.tag}) are not read here; write the value without.")
        return super().compose_node(parent, index)

    def build(self, node: yaml.Node) -> tuple[Any, Place]:
        """The value of ``node``, and its place."""
        place = self._place(node)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, place), place
        if isinstance(node, yaml.SequenceNode):
            return self._sequence(node, place), place
        return self._scalar(node), place

    def _mapping(self, node: yaml.MappingNode, place: Place) -> dict[str, Any]:
        values = {}
        for key, value in node.value:
            name, here = self._key(key), self._place(key)
            if name in place.inner:
                raise self._text.repeated(name, place.inner[name].line, here.line)
            values[name], inside = self.build(value)
            place.inner[name] = Place(here.line, inside.inner)
        return values

    def _sequence(self, node: yaml.SequenceNode, place: Place) -> list[Any]:
        values = []
        for index, element in enumerate(node.value):
            value, place.inner[index] = self.build(element)
            values.append(value)
        return values

    def _key(self, node: yaml.Node) -> str:
        if node.tag == _MERGE:
            raise self._error(node, "merge keys (<<) are not read here; write the values out.")
        if node.tag != _TEXT:
            written = self._text.text[node.start_mark.index : node.end_mark.index]
            raise self._error(node, f"the key {written!r} is no text to YAML; put it in quotes.")
        return str(node.value)

    def _scalar(self, node: yaml.Node) -> Any:
        try:
            return self.construct_object(node)
        except ValueError as error:
            # What looks like a date or a number without being one, such as 2026-99-99, fails only here.
            raise self._error(node, f"{error}; put a text in quotes.") from None

    def _error(self, marked: Any, message: str) -> Exception:
        """An error that points at a node or an event."""
        return self._text.error(marked.start_mark.index, message)

    def _place(self, node: yaml.Node) -> Place:
        # By offset: the line numbers of PyYAML also count characters at which editors begin no line.
        return Place(self._text.line(node.start_mark.index))
