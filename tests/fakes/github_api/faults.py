"""Faults, each chosen by name: what GitHub, its proxies and the network do on a bad day."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from typing import Any

import msgspec

from tests.fakes.github_api.wire import Answer, Json, RefusalError, Request, error_body

__all__ = ["FAULTS", "Fault", "Faults"]

_HTML = b"<html><head><title>502 Bad Gateway</title></head><body><h1>Unicorn!</h1></body></html>"


class Fault(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One fault in force.

    ``path`` and ``method`` are regular expressions (searched in the path without ``/api/v3``; the whole
    method); ``channel``: ``api``, ``runner`` or ``all``; ``count`` requests are hit, after ``skip`` were let
    through (null: until cleared); ``delay_seconds`` comes before the answer; ``seconds`` ends the fault by
    time, or is the length of what is slow.
    """

    name: str
    path: str = ""
    method: str = ""
    channel: str = ""
    count: int | msgspec.UnsetType | None = msgspec.UNSET
    skip: int = 0
    delay_seconds: float = 0.0
    seconds: float | None = None
    retry_after: int = 1
    reset_in: int = 2
    status: int = 500
    message: str = ""
    mode: str = "503"
    by: int = 1
    frm: str = msgspec.field(default="", name="from")
    to: str = ""
    host: str = "evil.example"
    hits: int = 0
    until: float | None = None


Maker = Callable[[Fault, Request], Answer]
Changer = Callable[[Fault, Answer], None]


def _error(status: int, message: str, **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, error_body(status, message), named)


