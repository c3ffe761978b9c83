"""The runner's side: registration, agents, sessions, polls and jobs, as the stand-in listener speaks it."""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import urlsplit

from tests.fakes.github_api.jobs import Jobs
from tests.fakes.github_api.state import Job, Runner, Token
from tests.fakes.github_api.store import DEFAULT_GROUP, Store, scope_of
from tests.fakes.github_api.wire import Answer, Json, RefusalError, Request

__all__ = ["Agents", "version_key"]

REGISTRATION = "/actions/runner-registration"
_DEFAULT_WAIT = 50.0


def version_key(version: str) -> tuple[int, ...]:
    """A version as numbers, for comparison."""
    return tuple(int(part) for part in re.findall(r"\d+", version))


class Agents:
    """Routes under ``/_runner`` and the registration call."""

    def __init__(self, store: Store, jobs: Jobs) -> None:
        self.store = store
        self.jobs = jobs
        self.table: list[tuple[str, re.Pattern[str], Callable[[Request], Answer]]] = [
            ("POST", re.compile(REGISTRATION), self.register),
            ("POST", re.compile("/_runner/agents"), self.add_agent),
            ("DELETE", re.compile(r"/_runner/agents/(?P<id>\d+)"), self.remove_agent),
            ("POST", re.compile("/_runner/sessions"), self.open_session),
            ("DELETE", re.compile(r"/_runner/sessions/(?P<id>\w+)"), self.close_session),
            ("GET", re.compile("/_runner/messages"), self.messages),
            ("POST", re.compile(r"/_runner/jobs/(?P<id>\d+)/acquire"), self.acquire),
            ("POST", re.compile(r"/_runner/jobs/(?P<id>\d+)/log"), self.log),
            ("POST", re.compile(r"/_runner/jobs/(?P<id>\d+)/complete"), self.complete),
        ]

    def handle(self, request: Request) -> Answer | None:
        """The answer to a request of the runner's side; None when it is none."""
        for method, pattern, handler in self.table:
            found = pattern.fullmatch(request.path)
            if found and method == request.method:
                request.params = found.groupdict()
                return handler(request)
        return None

    # -- registration

    def register(self, request: Request) -> Answer:
        """A registration or remove token for a setup token; a token of the wrong kind or scope is 404."""
        given = _fields(request, "url", "runner_event")
        kind = {"register": "registration", "remove": "remove"}.get(given["runner_event"])
        with self.store.lock:
            token = self.store.live_token(request.bearer)
            scheme = request.header("authorization").partition(" ")[0].lower()
            if token is None or scheme != "remoteauth" or token.kind != kind:
                raise RefusalError(404, "Not Found")
            if token.scope != _scope_of_url(given["url"]):
                raise RefusalError(404, "Not Found")
            setup = self.store.mint("setup", scope=token.scope, event=given["runner_event"])
        return Answer(200, {"url": f"{request.origin}/_runner", "token": setup.value})

    def _setup(self, request: Request, event: str) -> Token:
        token = self.store.live_token(request.bearer)
        if token is None or token.kind != "setup" or token.event != event:
            raise RefusalError(401, "bad setup token")
        return token

    def add_agent(self, request: Request) -> Answer:
        """Create or replace a record."""
        given = _fields(request, "name", "version")
        with self.store.lock:
            scope = self._setup(request, "register").scope
            self._check_version(given["version"], self.store.settings.floor_version, status=422)
            group = given.get("group")
            group_id = self.store.group_named(scope, group).id if group else DEFAULT_GROUP
            existing = self.store.by_name.get((scope, given["name"].lower()))
            if existing is not None and not given.get("replace"):
                raise RefusalError(409, "A runner exists with the same name")
            if existing is not None:
                self.jobs.close_for(existing)
            runner = existing or self.store.add_runner(
                Runner(self.store.next_id(), given["name"], scope, [], group_id=group_id)
            )
            self._describe(runner, given)
            secret = self.store.give_secret(runner)
        return Answer(200, {"id": runner.id, "name": runner.name, "secret": secret})

    def _describe(self, runner: Runner, given: Json) -> None:
        runner.os = str(given.get("os", "Linux"))
        runner.architecture = str(given.get("architecture", "X64"))
        fixed = [] if given.get("no_default_labels") else ["self-hosted", runner.os, runner.architecture]
        taken = {name.lower() for name in fixed}
        custom = [name for name in given.get("labels", []) if name.lower() not in taken]
        runner.labels = self.store.labels(fixed, kind="read-only") + self.store.labels(custom, kind="custom")
        runner.version = None
        runner.ephemeral = bool(given.get("ephemeral"))
        runner.disable_update = bool(given.get("disable_update"))
        runner.busy = False
        runner.forced_status = None  # whoever registers is a real listener from now on

    def _check_version(self, version: str, floor: str, *, status: int) -> None:
        if floor and version_key(version) < version_key(floor):
            raise RefusalError(
                status, f"Runner version v{version} is deprecated. The minimum version is v{floor}."
            )

    def remove_agent(self, request: Request) -> Answer:
        """Remove a record with a remove token's setup token."""
        with self.store.lock:
            scope = self._setup(request, "remove").scope
            runner = self.store.runner(scope, int(request.params["id"]))
            if runner.busy:
                raise RefusalError(
                    422, f'Runner "{runner.name}" is currently running a job and cannot be deleted.'
                )
            self.jobs.forget(runner)
        return Answer(204)

    # -- sessions

    def _agent(self, request: Request) -> Runner:
        runner = self.store.by_secret.get(request.bearer)
        if runner is None and request.bearer in self.store.state.retired:
            raise RefusalError(404, "registration has been deleted")
        if runner is None:
            raise RefusalError(401, "bad agent secret")
        return runner

    def open_session(self, request: Request) -> Answer:
        """A session: 409 when one is alive, 404 deleted record, 426 version too old."""
        given = _fields(request, "agent_id", "version")
        with self.store.lock:
            runner = self._agent(request)
            if runner.id != int(given["agent_id"]):
                raise RefusalError(404, "registration has been deleted")
            self._check_version(given["version"], self.store.settings.runtime_floor_version, status=426)
            session = self.jobs.open(runner)
            runner.version = given["version"]
            if runner.os == "unknown":
                runner.os = "Linux"
        return Answer(200, {"session_id": session.id})

    def close_session(self, request: Request) -> Answer:
        """The listener says goodbye."""
        self.jobs.close(request.params["id"])
        return Answer(204)

    def messages(self, request: Request) -> Answer:
        """Long poll for a job."""
        wait = float(request.query.get("wait", _DEFAULT_WAIT))
        session = request.query.get("session_id", "")
        job = self.jobs.poll(session, wait=wait, client_gone=request.client_gone)
        if job is None:
            return Answer(204)
        return Answer(200, {"job" if job.status == "queued" else "cancel": _brief(job)})

    # -- jobs

    def _check_agent(self, request: Request) -> None:
        """A listener need not authenticate for a job it holds; when it does, the secret must be alive."""
        if request.bearer:
            with self.store.lock:
                self._agent(request)

    def acquire(self, request: Request) -> Answer:
        """Take an offered job."""
        self._check_agent(request)
        job = self.jobs.acquire(int(request.params["id"]))
        whole = {name: getattr(job, name) for name in ("steps", "env", "event_name", "event", "actor")}
        return Answer(200, {**job.extra, **_brief(job), **whole})

    def log(self, request: Request) -> Answer:
        """Append to a job's log."""
        self.jobs.append_log(int(request.params["id"]), request.body.decode(errors="replace"))
        return Answer(204)

    def complete(self, request: Request) -> Answer:
        """Report a job's result, and its summary (Markdown)."""
        given = _fields(request, "result")
        self.jobs.complete(int(request.params["id"]), str(given["result"]), str(given.get("summary") or ""))
        return Answer(204)


def _brief(job: Job) -> Json:
    names = ("id", "run_id", "repository", "workflow", "name", "labels")
    return {name: getattr(job, name) for name in names}


def _fields(request: Request, *names: str) -> Json:
    given = request.json
    if not isinstance(given, dict):
        raise RefusalError(400, "Problems parsing JSON")
    missing = [name for name in names if name not in given]
    if missing:
        raise RefusalError(422, f"missing: {', '.join(missing)}")
    return given


def _scope_of_url(url: str) -> str:
    """The scope key of a registration URL."""
    parts = [part for part in urlsplit(url).path.split("/") if part]
    if len(parts) == 2 and parts[0].lower() == "enterprises":
        return scope_of(f"/enterprises/{parts[1]}")
    if len(parts) == 2:
        return scope_of(f"/repos/{parts[0]}/{parts[1]}")
    return scope_of(f"/orgs/{parts[0]}") if len(parts) == 1 else ""
