"""What travels: one request, one answer, and the refusal that a handler raises."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.fakes.github_api.auth import Identity
    from tests.fakes.github_api.openapi import Operation

__all__ = ["DOCS", "Answer", "Json", "RefusalError", "Request", "error_body"]

Json = dict[str, Any]
DOCS = "https://docs.github.com/rest"


@dataclass
class Request:
    """One request. ``path`` is without the ``/api/v3`` prefix; ``origin`` is ``http://host:port``."""

    method: str
    path: str
    prefix: str
    query: dict[str, str]
    headers: Mapping[str, str]
    body: bytes
    origin: str
    client_gone: Callable[[], bool]
    json: Any = None
    params: dict[str, str] = field(default_factory=dict)
    operation: Operation | None = None
    identity: Identity | None = None
    shift: int = 0
    now: float = field(default_factory=time.time)

    @property
    def api(self) -> str:
        """Base of the API as this client sees it."""
        return self.origin + self.prefix

    @property
    def bearer(self) -> str:
        """The credential of the Authorization header, without its scheme; empty when there is none."""
        return self.headers.get("authorization", "").partition(" ")[2].strip()

    def header(self, name: str) -> str:
        """A header's value, or an empty string."""
        return self.headers.get(name.lower(), "")


@dataclass
class Answer:
    """One answer. ``raw`` replaces the JSON body; ``drop`` closes the connection without a byte."""

    status: int
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    raw: bytes | None = None
    content_type: str = "application/json; charset=utf-8"
    drop: bool = False
    slow_seconds: float = 0.0


class RefusalError(Exception):
    """A handler's refusal: becomes GitHub's error envelope."""

    def __init__(self, status: int, message: str, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = dict(headers or {})

    def answer(self) -> Answer:
        """The refusal as an answer."""
        return Answer(self.status, error_body(self.status, self.message), self.headers)


def error_body(status: int, message: str) -> Json:
    """GitHub's error envelope."""
    return {"message": message, "documentation_url": DOCS, "status": str(status)}