def _rate_limited(fault: Fault, request: Request) -> Answer:
    reset = str(int(request.now) + fault.reset_in)
    answer = _error(403, "API rate limit exceeded for this installation.")
    answer.headers = {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": reset}
    return answer


def _too_many(fault: Fault, _request: Request) -> Answer:
    answer = _error(429, "Too many requests")
    if fault.retry_after:
        answer.headers["Retry-After"] = str(fault.retry_after)
    return answer


def _rename(fault: Fault, request: Request) -> Answer:
    target = request.api + re.sub(re.escape(fault.frm), fault.to, request.path, count=1, flags=re.IGNORECASE)
    body = {"message": "Moved Permanently", "url": target, "documentation_url": "https://docs.github.com"}
    return Answer(301, body, {"Location": target})


def _down(fault: Fault, _request: Request) -> Answer:
    if fault.mode == "drop":
        return Answer(503, drop=True)
    return Answer(503, raw=b"Service Unavailable", content_type="text/plain")


SECONDARY = "You have exceeded a secondary rate limit. Please wait a few minutes before you try again."
SKEW = "'Issued at' claim ('iat') must be an Integer representing the time that the assertion was issued"

# Faults that answer instead of us.
BEFORE: dict[str, Maker] = {
    "retry_after": lambda fault, _: _error(403, SECONDARY, Retry_After=str(fault.retry_after)),
    "rate_limited": _rate_limited,
    "secondary": lambda _fault, _: _error(403, SECONDARY),
    "too_many": _too_many,
    "server_error": lambda fault, _: _error(fault.status, fault.message or "Server Error"),
    "bad_gateway_html": lambda _fault, _: Answer(502, raw=_HTML, content_type="text/html"),
    "rename": _rename,
    "expired_token": lambda _fault, _: _error(401, "Bad credentials"),
    "name_conflict": lambda _fault, _: _error(409, "Already exists - a runner with this name is registered"),
    "hidden": lambda _fault, _: _error(404, "Not Found"),
    "not_modified": lambda _fault, _: Answer(304),
    "clock_skew": lambda _fault, _: _error(401, SKEW),
    "runner_clock_skew": lambda _fault, _: _error(401, "clock skew"),
    "sso": lambda _fault, _: _error(
        403,
        "Resource protected by organization SAML enforcement.",
        X_GitHub_SSO="required; url=https://sso.example",
    ),
    "unsupported_version": lambda _fault, _: _error(
        400, "The API version header names an unsupported version."
    ),
    "status": lambda fault, _: _error(fault.status, fault.message or "as the test asked"),
    "drop": lambda _fault, _: Answer(500, drop=True),
    "down": _down,
}


def _each(body: Any, change: Callable[[Json], Any]) -> None:
    """Apply a change to every runner in an answer."""
    if not isinstance(body, dict):
        return
    runners = body.get("runners", [])
    if "busy" in body:
        runners = [body]
    for runner in [*runners, *([body["runner"]] if "runner" in body else [])]:
        change(runner)


def _foreign_link(fault: Fault, answer: Answer) -> None:
    link = answer.headers.get("Link", "")
    answer.headers["Link"] = re.sub(r"(https?://)[^/]+", rf"\g<1>{fault.host}", link)


def _slow(fault: Fault, answer: Answer) -> None:
    answer.slow_seconds = fault.seconds or 1.0


def _lose(_fault: Fault, answer: Answer) -> None:
    answer.drop = True


def _break(_fault: Fault, answer: Answer) -> None:
    if isinstance(answer.body, dict) and answer.body:
        answer.body.pop(next(iter(answer.body)))


def _null_version(runner: Json) -> None:
    runner["version"] = None


# Faults that change our answer: before it is checked against the description (`bad_answer`), or after.
AFTER: dict[str, Changer] = {
    "null_version": lambda _fault, answer: _each(answer.body, _null_version),
    "missing_ephemeral": lambda _fault, answer: _each(
        answer.body, lambda runner: (runner.pop("ephemeral", None), runner.pop("version", None))
    ),
    "foreign_link": _foreign_link,
    "slow_body": _slow,
    "lost_answer": _lose,
    "bad_answer": _break,
}
# Faults that act elsewhere: `item_shift` in lists, `refused` on the socket, `delay` by its own field.
OTHER = frozenset({"item_shift", "refused", "delay"})
FAULTS = frozenset(BEFORE) | frozenset(AFTER) | OTHER

_PATHS = {
    "name_conflict": "/generate-jitconfig$",
    "clock_skew": "/app|/installation$",
    "runner_clock_skew": "/_runner/sessions$",
    "item_shift": "/runners$",
}
_LASTING = frozenset(
    {
        "down",
        "rename",
        "clock_skew",
        "null_version",
        "missing_ephemeral",
        "foreign_link",
        "item_shift",
        "hidden",
    }
)


class Faults:
    """The faults in force."""

    def __init__(self, refuse: Callable[[float], None] | None = None) -> None:
        self.lock = threading.Lock()
        self.active: list[Fault] = []
        self.refuse = refuse

    def add(self, given: Json) -> Fault:
        """Take a fault into force. Unknown names and fields are refused with 422."""
        try:
            fault = msgspec.convert(given, Fault)
        except msgspec.ValidationError as error:
            raise RefusalError(422, f"fault: {error}") from None
        if fault.name not in FAULTS:
            raise RefusalError(422, f"unknown fault {fault.name!r}: one of {', '.join(sorted(FAULTS))}")
        self._complete(fault)
        if fault.name == "refused":
            if self.refuse is not None:
                self.refuse(fault.seconds or 1.0)
            return fault
        with self.lock:
            self.active.append(fault)
        return fault

    @staticmethod
    def _complete(fault: Fault) -> None:
        if fault.name == "rename":
            fault.path = fault.path or f"^{re.escape(fault.frm)}(/|$)"
        fault.path = fault.path or _PATHS.get(fault.name, "")
        if not fault.channel:
            special = {"down": "all", "runner_clock_skew": "runner"}
            fault.channel = special.get(
                fault.name, "all" if re.search("_runner|runner-registration", fault.path) else "api"
            )
        if fault.count is msgspec.UNSET:
            lasting = fault.name in _LASTING or (fault.seconds is not None and fault.name != "slow_body")
            fault.count = None if lasting else 1
        if fault.seconds is not None and fault.name != "slow_body":
            fault.until = time.monotonic() + fault.seconds

    def clear(self, name: str | None = None) -> None:
        """End all faults, or those of one name."""
        with self.lock:
            self.active = [fault for fault in self.active if name is not None and fault.name != name]

    def take(self, request: Request, channel: str) -> list[Fault]:
        """The faults that hit this request; of those that answer instead of us, only the first."""
        with self.lock:
            now = time.monotonic()
            self.active = [fault for fault in self.active if fault.until is None or fault.until > now]
            chosen: list[Fault] = []
            answered = False
            for fault in list(self.active):
                if not self._hits(fault, request, channel) or (answered and fault.name in BEFORE):
                    continue
                if fault.skip > 0:
                    fault.skip -= 1
                    continue
                answered = answered or fault.name in BEFORE
                self._use(fault)
                chosen.append(fault)
            return chosen

    @staticmethod
    def _hits(fault: Fault, request: Request, channel: str) -> bool:
        if fault.channel not in ("all", channel):
            return False
        if fault.method and not re.fullmatch(fault.method, request.method, re.IGNORECASE):
            return False
        return not fault.path or re.search(fault.path, request.path, re.IGNORECASE) is not None

    def _use(self, fault: Fault) -> None:
        fault.hits += 1
        if isinstance(fault.count, int):
            fault.count -= 1
            if fault.count <= 0:
                self.active.remove(fault)
