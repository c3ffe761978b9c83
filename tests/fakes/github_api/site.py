"""The path of a request: faults, route, identity, limit, description, permission, handler, description."""

from __future__ import annotations

import hashlib
import re
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import msgspec

from tests.fakes.github_api.agents import REGISTRATION, Agents
from tests.fakes.github_api.apps import Apps
from tests.fakes.github_api.auth import Identity, identify, permit
from tests.fakes.github_api.desk import Desk
from tests.fakes.github_api.faults import AFTER, BEFORE, Fault, Faults
from tests.fakes.github_api.general import General
from tests.fakes.github_api.groups import Groups
from tests.fakes.github_api.jobs import Jobs
from tests.fakes.github_api.journal import Entry, Journal
from tests.fakes.github_api.limits import Limits
from tests.fakes.github_api.openapi import Operation, description
from tests.fakes.github_api.rulesets import Rulesets
from tests.fakes.github_api.runners import Routes, Runners
from tests.fakes.github_api.store import Store
from tests.fakes.github_api.wire import Answer, RefusalError, Request, error_body

__all__ = ["Site"]

_FORBIDDEN = (
    b"Request forbidden by administrative rules. Please make sure your request has a User-Agent header."
)


class Site:
    """Everything behind the socket."""

    def __init__(self, file: Path | None = None) -> None:
        self.description = description()
        self.store = Store(file)
        self.jobs = Jobs(self.store)
        self.faults = Faults()
        self.journal = Journal()
        self.limits = Limits(self.store)
        self.agents = Agents(self.store, self.jobs)
        self.desk = Desk(self.store, self.jobs, self.faults, self.journal)
        self.dirty = threading.Event()
        runners = Runners(self.store, self.jobs)
        self.general = General(self.store, self.limits, self.description)
        self.desk.show_runner = runners.show
        self.desk.limits = self.limits
        self.routes: Routes = {
            **runners.routes(),
            **Groups(self.store, self.jobs, runners, self.description).routes(),
            **Apps(self.store, self.description).routes(),
            **self.general.routes(),
            **Rulesets(self.store).routes(),
        }

    def handle(self, request: Request) -> Answer:
        """Answer one request; never raises."""
        request.now = self.store.now()
        if request.method != "GET":
            self.dirty.set()
        _read_json(request)
        self.jobs.expire()
        if request.path.startswith("/_control"):
            return self._guard(self.desk.handle, request)
        kind = "runner" if request.path.startswith("/_runner") or request.path == REGISTRATION else "api"
        entry = self.journal.begin(request, kind=kind, now=request.now)
        started = time.monotonic()
        faults = self.faults.take(request, kind)
        entry.fault = ",".join(fault.name for fault in faults) or None
        answer = self._answer(request, entry, faults)
        entry.status = answer.status
        entry.duration_seconds = round(time.monotonic() - started, 6)
        return answer

    def _answer(self, request: Request, entry: Entry, faults: list[Fault]) -> Answer:
        for fault in faults:
            if fault.delay_seconds:
                time.sleep(fault.delay_seconds)
            if fault.name == "item_shift":
                request.shift = fault.by
        instead = next((BEFORE[fault.name](fault, request) for fault in faults if fault.name in BEFORE), None)
        if entry.kind == "runner":
            answer = instead or self._guard(self._runner_side, request)
        else:
            answer = instead or self._guard(lambda asked: self._api(asked, entry, faults), request)
            self._headers(request, answer)
        for fault in faults:
            if fault.name in AFTER and fault.name != "bad_answer":
                AFTER[fault.name](fault, answer)
        return answer

    def _guard(self, handler: Any, request: Request) -> Answer:
        try:
            answer: Answer = handler(request)
            return answer
        except RefusalError as refusal:
            return refusal.answer()

    def _runner_side(self, request: Request) -> Answer:
        answer = self.agents.handle(request)
        if answer is None:
            raise RefusalError(404, "Not Found")
        return answer

    # -- the API

    def _api(self, request: Request, entry: Entry, faults: list[Fault]) -> Answer:
        if not request.header("user-agent").strip():
            return Answer(403, raw=_FORBIDDEN, content_type="text/plain")
        found = self.description.match(request.method, request.path)
        if found is None:
            entry.kind = "unknown"
            self.journal.violate(entry, "request", ["no such operation in GitHub's description"])
            raise RefusalError(404, "Not Found")
        operation, params = found
        request.operation, entry.operation = operation, operation.id
        request.params = {name: unquote(value) for name, value in params.items()}
        with self.store.lock:
            answer = self._checked(request, entry, operation)
        for fault in faults:
            if fault.name == "bad_answer":
                AFTER[fault.name](fault, answer)
        problems = operation.check_answer(answer.status, answer.body)
        if problems:
            self.journal.violate(entry, "answer", problems)
            return Answer(
                500, error_body(500, "the stand-in's answer breaks the description: " + problems[0])
            )
        return self._conditional(request, answer)

    def _checked(self, request: Request, entry: Entry, operation: Operation) -> Answer:
        try:
            self._version(request)
            request.identity = identify(self.store, request)
            entry.identity = request.identity.kind
            if operation.template != "/rate_limit":
                self.limits.spend(request.identity)
            self._valid(request, entry, operation)
            permit(request.identity, operation, request)
            canned = self.general.document(request)
            handler = self.routes.get((request.method, operation.template))
            if canned is not None:
                return canned
            if handler is None:
                raise RefusalError(404, "Not Found")
            return handler(request)
        except RefusalError as refusal:
            return refusal.answer()

    def _version(self, request: Request) -> None:
        version = request.header("x-github-api-version")
        if version and version not in self.store.settings.api_versions:
            raise RefusalError(400, f"The API version {version!r} is an unsupported version.")

    def _valid(self, request: Request, entry: Entry, operation: Operation) -> None:
        if request.body and request.json is None:
            self.journal.violate(entry, "request", ["the body is no JSON"])
            raise RefusalError(400, "Problems parsing JSON")
        problems = operation.check_request(params=request.params, query=request.query, body=request.json)
        if problems:
            self.journal.violate(entry, "request", problems)
            raise RefusalError(422, "Invalid request. " + "; ".join(problems[:5]))

    def _conditional(self, request: Request, answer: Answer) -> Answer:
        """ETags: of the credential and the body, as GitHub's change with a new token."""
        if request.method != "GET" or answer.status != 200:
            return answer
        key = request.identity.key if request.identity is not None else ""
        digest = hashlib.sha256(key.encode() + msgspec.json.encode(answer.body)).hexdigest()
        etag = f'W/"{digest}"'
        answer.headers["ETag"] = etag
        wanted = [item.strip() for item in request.header("if-none-match").split(",")]
        if etag not in wanted:
            return answer
        self.limits.refund(request.identity)
        return Answer(304, headers=answer.headers)

    def _headers(self, request: Request, answer: Answer) -> None:
        identity = request.identity or Identity("none")
        headers = {
            "X-GitHub-Request-Id": f"{time.time_ns():X}",
            "X-GitHub-Media-Type": "github.v3; format=json",
            **self.limits.headers(identity),
        }
        version = request.header("x-github-api-version")
        if version:
            headers["X-GitHub-Api-Version-Selected"] = version
        if identity.token is not None and identity.kind == "classic":
            headers["X-OAuth-Scopes"] = ", ".join(identity.token.scopes)
        if identity.token is not None and identity.kind != "installation" and identity.token.expires_at:
            ends = time.gmtime(identity.token.expires_at)
            headers["GitHub-Authentication-Token-Expiration"] = time.strftime("%Y-%m-%d %H:%M:%S UTC", ends)
        for name, value in headers.items():
            answer.headers.setdefault(name, value)


def _read_json(request: Request) -> None:
    text = not re.match(r"text/", request.header("content-type"))
    if request.body and text:
        try:
            request.json = msgspec.json.decode(request.body)
        except msgspec.DecodeError:
            request.json = None
