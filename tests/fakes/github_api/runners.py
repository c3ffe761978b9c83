"""REST operations on runners of a repository, an organisation or an enterprise."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any
from urllib.parse import urlencode

import msgspec

from tests.fakes.github_api.jobs import Jobs
from tests.fakes.github_api.openapi import SCOPES
from tests.fakes.github_api.state import Release, Runner
from tests.fakes.github_api.store import SYSTEM_LABELS, Store, scope_of, timestamp
from tests.fakes.github_api.wire import Answer, Json, RefusalError, Request

__all__ = ["Handler", "Routes", "Runners", "page_of", "paged", "scope_base"]

Handler = Callable[[Request], Answer]
Routes = dict[tuple[str, str], Handler]
MAX_PER_PAGE = 100
DEFAULT_PER_PAGE = 30


def scope_base(request: Request) -> str:
    """The scope's base of a request's path, as it was written."""
    if "org" in request.params:
        return f"/orgs/{request.params['org']}"
    if "enterprise" in request.params:
        return f"/enterprises/{request.params['enterprise']}"
    return f"/repos/{request.params['owner']}/{request.params['repo']}"


def page_of(request: Request) -> tuple[int, int, int]:
    """Page number, page size and first index of a list request. GitHub's largest page is 100."""
    size = min(max(int(request.query.get("per_page", DEFAULT_PER_PAGE)), 1), MAX_PER_PAGE)
    page = max(int(request.query.get("page", 1)), 1)
    first = (page - 1) * size - (request.shift if page > 1 else 0)
    return page, size, max(first, 0)


