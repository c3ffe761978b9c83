"""Judge a condition of a workflow as far as it can be known: true, false, or unknown. Pure.

The grammar is that of GitHub's "Evaluate expressions" page: literals, properties, ``!``, comparison, ``&&``,
``||``, calls. Comparison of texts ignores case, as there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

__all__ = ["FORK", "OWN", "UNKNOWN", "pull_request_context", "verdict"]


class _Unknown:
    """A value that only a run can tell."""

    def __repr__(self) -> str:
        return "UNKNOWN"


class _Own(str):
    """A name of the repository itself, whatever it is: a text that it is compared with is meant to be it."""

    __slots__ = ()


UNKNOWN: Final = _Unknown()
FORK, OWN = True, False
_STRANGER = "stranger"
_TOKEN = re.compile(
    r"\s*(?:(?P<text>'(?:[^']|'')*')|(?P<number>-?\d+(?:\.\d+)?)"
    r"|(?P<name>[A-Za-z_][\w-]*(?:\s*\.\s*(?:[\w-]+|\*))*)"
    r"|(?P<sign>&&|\|\||==|!=|<=|>=|[!<>()\[\],]))"
)
_MAX_LENGTH = 20_000


def verdict(condition: str, context: Mapping[str, Any]) -> bool | None:
    """Whether ``if: condition`` holds in ``context`` (dotted names, lower case); None when it cannot be told.

    An empty condition holds.
    """
    text = condition.strip()
    if text.startswith("${{") and text.endswith("}}") and text.count("${{") == 1:
        text = text[3:-2]
    elif "${{" in text:
        return None
    if not text.strip():
        return True
    if len(text) > _MAX_LENGTH:
        return None
    try:
        reader = _Reader(text, context)
        value = reader.either()
    except (ValueError, RecursionError):
        return None
    return None if reader.left or value is UNKNOWN else bool(value)


class _Reader:
    """Recursive descent over the tokens; the value of each part at once."""

    def __init__(self, text: str, context: Mapping[str, Any]) -> None:
        self.left = list(_tokens(text))[::-1]
        self.context = context

    def _peek(self) -> str:
        return self.left[-1] if self.left else ""

    def _take(self, expected: str = "") -> str:
        if not self.left or (expected and self.left[-1] != expected):
            raise ValueError("unexpected end or sign")
        return self.left.pop()

    def either(self) -> Any:
        value = self.both()
        while self._peek() == "||":
            self._take()
            other = self.both()
            if value is UNKNOWN:
                value = other if other is not UNKNOWN and other else UNKNOWN
            else:
                value = value or other
        return value

    def both(self) -> Any:
        value = self.compared()
        while self._peek() == "&&":
            self._take()
            other = self.compared()
            if value is UNKNOWN:
                value = other if other is not UNKNOWN and not other else UNKNOWN
            else:
                value = value and other
        return value

    def compared(self) -> Any:
        value = self.negated()
        while self._peek() in ("==", "!=", "<", ">", "<=", ">="):
            sign, other = self._take(), self.negated()
            if value is UNKNOWN or other is UNKNOWN or sign not in ("==", "!="):
                value = UNKNOWN
            else:
                value = _same(value, other) == (sign == "==")
        return value

    def negated(self) -> Any:
        if self._peek() != "!":
            return self.atom()
        self._take()
        value = self.negated()
        return value if value is UNKNOWN else not value

    def atom(self) -> Any:
        token = self._take()
        if token == "(":
            value = self.either()
            self._take(")")
        elif token.startswith("'"):
            value = token[1:-1].replace("''", "'")
        elif token[0].isdigit() or token[0] == "-":
            value = float(token)
        elif re.match(r"[A-Za-z_]", token):
            value = self._called(token) if self._peek() == "(" else self._named(token)
        else:
            raise ValueError(f"unexpected {token}")
        while self._peek() == "[":
            self._take()
            self.either()
            self._take("]")
            value = UNKNOWN
        return value

    def _named(self, token: str) -> Any:
        name = re.sub(r"\s", "", token).lower()
        literal = {"true": True, "false": False, "null": None}
        return literal[name] if name in literal else self.context.get(name, UNKNOWN)

    def _called(self, name: str) -> Any:
        self._take("(")
        given = []
        while self._peek() != ")":
            given.append(self.either())
            if self._peek() == ",":
                self._take()
        self._take(")")
        return _call(name.lower(), given)


def _call(name: str, given: list[Any]) -> Any:
    fixed = {"always": True, "cancelled": False, "failure": False, "success": True}
    if name in fixed:
        return fixed[name]
    if any(isinstance(each, _Own) for each in given):
        return UNKNOWN
    if name == "fromjson" and len(given) == 1 and isinstance(given[0], str):
        return _json(given[0])
    if name == "contains" and len(given) == 2 and isinstance(given[0], list) and isinstance(given[1], str):
        return any(_plain(each) == _plain(given[1]) for each in given[0])
    if len(given) == 2 and all(isinstance(each, str) for each in given):
        first, second = (each.lower() for each in given)
        answers = {"startswith": first.startswith(second), "endswith": first.endswith(second)}
        return {**answers, "contains": second in first}.get(name, UNKNOWN)
    return UNKNOWN


def _json(text: str) -> Any:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return UNKNOWN
    return found if isinstance(found, list) else UNKNOWN


def _same(first: Any, second: Any) -> bool:
    """``github.repository == 'acme/widgets'`` holds for a fork's pull request, which runs in acme/widgets."""
    own = [isinstance(each, _Own) for each in (first, second)]
    if own in ([True, False], [False, True]):
        other = second if own[0] else first
        return isinstance(other, str) and not other.startswith(_STRANGER)
    return bool(_plain(first) == _plain(second))


def _plain(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else "" if value is None else value


def _tokens(text: str) -> list[str]:
    found, at = [], 0
    text = text.rstrip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if not match:
            raise ValueError(f"cannot read {text[at:]!r}")
        found.append(match[0].strip())
        at = match.end()
    return found


def pull_request_context(event: str, *, fork: bool) -> dict[str, Any]:
    """What is known of a run for a pull request of a fork, or of the repository itself."""
    owner: str = _STRANGER if fork else _Own("owner")
    full_name: str = f"{_STRANGER}/repository" if fork else _Own("owner/repository")
    target = event != "pull_request"
    known: dict[str, Any] = {
        "github.event_name": event,
        "github.repository": _Own("owner/repository"),
        "github.repository_owner": _Own("owner"),
        "github.ref": "refs/heads/main" if target else "refs/pull/1/merge",
        "github.ref_name": "main" if target else "1/merge",
        "github.ref_type": "branch",
    }
    pull, run = "github.event.pull_request.", "github.event.workflow_run."
    head = {"full_name": full_name, "fork": fork, "owner.login": owner}
    if event == "workflow_run":
        known |= {f"{run}head_repository.{name}": value for name, value in head.items()}
        known[run + "event"] = "pull_request"
        return known
    known["github.event.comment.author_association"] = "NONE" if fork else "MEMBER"
    known |= {f"{pull}head.repo.{name}": value for name, value in head.items()}
    known |= {pull + "base.repo.full_name": _Own("owner/repository"), pull + "head.user.login": owner}
    known[pull + "author_association"] = "NONE" if fork else "MEMBER"
    return known
