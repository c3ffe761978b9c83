"""Operations beside the runners: releases, meta, limits, permissions, queue, canned documents."""

from __future__ import annotations

import hashlib
from typing import Any

from tests.fakes.github_api.limits import Limits
from tests.fakes.github_api.openapi import Description
from tests.fakes.github_api.runners import Routes, cut, paged
from tests.fakes.github_api.state import Job, Release
from tests.fakes.github_api.store import Store, timestamp
from tests.fakes.github_api.wire import Answer, Json, RefusalError, Request

__all__ = ["General"]

_RUNNER_REPOSITORY = "actions/runner"
_REPO = "/repos/{owner}/{repo}"


class General:
    """The operations of the contract's section 5 and what a doctor command asks."""

    def __init__(self, store: Store, limits: Limits, description: Description) -> None:
        self.store = store
        self.limits = limits
        self.description = description

    def routes(self) -> Routes:
        """Handlers by method and path template."""
        return {
            ("GET", "/meta"): self.meta,
            ("GET", "/rate_limit"): self.rate_limit,
            ("GET", "/user"): self.user,
            ("GET", "/orgs/{org}"): self.organisation,
            ("GET", "/orgs/{org}/repos"): self.repositories,
            ("GET", _REPO): self.repository,
            ("GET", "/orgs/{org}/actions/permissions/self-hosted-runners"): self.self_hosted,
            ("GET", "/orgs/{org}/actions/permissions/fork-pr-contributor-approval"): self.fork_approval,
            ("GET", _REPO + "/actions/permissions/fork-pr-contributor-approval"): self.fork_approval,
            ("GET", _REPO + "/releases"): self.releases,
            ("GET", _REPO + "/releases/latest"): self.latest,
            ("GET", _REPO + "/releases/tags/{tag}"): self.tagged,
            ("GET", _REPO + "/releases/assets/{asset_id}"): self.asset,
            ("GET", _REPO + "/actions/runs"): self.runs,
            ("GET", _REPO + "/actions/runs/{run_id}/jobs"): self.run_jobs,
            ("GET", _REPO + "/actions/jobs/{job_id}"): self.job,
        }

    def document(self, request: Request) -> Answer | None:
        """The answer that a test gave for this method and path, if any."""
        given = self.store.state.documents.get(f"{request.method} {request.path}".lower())
        return None if given is None else Answer(given["status"], given["body"])

    # -- small ones

    def meta(self, request: Request) -> Answer:
        """Addresses and names to allow in firewalls."""
        inbound = {"full_domains": ["github.com"], "wildcard_domains": ["*.actions.githubusercontent.com"]}
        domains = {"website": ["*.github.com"], "actions_inbound": inbound}
        known = {"actions": ["192.0.2.0/24"], "domains": domains, "api": ["192.0.2.0/24"]}
        _ = request
        return Answer(200, self.description.sample("api-overview", **known))

    def rate_limit(self, request: Request) -> Answer:
        """The caller's limits; asking is free."""
        core = self.limits.show(request.identity)
        other = {"limit": 30, "remaining": 30, "used": 0, "reset": core["reset"]}
        registration = {"limit": 10000, "remaining": 10000, "used": 0, "reset": core["reset"]}
        resources = {"core": core, "search": other, "actions_runner_registration": registration}
        return Answer(200, {"resources": resources, "rate": core})

    def user(self, request: Request) -> Answer:
        """The user behind a personal token."""
        token = request.identity.token if request.identity is not None else None
        if token is None or token.kind == "installation":
            raise RefusalError(403, "Resource not accessible by integration")
        known = {"login": token.login, "id": self.store.owner_id(token.login), "user_view_type": "public"}
        return Answer(200, self.description.sample("public-user", **known, type="User"))

    def organisation(self, request: Request) -> Answer:
        """An organisation; any name exists."""
        name = request.params["org"]
        return Answer(
            200, self.description.sample("organization-full", login=name, id=self.store.owner_id(name))
        )

    def _repository(self, request: Request, full_name: str, schema: str) -> Json:
        public = full_name.casefold() in map(str.casefold, self.store.settings.public_repositories)
        known = {
            "id": self.store.repository_id(full_name),
            "full_name": full_name,
            "name": full_name.rpartition("/")[2],
            "url": f"{request.api}/repos/{full_name}",
            "default_branch": "main",
            "private": not public,
            "visibility": "public" if public else "private",
        }
        return self.description.sample(schema, **known)

    def repository(self, request: Request) -> Answer:
        """A repository; any name exists."""
        full_name = f"{request.params['owner']}/{request.params['repo']}"
        return Answer(200, self._repository(request, full_name, "full-repository"))

    def repositories(self, request: Request) -> Answer:
        """The repositories of an organisation that were mentioned so far."""
        prefix = request.params["org"].lower() + "/"
        names = [name for name in self.store.state.repositories if name.startswith(prefix)]
        shown = [self._repository(request, name, "minimal-repository") for name in cut(request, names)]
        return paged(request, total=len(names), key=None, items=shown)

    def self_hosted(self, _request: Request) -> Answer:
        """Which repositories may have runners of their own."""
        return Answer(200, {"enabled_repositories": "all"})

    def fork_approval(self, _request: Request) -> Answer:
        """Whose pull requests wait for an approval."""
        return Answer(200, {"approval_policy": "first_time_contributors"})

    # -- releases

    def _releases(self, request: Request) -> list[Release]:
        if f"{request.params['owner']}/{request.params['repo']}".lower() != _RUNNER_REPOSITORY:
            return []
        return list(reversed(self.store.state.releases))

    def _show_release(self, request: Request, release: Release) -> Json:
        number = _number(release.version)
        assets = [self._asset(request, release, name) for name in release.assets]
        return self.description.sample(
            "release",
            id=number,
            name=f"v{release.version}",
            tag_name=f"v{release.version}",
            author={**self.description.sample("simple-user"), "login": "github-actions[bot]"},
            published_at=release.published_at,
            prerelease=False,
            draft=False,
            body=_body(release),
            assets=assets,
            url=f"{request.api}/repos/{_RUNNER_REPOSITORY}/releases/{number}",
            html_url=f"{request.origin}/{_RUNNER_REPOSITORY}/releases/tag/v{release.version}",
        )

    def _asset(self, request: Request, release: Release, architecture: str) -> Json:
        given = release.assets[architecture]
        number = _number(given["filename"])
        return self.description.sample(
            "release-asset",
            id=number,
            name=given["filename"],
            state="uploaded",
            content_type="application/gzip",
            size=given.get("size", 0),
            digest=given.get("digest"),
            browser_download_url=given["download_url"],
            url=f"{request.api}/repos/{_RUNNER_REPOSITORY}/releases/assets/{number}",
        )

    def releases(self, request: Request) -> Answer:
        """Releases, newest first."""
        found = self._releases(request)
        shown = [self._show_release(request, release) for release in cut(request, found)]
        return paged(request, total=len(found), key=None, items=shown)

    def latest(self, request: Request) -> Answer:
        """The newest release."""
        for release in self._releases(request):
            return Answer(200, self._show_release(request, release))
        raise RefusalError(404, "Not Found")

    def tagged(self, request: Request) -> Answer:
        """The release of a tag."""
        for release in self._releases(request):
            if f"v{release.version}" == request.params["tag"]:
                return Answer(200, self._show_release(request, release))
        raise RefusalError(404, "Not Found")

    def asset(self, request: Request) -> Answer:
        """An asset: its description, or a redirect to its bytes."""
        for release in self._releases(request):
            for name, given in release.assets.items():
                if _number(given["filename"]) == int(request.params["asset_id"]):
                    if "octet-stream" in request.header("accept"):
                        return Answer(302, headers={"Location": given["download_url"]})
                    return Answer(200, self._asset(request, release, name))
        raise RefusalError(404, "Not Found")

    # -- queue

    def _jobs(self, request: Request) -> list[Job]:
        full_name = f"{request.params['owner']}/{request.params['repo']}".lower()
        return [job for job in self.store.state.jobs.values() if job.repository.lower() == full_name]

    def runs(self, request: Request) -> Answer:
        """Workflow runs, newest first; a run has the status of its least finished job."""
        runs: dict[int, list[Job]] = {}
        for job in reversed(self._jobs(request)):
            runs.setdefault(job.run_id, []).append(job)
        shown = [self._run(request, run_id, jobs) for run_id, jobs in runs.items()]
        wanted = request.query.get("status")
        shown = [run for run in shown if wanted in (None, run["status"], run["conclusion"])]
        return paged(request, total=len(shown), key="workflow_runs", items=cut(request, shown))

    def _run(self, request: Request, run_id: int, jobs: list[Job]) -> Json:
        states = {job.status for job in jobs}
        status = next((name for name in ("in_progress", "queued") if name in states), "completed")
        conclusions = {job.conclusion for job in jobs}
        done = next((name for name in ("failure", "cancelled", "success") if name in conclusions), None)
        return self.description.sample(
            "workflow-run",
            id=run_id,
            status=status,
            conclusion=done if status == "completed" else None,
            name=jobs[0].workflow,
            event=jobs[0].event_name,
            created_at=timestamp(min(job.created_at for job in jobs)),
            url=f"{request.api}{request.path}/{run_id}",
        )

    def _show_job(self, request: Request, job: Job) -> Json:
        times = {name: getattr(job, name) for name in ("created_at", "started_at", "completed_at")}
        known: dict[str, Any] = {name: timestamp(value) if value else None for name, value in times.items()}
        known["started_at"] = known["started_at"] or known["created_at"]
        names = (
            "id",
            "run_id",
            "name",
            "status",
            "conclusion",
            "labels",
            "runner_id",
            "runner_name",
            "runner_group_id",
        )
        known |= {name: getattr(job, name) for name in names}
        return self.description.sample(
            "job",
            **known,
            workflow_name=job.workflow,
            url=f"{request.api}/repos/{job.repository}/actions/jobs/{job.id}",
        )

    def run_jobs(self, request: Request) -> Answer:
        """The jobs of a run."""
        run_id = int(request.params["run_id"])
        found = [job for job in self._jobs(request) if job.run_id == run_id]
        if not found:
            raise RefusalError(404, "Not Found")
        shown = [self._show_job(request, job) for job in cut(request, found)]
        return paged(request, total=len(found), key="jobs", items=shown)

    def job(self, request: Request) -> Answer:
        """One job."""
        for job in self._jobs(request):
            if job.id == int(request.params["job_id"]):
                return Answer(200, self._show_job(request, job))
        raise RefusalError(404, "Not Found")


def _number(text: str) -> int:
    """A stable positive number for something that has only a name."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


def _body(release: Release) -> str:
    """The release notes with the checksum block of each platform (runner contract, section 1)."""
    lines = ["## SHA-256 Checksums", ""]
    for architecture, asset in release.assets.items():
        name = f"linux-{architecture}"
        checksum = asset.get("body_sha256", asset["sha256"])
        lines.append(f"- {asset['filename']} <!-- BEGIN SHA {name} -->{checksum}<!-- END SHA {name} -->")
    return "\n".join(lines)