def paged(request: Request, *, total: int, key: str | None, items: list[Any]) -> Answer:
    """One page with its Link header. ``items`` are those of this page."""
    page, size, _ = page_of(request)
    last = max((total + size - 1) // size, 1)
    pages = {"prev": page - 1, "next": page + 1, "first": 1, "last": last}
    if page <= 1:
        pages = {name: pages[name] for name in ("next", "last")}
    if page >= last:
        pages = {name: number for name, number in pages.items() if name in ("prev", "first")}
    links = [
        f"<{request.api}{request.path}?{urlencode({**request.query, 'page': number})}>; rel=\"{name}\""
        for name, number in pages.items()
    ]
    body: Any = items if key is None else {"total_count": total, key: items}
    return Answer(200, body, {"Link": ", ".join(links)} if links else {})


def cut(request: Request, values: Iterable[Any]) -> list[Any]:
    """The part of a collection that a request's page shows."""
    _, size, first = page_of(request)
    return list(islice(values, first, first + size))


class Runners:
    """The operations of the contract's section 3."""

    def __init__(self, store: Store, jobs: Jobs) -> None:
        self.store = store
        self.jobs = jobs

    def routes(self) -> Routes:
        """Handlers by method and path template, for all three scopes."""
        table: dict[tuple[str, str], Handler] = {
            ("GET", "/actions/runners"): self.index,
            ("GET", "/actions/runners/{runner_id}"): self.get,
            ("DELETE", "/actions/runners/{runner_id}"): self.delete,
            ("POST", "/actions/runners/registration-token"): self.registration_token,
            ("POST", "/actions/runners/remove-token"): self.remove_token,
            ("POST", "/actions/runners/generate-jitconfig"): self.jitconfig,
            ("GET", "/actions/runners/downloads"): self.downloads,
            ("GET", "/actions/runners/deprecations/{version}"): self.deprecations,
            ("GET", "/actions/runners/{runner_id}/labels"): self.labels,
            ("POST", "/actions/runners/{runner_id}/labels"): self.add_labels,
            ("PUT", "/actions/runners/{runner_id}/labels"): self.set_labels,
            ("DELETE", "/actions/runners/{runner_id}/labels"): self.clear_labels,
            ("DELETE", "/actions/runners/{runner_id}/labels/{name}"): self.remove_label,
        }
        return {
            (method, base + tail): handler
            for (method, tail), handler in table.items()
            for base in SCOPES.values()
        }

    def show(self, runner: Runner) -> Json:
        """A runner as the API shows it."""
        return {
            "id": runner.id,
            "name": runner.name,
            "os": runner.os,
            "status": "online" if self.jobs.online(runner) else "offline",
            "busy": runner.busy,
            "ephemeral": runner.ephemeral,
            "version": runner.version,
            "runner_group_id": runner.group_id,
            "labels": [{"id": label.id, "name": label.name, "type": label.type} for label in runner.labels],
        }

    def _one(self, request: Request) -> Runner:
        return self.store.runner(scope_of(scope_base(request)), int(request.params["runner_id"]))

    def index(self, request: Request) -> Answer:
        """All runners of a scope, or the one of an exact name."""
        scope = scope_of(scope_base(request))
        name = request.query.get("name")
        if name is not None:
            found = self.store.by_name.get((scope, name.lower()))
            chosen = [found] if found is not None and found.name == name else []
            total = len(chosen)
            shown = cut(request, chosen)
        else:
            everyone = self.store.by_scope.get(scope, {})
            total = len(everyone)
            shown = cut(request, everyone.values())
        return paged(request, total=total, key="runners", items=[self.show(runner) for runner in shown])

    def get(self, request: Request) -> Answer:
        """One runner."""
        return Answer(200, self.show(self._one(request)))

    def delete(self, request: Request) -> Answer:
        """Remove a record; 422 while it runs a job. An idle listener is told at its poll."""
        runner = self._one(request)
        if runner.busy:
            raise RefusalError(
                422, f'Runner "{runner.name}" is currently running a job and cannot be deleted.'
            )
        self.jobs.forget(runner)
        return Answer(204)

    def registration_token(self, request: Request) -> Answer:
        """A registration token: an hour, many uses."""
        return self._token(request, "registration")

    def remove_token(self, request: Request) -> Answer:
        """A remove token: an hour; it cannot register."""
        return self._token(request, "remove")

    def _token(self, request: Request, kind: str) -> Answer:
        token = self.store.mint(kind, scope=scope_of(scope_base(request)))
        return Answer(201, {"token": token.value, "expires_at": timestamp(token.expires_at or 0.0)})

    def jitconfig(self, request: Request) -> Answer:
        """A record for one job and the files its listener starts from."""
        scope, wanted = scope_of(scope_base(request)), request.json
        group = self.store.group(scope, wanted["runner_group_id"])
        names = wanted["labels"]
        labels = self.store.labels(
            [name for name in names if name.lower() in SYSTEM_LABELS], kind="read-only"
        )
        labels += self.store.labels(
            [name for name in names if name.lower() not in SYSTEM_LABELS], kind="custom"
        )
        runner = Runner(
            self.store.next_id(), wanted["name"], scope, labels, group_id=group.id, ephemeral=True
        )
        self.store.add_runner(runner)
        self.store.give_secret(runner)
        blob = _jit_blob(runner, url=f"{request.origin}/_runner", work=wanted.get("work_folder", "_work"))
        self.store.keep_secret("jit", blob)
        return Answer(201, {"runner": self.show(runner), "encoded_jit_config": blob})

    def downloads(self, _request: Request) -> Answer:
        """The runner applications of the version that GitHub expects."""
        version = self.store.state.downloads_version
        release = next((item for item in self.store.state.releases if item.version == version), None)
        return Answer(200, [] if release is None else _applications(release))

    def deprecations(self, request: Request) -> Answer:
        """When a version stops registering and running; 404 for a version that was never released."""
        version = request.params["version"]
        for release in self.store.state.releases:
            if release.version == version:
                dates = {
                    "registration_deprecates_at": release.registration_deprecates_at,
                    "runtime_deprecates_at": release.runtime_deprecates_at,
                }
                return Answer(200, {"runner_version": version, **dates})
        raise RefusalError(404, "Not Found")

    # -- labels

    def _shown(self, runner: Runner) -> Answer:
        labels = self.show(runner)["labels"]
        return Answer(200, {"total_count": len(labels), "labels": labels})

    def _replace(self, runner: Runner, names: Iterable[str]) -> Answer:
        fixed = [label for label in runner.labels if label.type == "read-only"]
        taken = {label.name.lower() for label in fixed}
        runner.labels = fixed + self.store.labels(
            [name for name in names if name.lower() not in taken], kind="custom"
        )
        self.jobs.dispatch()
        return self._shown(runner)

    def labels(self, request: Request) -> Answer:
        """The labels of a runner."""
        return self._shown(self._one(request))

    def add_labels(self, request: Request) -> Answer:
        """Add custom labels."""
        runner = self._one(request)
        have = [label.name for label in runner.labels if label.type == "custom"]
        return self._replace(runner, [*have, *request.json["labels"]])

    def set_labels(self, request: Request) -> Answer:
        """Replace the custom labels; the read-only ones stay."""
        return self._replace(self._one(request), request.json["labels"])

    def clear_labels(self, request: Request) -> Answer:
        """Remove all custom labels."""
        return self._replace(self._one(request), [])

    def remove_label(self, request: Request) -> Answer:
        """Remove one custom label: 404 when absent, 422 when it is read-only."""
        runner, name = self._one(request), request.params["name"].lower()
        found = next((label for label in runner.labels if label.name.lower() == name), None)
        if found is None:
            raise RefusalError(404, "Not Found")
        if found.type == "read-only":
            raise RefusalError(422, f"Label {found.name!r} is read-only and cannot be removed")
        return self._replace(
            runner, [item.name for item in runner.labels if item.type == "custom" and item is not found]
        )


def _applications(release: Release) -> list[Json]:
    return [
        {
            "os": "linux",
            "architecture": architecture,
            "download_url": asset["download_url"],
            "filename": asset["filename"],
            "sha256_checksum": asset["sha256"],
        }
        for architecture, asset in release.assets.items()
    ]


def _jit_blob(runner: Runner, *, url: str, work: str) -> str:
    """Base64 of a JSON object: file name -> base64 of its content (runner contract, section 4)."""
    files: dict[str, Json] = {
        ".runner": {
            "agentId": runner.id,
            "agentName": runner.name,
            "poolId": runner.group_id,
            "disableUpdate": True,
            "ephemeral": True,
            "serverUrl": url,
            "gitHubUrl": "",
            "workFolder": work,
        },
        ".credentials": {"scheme": "OAuth", "data": {"clientId": str(runner.id), "authorizationUrl": url}},
        ".credentials_rsaparams": {"secret": runner.secret},
    }
    encoded = {
        name: base64.b64encode(msgspec.json.encode(content)).decode() for name, content in files.items()
    }
    return base64.b64encode(msgspec.json.encode(encoded)).decode()
