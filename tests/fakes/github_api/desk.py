"""The control desk (`/_control`): what tests tell the stand-in and ask it. GitHub has none."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

import msgspec

from tests.fakes.github_api.faults import Faults
from tests.fakes.github_api.jobs import Jobs
from tests.fakes.github_api.journal import Journal
from tests.fakes.github_api.limits import Limits
from tests.fakes.github_api.state import App, Group, Job, Release, Runner, Settings, Token
from tests.fakes.github_api.store import DEFAULT_GROUP, Store, scope_of
from tests.fakes.github_api.wire import Answer, Json, RefusalError, Request

__all__ = ["Desk"]

_CLASSIC = ["repo", "admin:org", "manage_runners:enterprise"]
_MAX_WAIT = 30.0
_Route = tuple[str, str, Callable[[Request], Any]]


class Desk:
    """Routes of the control desk."""

    def __init__(self, store: Store, jobs: Jobs, faults: Faults, journal: Journal) -> None:
        self.store = store
        self.jobs = jobs
        self.faults = faults
        self.journal = journal
        self.limits: Limits | None = None
        self.show_runner: Callable[[Runner], Json] = msgspec.to_builtins
        table = [*self._set_up_routes(), *self._record_routes(), *self._journal_routes()]
        self.table = [(method, re.compile(f"/_control/{path}"), handler) for method, path, handler in table]

    def _set_up_routes(self) -> list[_Route]:
        return [
            ("GET", "health", lambda _: {"ok": True}),
            ("POST", "reset", self.reset),
            ("POST", "settings", self.settings),
            ("GET", "settings", lambda _: self.store.settings),
            ("POST", "tokens", self.add_token),
            ("DELETE", "tokens", self.expire_token),
            ("POST", "apps", self.add_app),
            ("POST", "release", self.release),
            ("POST", "documents", self.document),
        ]

    def _record_routes(self) -> list[_Route]:
        return [
            ("POST", "groups", self.add_group),
            ("POST", "runners", self.add_runners),
            ("GET", "runners", self.list_runners),
            ("PATCH", r"runners/(?P<id>\d+)", self.change_runner),
            ("DELETE", r"runners/(?P<id>\d+)", self.delete_runner),
            ("POST", "jobs", self.add_job),
            ("GET", "jobs", self.list_jobs),
            ("GET", r"jobs/(?P<id>\d+)", self.get_job),
            ("GET", r"jobs/(?P<id>\d+)/log", self.job_log),
            ("POST", r"jobs/(?P<id>\d+)/cancel", self.cancel_job),
        ]

    def _journal_routes(self) -> list[_Route]:
        return [
            ("POST", "faults", self.add_fault),
            ("GET", "faults", lambda _: self.faults.active),
            ("DELETE", "faults", self.clear_faults),
            ("GET", "requests", self.requests),
            ("POST", "requests/clear", lambda _: self.journal.clear()),
            ("GET", "violations", lambda _: list(self.journal.violations)),
            ("POST", "violations/clear", lambda _: self.journal.clear_violations()),
            ("GET", "secrets", lambda _: self.store.state.secrets),
        ]

    def handle(self, request: Request) -> Answer:
        """Answer one request of the desk."""
        for method, pattern, handler in self.table:
            found = pattern.fullmatch(request.path)
            if found and method == request.method:
                request.params = found.groupdict()
                request.json = {} if request.json is None else request.json
                try:
                    result = handler(request)
                except msgspec.ValidationError as error:
                    raise RefusalError(422, f"{request.path}: {error}") from None
                with self.store.lock:
                    return Answer(204) if result is None else Answer(200, msgspec.to_builtins(result))
        raise RefusalError(404, f"the control desk has no {request.method} {request.path}")

    # -- set-up

    def reset(self, _request: Request) -> None:
        """Forget everything: records, faults, requests, violations."""
        with self.store.lock:
            self.store.reset()
            self.jobs.restart()
        self.faults.clear()
        self.journal.clear()
        self.journal.clear_violations()
        if self.limits is not None:
            self.limits.windows.clear()

    def settings(self, request: Request) -> Settings:
        """Change settings; those that are not named stay."""
        with self.store.lock:
            merged = msgspec.to_builtins(self.store.settings) | request.json
            unknown = set(request.json) - set(Settings.__struct_fields__)
            if unknown:
                raise RefusalError(422, f"unknown settings: {', '.join(sorted(unknown))}")
            self.store.state.settings = msgspec.convert(merged, Settings)
            return self.store.settings

    def add_token(self, request: Request) -> None:
        """Know a token. With neither scopes nor permissions it is a classic one that may do everything."""
        given = dict(request.json)
        value = given.pop("token")
        kind = "fine-grained" if "permissions" in given else "classic"
        given.setdefault("scopes", [] if "permissions" in given else _CLASSIC)
        token = msgspec.convert({"kind": kind, **given, "value": value}, Token)
        with self.store.lock:
            self.store.state.tokens[value] = token
            self.store.keep_secret(token.kind, value)

    def expire_token(self, request: Request) -> None:
        """Make a token invalid from now on."""
        with self.store.lock:
            self.store.state.tokens.pop(request.json["token"], None)

    def add_app(self, request: Request) -> None:
        """Know an App by its public key, with its installations."""
        app = msgspec.convert(request.json, App)
        with self.store.lock:
            self.store.state.apps = [item for item in self.store.state.apps if item.app_id != app.app_id]
            self.store.state.apps.append(app)

    def release(self, request: Request) -> Release:
        """Publish a runner release, or change one.

        ``sha256`` and ``download_url`` are those of x64; ``architectures`` may name more. ``downloads``
        (true) says whether this is the version that `/downloads` offers. ``digest`` and ``body_sha256``
        default to ``sha256``; set them apart to let the sources of a checksum disagree.
        """
        given = dict(request.json)
        version, offered = given["version"], given.pop("downloads", True)
        entries: dict[str, Json] = dict(given.pop("architectures", {}))
        own = {
            name: given.pop(name)
            for name in ("sha256", "download_url", "digest", "body_sha256", "filename", "size")
            if name in given
        }
        if own:
            entries["x64"] = own
        assets = {name: _asset(name, version, entry) for name, entry in entries.items()}
        with self.store.lock:
            releases = self.store.state.releases
            known = next((item for item in releases if item.version == version), None)
            if known is None:
                known = msgspec.convert({**given, "assets": assets}, Release)
                releases.append(known)
            else:
                merged = msgspec.to_builtins(known) | given | {"assets": {**known.assets, **assets}}
                place = releases.index(known)
                known = releases[place] = msgspec.convert(merged, Release)
            if offered:
                self.store.state.downloads_version = version
            return known

    def document(self, request: Request) -> None:
        """Give the answer for a method and path (checked against the description when it is served)."""
        given = request.json
        key = f"{given.get('method', 'GET')} {given['path']}".lower()
        with self.store.lock:
            if given.get("remove"):
                self.store.state.documents.pop(key, None)
                return
            self.store.state.documents[key] = {"status": given.get("status", 200), "body": given.get("body")}

    def add_group(self, request: Request) -> Group:
        """Create a runner group."""
        with self.store.lock:
            scope = scope_of(request.json["scope"])
            fields = {**request.json, "scope": scope, "id": self.store.next_id()}
            names = fields.pop("repositories", [])
            group = msgspec.convert(fields, Group)
            group.selected += [self.store.repository_id(name) for name in names]
            self.store.groups(scope)[group.id] = group
            return group

    # -- runners

    def add_runners(self, request: Request) -> list[Json]:
        """Create ``count`` records in a scope. ``status`` forces it; ``name`` may hold ``{n}``."""
        given = request.json
        with self.store.lock:
            count = int(given.get("count", 1))
            made = [self._add_runner(given, number) for number in range(1, count + 1)]
            return [] if given.get("quiet") else [self.show_runner(runner) for runner in made]

    def _add_runner(self, given: Json, number: int) -> Runner:
        store = self.store
        scope = scope_of(given["scope"])
        many = int(given.get("count", 1)) > 1
        name = given.get("name", "runner-{n}")
        name = name.replace("{n}", str(number)) if "{n}" in name else (f"{name}-{number}" if many else name)
        fixed = given.get("default_labels", ["self-hosted", "Linux", "X64"])
        labels = store.labels(fixed, kind="read-only") + store.labels(given.get("labels", []), kind="custom")
        known = {
            key: given[key]
            for key in ("os", "version", "group_id", "ephemeral", "busy", "architecture")
            if key in given
        }
        runner = Runner(
            store.next_id(), name, scope, labels, **{"os": "Linux", "group_id": DEFAULT_GROUP, **known}
        )
        runner.forced_status = given.get("status", "offline")
        return store.add_runner(runner)

    def list_runners(self, request: Request) -> list[Json]:
        """All records of a scope (or all), in one answer."""
        scope = request.query.get("scope")
        with self.store.lock:
            chosen = (
                self.store.state.runners.values()
                if scope is None
                else self.store.by_scope.get(scope_of(scope), {}).values()
            )
            return [{**self.show_runner(runner), "scope": runner.scope} for runner in chosen]

    def _runner(self, request: Request) -> Runner:
        runner = self.store.state.runners.get(int(request.params["id"]))
        if runner is None:
            raise RefusalError(404, "no such runner")
        return runner

    def change_runner(self, request: Request) -> Json:
        """Change a record behind everyone's back. ``status``: online, offline, or null for the truth."""
        with self.store.lock:
            runner, given = self._runner(request), request.json
            for name in ("busy", "version", "os", "group_id", "ephemeral"):
                if name in given:
                    setattr(runner, name, given[name])
            if "status" in given:
                runner.forced_status = given["status"]
            if "labels" in given:
                fixed = [label for label in runner.labels if label.type == "read-only"]
                runner.labels = fixed + self.store.labels(given["labels"], kind="custom")
            self.jobs.dispatch()
            self.store.changed.notify_all()
            return self.show_runner(runner)

    def delete_runner(self, request: Request) -> None:
        """Remove a record, busy or not."""
        with self.store.lock:
            self.jobs.forget(self._runner(request))

    # -- jobs

    def add_job(self, request: Request) -> Json:
        """Queue a job."""
        return {"id": self.jobs.add(request.json).id}

    def list_jobs(self, _request: Request) -> list[Job]:
        """All jobs."""
        return list(self.store.state.jobs.values())

    def get_job(self, request: Request) -> Job:
        """One job; with ``status`` and ``wait`` (seconds) when it has that status or the time is over."""
        wanted = request.query.get("status")
        with self.store.lock:
            job = self.jobs.job(int(request.params["id"]))
            self._wait(request, lambda: wanted is None or job.status in (wanted, "completed"))
            return job

    def job_log(self, request: Request) -> Json:
        """The log from ``offset``, with the next one; waits up to ``wait`` seconds for more."""
        offset, job_id = int(request.query.get("offset", 0)), int(request.params["id"])
        with self.store.lock:
            job, logs = self.jobs.job(job_id), self.store.state.logs
            self._wait(request, lambda: len(logs[job_id]) > offset or job.status == "completed")
            return {"text": logs[job_id][offset:], "offset": len(logs[job_id]), "status": job.status}

    def _wait(self, request: Request, done: Callable[[], bool]) -> None:
        until = time.monotonic() + min(float(request.query.get("wait", 0)), _MAX_WAIT)
        while not done() and not self.jobs.stopping:
            left = until - time.monotonic()
            if left <= 0:
                return
            self.store.changed.wait(min(left, 0.5))

    def cancel_job(self, request: Request) -> None:
        """Cancel a job, queued or running."""
        self.jobs.cancel(int(request.params["id"]))

    # -- faults and journal

    def add_fault(self, request: Request) -> Any:
        """Take a fault into force."""
        return self.faults.add(request.json)

    def clear_faults(self, request: Request) -> None:
        """End all faults, or those of one ``name``."""
        self.faults.clear(request.query.get("name"))

    def requests(self, request: Request) -> Json:
        """Requests by ``kind``, ``method``, ``path`` (prefix) and ``since`` (number)."""
        entries = self.journal.select(**request.query)
        return {"total": len(entries), "writes": self.journal.writes(entries), "requests": entries}


def _asset(architecture: str, version: str, entry: Json) -> Json:
    filename = f"actions-runner-linux-{architecture}-{version}.tar.gz"
    return {"filename": filename, "digest": f"sha256:{entry['sha256']}", **entry}
