"""YAML with the line of everything in it. Needs the extra ``ci``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from runnerctl.errors import ConfigError

__all__ = [
    "YamlError",
    "as_list",
    "as_map",
    "expressions",
    "is_flow",
    "item_line",
    "key_line",
    "load",
    "node_line",
    "text_of",
    "texts",
    "value_line",
]

MAX_BYTES = 1 << 19  # far more than any workflow has
_MAX_TEXTS = 10_000  # aliases can make a small file endless
_EXPRESSION = re.compile(r"\$\{\{(.*?)\}\}", re.DOTALL)


class YamlError(Exception):
    """A file that is no YAML; ``line`` counts from one."""

    def __init__(self, what: str, line: int) -> None:
        super().__init__(what)
        self.what = what
        self.line = line


def load(text: str) -> Any:
    """The document with its lines. Raises YamlError, and ConfigError without ruamel.yaml."""
    try:
        from ruamel.yaml import YAML
        from ruamel.yaml.error import MarkedYAMLError, YAMLError
    except ImportError:
        raise ConfigError(
            "the package ruamel.yaml is not installed", remedy="pip install 'runnerctl[ci]'"
        ) from None
    if len(text) > MAX_BYTES:
        raise YamlError(f"is larger than {MAX_BYTES} bytes", 1)
    reader = YAML(typ="rt")
    reader.preserve_quotes = True
    try:
        return reader.load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = str(error.problem or "is no YAML").split("\n")[0]
        if what.startswith("but ") and error.context:
            what = f"{error.context}, {what}"
        raise YamlError(what, mark.line + 1 if mark else 1) from None
    except RecursionError:
        raise YamlError("is nested too deeply", 1) from None
    except (YAMLError, ValueError, AttributeError, TypeError) as error:
        raise YamlError(str(error).split("\n")[0] or "is no YAML", 1) from None


def as_map(node: Any) -> Mapping[str, Any]:
    """``node`` when it is a mapping, else an empty one."""
    return node if isinstance(node, Mapping) else {}


def as_list(node: Any) -> list[Any]:
    """``node`` as a list: none is empty, a scalar is one item."""
    if node is None:
        return []
    return node if isinstance(node, list) else [node]


def key_line(node: Any, key: str, default: int = 1) -> int:
    """The line, from one, on which ``key`` stands in the mapping ``node``."""
    try:
        return int(node.lc.key(key)[0]) + 1
    except (AttributeError, KeyError, TypeError):
        return node_line(node, default)


def value_line(node: Any, key: str, default: int = 1) -> int:
    """The line of a key's value; of a block scalar the line of its ``|``."""
    try:
        return int(node.lc.value(key)[0]) + 1
    except (AttributeError, KeyError, TypeError):
        return key_line(node, key, default)


def item_line(node: Any, index: int, default: int = 1) -> int:
    """The line of an item of a sequence."""
    try:
        return int(node.lc.item(index)[0]) + 1
    except (AttributeError, KeyError, TypeError, IndexError):
        return node_line(node, default)


def node_line(node: Any, default: int = 1) -> int:
    """The line on which a mapping or sequence begins."""
    line = getattr(getattr(node, "lc", None), "line", None)
    return default if line is None else int(line) + 1


def is_flow(node: Any) -> bool:
    """Whether a node is written in one line with brackets, which line edits leave alone."""
    style = getattr(node, "fa", None)
    return bool(style is not None and style.flow_style())


def text_of(value: Any) -> str:
    """A scalar as text, as the runner hands it on: true and false in lower case; anything else is empty."""
    if value is None or isinstance(value, (Mapping, list, set)):
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


def texts(node: Any) -> Iterator[str]:
    """The texts below a node, keys left out."""
    return islice(_texts(node, 12), _MAX_TEXTS)


def _texts(node: Any, depth: int) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    elif depth and isinstance(node, Mapping):
        for value in node.values():
            yield from _texts(value, depth - 1)
    elif depth and isinstance(node, list):
        for value in node:
            yield from _texts(value, depth - 1)


def expressions(text: str) -> Iterator[tuple[int, str]]:
    """Each ``${{ ... }}`` of a text: the line within it, from zero, and what stands inside."""
    for match in _EXPRESSION.finditer(text):
        yield text.count("\n", 0, match.start()), match[1].strip()
