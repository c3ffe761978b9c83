"""What may be asked of the service, checked before anything is done with it, and its answers. Pure."""

from __future__ import annotations

import hashlib
from typing import Any, Literal

import msgspec

from runnerctl.envs.model import Event, Request
from runnerctl.envs.wire import MOST_FILES, MOST_LOCK, MOST_TEXT
from runnerctl.errors import DataError, RunnerctlError

__all__ = ["Ask", "Payload", "error_line", "event_line", "fingerprint", "line_of", "parse_ask", "ready_line"]

_LONGEST_NAME = 4096  # PATH_MAX
_MOST_NAMES = 256
_DIGEST = 64


class Payload(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an ask is about; `wire` says which fields go with which."""

    request: Request | None = None
    owner: str | None = None
    digest: str | None = None
    full: bool = False
    budget_bytes: int | None = None
    keep_seconds: float | None = None
    dry_run: bool = False


class Ask(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One question."""

    schema: Literal["runnerctl.env.ask/1"]
    op: Literal["ping", "ensure", "lease", "lock", "list", "verify", "gc", "remove"]
    payload: Payload = Payload()


def parse_ask(line: bytes) -> Ask:
    """The question in a line. Raises DataError that says why it is none, or too large."""
    try:
        ask = msgspec.json.decode(line, type=Ask)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        remedy = "let client and service be of one version: runnerctl --version"
        raise DataError(
            f"is no question for the environment store: {error}", where="the request", remedy=remedy
        ) from None
    payload = ask.payload
    if payload.request is not None:
        _check(payload.request)
    elif ask.op in ("ensure", "lock"):
        raise DataError("says nothing of an environment", where="the request")
    if ask.op in ("lease", "remove") and payload.digest is None:
        raise DataError("names no environment", where="the request")
    if payload.digest is not None and not _is_digest(payload.digest):
        raise DataError("names an environment by something that is no digest", where="the request")
    return ask


def _check(request: Request) -> None:
    where = request.where[:200] or "environment.yml"
    if len(request.where) > _LONGEST_NAME or len(request.cuda) > 64:
        raise DataError("has a name or version that is too long", where=where)
    _bound(request.text, MOST_TEXT, where)
    _bound(request.lock or "", MOST_LOCK, f"the lock of {where}")
    if len(request.files) > _MOST_NAMES or any(len(name) > _LONGEST_NAME for name in request.files):
        raise DataError("names too many files in its pip section", where=where)
    total = sum(len(text.encode("utf-8", "surrogatepass")) for text in request.files.values())
    if total > MOST_FILES:
        raise DataError(f"names files of more than {MOST_FILES >> 20} MiB", where=where)


def _bound(text: str, most: int, where: str) -> None:
    if len(text) > most or len(text.encode("utf-8", "surrogatepass")) > most:
        raise DataError(f"is larger than {most >> 20} MiB", where=where, remedy="give a smaller file")


def _is_digest(text: str) -> bool:
    return 0 < len(text) <= _DIGEST and all(letter in "0123456789abcdef" for letter in text)


def fingerprint(request: Request, *more: object) -> str:
    """What tells two requests apart that would be answered differently."""
    return hashlib.sha256(msgspec.json.encode([request, *map(str, more)])).hexdigest()


def line_of(value: dict[str, Any]) -> bytes:
    """An answer as a line."""
    return msgspec.json.encode(value) + b"\n"


def ready_line(value: Any) -> bytes:
    """The answer to a question that was answered."""
    return line_of({"ready": value})


def event_line(event: Event) -> bytes:
    """Progress as a line."""
    return line_of({"event": event})


def error_line(error: RunnerctlError) -> bytes:
    """An error as a line; the asker's process ends with its exit code."""
    return line_of(
        {
            "error": {
                "what": error.what,
                "where": error.where,
                "remedy": error.remedy,
                "exit_code": error.exit_code,
            }
        }
    )
