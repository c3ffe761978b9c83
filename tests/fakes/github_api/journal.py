"""What happened: every request with its answer's status, and everything that broke GitHub's description."""

from __future__ import annotations

import threading
from collections import deque
from typing import Any

import msgspec

from tests.fakes.github_api.wire import Request

__all__ = ["Entry", "Journal", "Violation"]

_KEEP = 100_000
_SUMMARY = 500
_SECRET_WORDS = ("token", "secret", "password", "jit", "key", "credential")
_WRITES = ("POST", "PUT", "PATCH", "DELETE")


class Entry(msgspec.Struct):
    """One request. ``kind`` is api, runner or unknown; ``body`` is a summary without secrets."""

    number: int
    time: float
    kind: str
    method: str
    path: str
    prefix: str
    query: dict[str, str]
    operation: str | None = None
    identity: str = "none"
    conditional: bool = False
    body: Any = None
    status: int = 0
    fault: str | None = None
    duration_seconds: float = 0.0


class Violation(msgspec.Struct):
    """One breach of the description. ``where`` is request or answer."""

    number: int
    method: str
    path: str
    where: str
    message: str


class Journal:
    """Entries and violations, newest last."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.entries: deque[Entry] = deque(maxlen=_KEEP)
        self.violations: deque[Violation] = deque(maxlen=_KEEP)
        self.number = 0

    def begin(self, request: Request, *, kind: str, now: float) -> Entry:
        """Note a request before it is handled."""
        with self.lock:
            self.number += 1
            entry = Entry(
                number=self.number,
                time=now,
                kind=kind,
                method=request.method,
                path=request.path,
                prefix=request.prefix,
                query=dict(request.query),
                conditional=bool(request.header("if-none-match")),
            )
            self.entries.append(entry)
        entry.body = self.summary(request)
        return entry

    @staticmethod
    def summary(request: Request) -> Any:
        """A body's shape and harmless values; text bodies only by their length."""
        if not request.body:
            return None
        if request.json is None:
            return f"{len(request.body)} bytes"
        return _harmless(request.json)

    def violate(self, entry: Entry, where: str, messages: list[str]) -> None:
        """Note breaches of the description."""
        with self.lock:
            for message in messages:
                self.violations.append(Violation(entry.number, entry.method, entry.path, where, message))

    def select(self, **wanted: str) -> list[Entry]:
        """Entries that fit: kind, method, since (a number), path (a prefix)."""
        since = int(wanted.get("since", 0))
        with self.lock:
            return [
                entry
                for entry in self.entries
                if entry.number > since
                and wanted.get("kind", entry.kind) == entry.kind
                and wanted.get("method", entry.method) == entry.method
                and entry.path.startswith(wanted.get("path", ""))
            ]

    @staticmethod
    def writes(entries: list[Entry]) -> int:
        """How many of these were not reads."""
        return sum(entry.method in _WRITES for entry in entries)

    def clear(self) -> None:
        """Forget the requests (numbers go on)."""
        with self.lock:
            self.entries.clear()

    def clear_violations(self) -> None:
        """Forget the violations."""
        with self.lock:
            self.violations.clear()


def _harmless(value: Any, name: str = "") -> Any:
    if any(word in name.lower() for word in _SECRET_WORDS):
        return "***"
    if isinstance(value, dict):
        return {key: _harmless(element, str(key)) for key, element in value.items()}
    if isinstance(value, list):
        return [_harmless(element) for element in value[:100]]
    return value[:_SUMMARY] if isinstance(value, str) else value
