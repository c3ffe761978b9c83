"""YAML as nodes that know their line. Nothing is constructed, and how much is read is bounded."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from runnerctl.errors import ConfigError, DataError

if TYPE_CHECKING:
    from yaml.nodes import MappingNode, Node, SequenceNode

__all__ = ["MAX_BYTES", "Source", "kind_of"]

MAX_BYTES = 1 << 20
MAX_EVENTS = 50_000
MAX_DEPTH = 16  # libyaml composes by recursion; an environment.yml has three levels
_TAB = re.compile(r"^ *\t[ \t]*[^\s#]", re.MULTILINE)
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
_STANDARD = "tag:yaml.org,2002:"


class Source:
    """One YAML text. Whatever is wrong with it is a DataError with its line."""

    def __init__(self, text: str, where: str) -> None:
        self.text = text
        self.where = where

    def error(self, line: int, what: str, remedy: str) -> DataError:
        """What is wrong on ``line``, counted from one."""
        return DataError(what, where=f"{self.where}:{line}", remedy=remedy)

    def root(self) -> MappingNode:
        """The mapping that the text is. Raises DataError; ConfigError where PyYAML is missing."""
        try:
            import yaml
        except ImportError:
            remedy = "run pip install 'runnerctl[env]'"
            raise ConfigError("PyYAML is missing", where="environments", remedy=remedy) from None
        self._refuse_text()
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        try:
            self._refuse_depth(yaml.parse(self.text, Loader=loader))
            node = yaml.compose(self.text, Loader=loader)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            what = " ".join(part for part in (error.problem, error.context) if part)
            raise self.error(
                mark.line + 1 if mark else 1, f"is not YAML: {what}", "correct the line"
            ) from None
        except yaml.YAMLError:
            raise self.error(
                1, "is not YAML: a character that no YAML file has", "save it as UTF-8"
            ) from None
        if node is None:
            raise self.error(1, "is empty", "name channels and dependencies")
        return self.mapping(node, "the file")

    def _refuse_text(self) -> None:
        if len(self.text) > MAX_BYTES or len(self.text.encode(errors="replace")) > MAX_BYTES:
            raise self.error(1, f"is larger than {MAX_BYTES} bytes", "an environment.yml is a short text")
        tab = _TAB.search(self.text)
        if tab:
            line = self.text.count("\n", 0, tab.start()) + 1
            raise self.error(line, "is indented with a tab, which YAML forbids", "use spaces")
        control = _CONTROL.search(self.text)
        if control:
            line = self.text.count("\n", 0, control.start()) + 1
            raise self.error(line, "has a control character", "remove it")

    def _refuse_depth(self, events: Iterator[object]) -> None:
        depth = 0
        for count, event in enumerate(events):
            kind = type(event).__name__
            depth += kind.endswith("StartEvent") - kind.endswith("EndEvent")
            if depth > MAX_DEPTH or count > MAX_EVENTS:
                line = event.start_mark.line + 1  # type: ignore[attr-defined]  # types-PyYAML leaves it out
                raise self.error(line, "is nested too deep or too long", "an environment.yml is a short list")

    def mapping(self, node: Node, what: str) -> MappingNode:
        """``node`` as a mapping."""
        from yaml.nodes import MappingNode

        if not isinstance(node, MappingNode):
            raise self.error(line_of(node), f"{what} is {kind_of(node)}, not a mapping", "write key: value")
        return node

    def sequence(self, node: Node, what: str) -> SequenceNode:
        """``node`` as a list."""
        from yaml.nodes import SequenceNode

        if not isinstance(node, SequenceNode):
            raise self.error(
                line_of(node), f"{what} is {kind_of(node)}, not a list", "write one `- item` a line"
            )
        return node

    def pairs(self, node: MappingNode, what: str) -> Iterator[tuple[str, int, Node]]:
        """Key, its line, and value, in order. A key that stands there twice is an error."""
        seen: dict[str, int] = {}
        for key, value in node.value:
            name, line = self.text_of(key, f"a key of {what}"), line_of(key)
            if name in seen:
                there = f"it stands on line {seen[name]} already"
                raise self.error(line, f"{what} has the key {name!r} twice", f"{there}; keep one")
            seen[name] = line
            yield name, line, value

    def text_of(self, node: Node, what: str) -> str:
        """``node`` as a string; numbers and the like must be quoted."""
        found = kind_of(node)
        if found == "a string":
            return str(node.value)
        if found in ("a number", "a date", "true or false"):
            remedy = f'write "{node.value}" in quotes, or the name it belongs to'
            raise self.error(line_of(node), f"{what} is {found} to YAML: {node.value}", remedy)
        raise self.error(line_of(node), f"{what} is {found}, not a string", "write text")

    def plain_of(self, node: Node, what: str) -> str:
        """``node`` as it is written: a string, a number, true or false."""
        found = kind_of(node)
        if found in ("a string", "a number", "a date", "true or false"):
            return str(node.value)
        raise self.error(line_of(node), f"{what} is {found}, not a value", "write text or a number")


def line_of(node: Node) -> int:
    """The line on which ``node`` begins, counted from one."""
    return int(node.start_mark.line) + 1


def kind_of(node: Node) -> str:
    """What ``node`` is, for people."""
    from yaml.nodes import MappingNode, SequenceNode

    if isinstance(node, MappingNode):
        return "a mapping"
    if isinstance(node, SequenceNode):
        return "a list"
    kinds = {"str": "a string", "int": "a number", "float": "a number", "bool": "true or false"}
    kinds |= {"null": "empty", "timestamp": "a date", "merge": "a merge key", "value": "a string"}
    return kinds.get(node.tag.removeprefix(_STANDARD), f"tagged {node.tag[:40]!r}")
