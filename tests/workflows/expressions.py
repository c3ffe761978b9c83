"""GitHub's expressions, as far as workflows of ours use them. Standard library only: it runs on hosts, too.

Rules: docs.github.com, "Evaluate expressions in workflows and actions". What is not known here is an error.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

__all__ = ["Expressions"]

_TOKEN = re.compile(r"\s*(?:(\d+(?:\.\d+)?)|('(?:[^']|'')*')|([A-Za-z_][\w-]*)|(==|!=|&&|\|\||[!().,\[\]]))")
_HOLE = re.compile(r"\$\{\{(.*?)\}\}", re.DOTALL)
_WORDS: dict[str, Any] = {"true": True, "false": False, "null": None}


class Expressions:
    """Evaluates within ``contexts``; ``status`` says how the job stands: success, failure or cancelled."""

    def __init__(self, contexts: Mapping[str, Any], *, status: str = "success", root: Path = Path()) -> None:
        self.contexts = contexts
        self.status = status
        self.root = root
        self._tokens: list[str] = []
        self._functions: dict[str, Callable[..., Any]] = {
            "always": lambda: True,
            "success": lambda: self.status == "success",
            "failure": lambda: self.status == "failure",
            "cancelled": lambda: self.status == "cancelled",
            "contains": lambda where, what: _same_in(where, what),
            "startswith": lambda text, start: str(text).lower().startswith(str(start).lower()),
            "format": lambda text, *given: str(text).format(*given),
            "tojson": lambda value: json.dumps(value, indent=2),
            "hashfiles": self._hash_files,
        }

    def fill(self, text: Any) -> str:
        """A text with each ``${{ }}`` in it replaced."""
        return _HOLE.sub(lambda hole: _text(self.value(hole[1])), _text(text))

    def holds(self, condition: Any) -> bool:
        """Whether an ``if:`` is met; ``success()`` goes without saying, unless it asks itself."""
        if condition is None:
            return self.status == "success"
        text = _HOLE.sub(lambda hole: hole[1], _text(condition))
        asked = re.search(r"\b(always|success|failure|cancelled)\s*\(", text)
        return bool(self.value(text)) and (asked is not None or self.status == "success")

    def value(self, text: str) -> Any:
        """The value of one expression."""
        self._tokens, at = [], 0
        text = text.strip()
        while at < len(text):
            found = _TOKEN.match(text, at)
            if found is None:
                raise ValueError(f"cannot read {text[at:]!r} in expression {text!r}")
            self._tokens.append(found[0].strip())
            at = found.end()
        value = self._either()
        if self._tokens:
            raise ValueError(f"what is {self._tokens[0]!r} in expression {text!r}?")
        return value

    def _take(self, *wanted: str) -> str | None:
        return self._tokens.pop(0) if self._tokens and self._tokens[0] in wanted else None

    def _either(self) -> Any:
        value = self._both()
        while self._take("||"):
            other = self._both()
            value = value or other
        return value

    def _both(self) -> Any:
        value = self._equal()
        while self._take("&&"):
            other = self._equal()
            value = value and other
        return value

    def _equal(self) -> Any:
        value = self._not()
        while sign := self._take("==", "!="):
            value = _is_same(value, self._not()) == (sign == "==")
        return value

    def _not(self) -> Any:
        return not self._not() if self._take("!") else self._one()

    def _one(self) -> Any:
        if self._take("("):
            value = self._either()
            self._must(")")
            return value
        token = self._tokens.pop(0)
        if token.startswith("'"):
            return token[1:-1].replace("''", "'")
        if token[0].isdigit():
            return float(token)
        if self._take("("):
            return self._call(token)
        return _WORDS[token] if token in _WORDS else self._reach(token)

    def _must(self, token: str) -> None:
        if not self._take(token):
            raise ValueError(f"{token!r} is missing before {self._tokens[:1]}")

    def _call(self, name: str) -> Any:
        given = []
        while not self._take(")"):
            given.append(self._either())
            self._take(",")
        return self._functions[name.lower()](*given)

    def _reach(self, name: str) -> Any:
        if name not in self.contexts:
            raise ValueError(f"there is no context {name!r}")
        value = self.contexts[name]
        while True:
            if self._take("."):
                key = self._tokens.pop(0)
            elif self._take("["):
                key = self._either()
                self._must("]")
            else:
                return value
            value = value.get(key) if isinstance(value, Mapping) else None

    def _hash_files(self, *patterns: str) -> str:
        files = sorted({path for pattern in patterns for path in self.root.glob(pattern) if path.is_file()})
        whole = hashlib.sha256(b"".join(hashlib.sha256(path.read_bytes()).digest() for path in files))
        return whole.hexdigest() if files else ""


def _text(value: Any) -> str:
    if value is None:
        return ""
    return json.dumps(value) if isinstance(value, bool) else str(value)


def _is_same(one: Any, other: Any) -> bool:
    if isinstance(one, str) and isinstance(other, str):
        return one.lower() == other.lower()
    if (one is None or one == "") and (other is None or other == ""):
        return True
    return bool(one == other)


def _same_in(where: Any, what: Any) -> bool:
    if isinstance(where, str):
        return str(what).lower() in where.lower()
    return any(_is_same(each, what) for each in where or ())
