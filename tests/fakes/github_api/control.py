"""A client for the control desk: all that tests, demo and benchmarks use besides GitHub's own API."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import requests

__all__ = ["Control", "ControlError"]

Json = dict[str, Any]
_TIMEOUT = 40


class ControlError(Exception):
    """The stand-in refused what a test asked."""


class Control:
    """Talks to ``{url}/_control``. Scopes are API bases: ``/repos/o/r``, ``/orgs/o``, ``/enterprises/e``."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._session = requests.Session()
        self._session.trust_env = False

    def _call(
        self, method: str, path: str, *, json: Any = None, query: Mapping[str, Any] | None = None
    ) -> Any:
        response = self._session.request(
            method, f"{self.url}/_control/{path}", json=json, params=dict(query or {}), timeout=_TIMEOUT
        )
        if response.status_code >= 400:
            raise ControlError(f"{method} {path}: {response.status_code} {response.text}")
        return response.json() if response.content else None

    # -- life

    def wait_ready(self, seconds: float = 10.0) -> None:
        """Wait until the stand-in answers. Raises ControlError when it does not in time."""
        until = time.monotonic() + seconds
        while True:
            try:
                self._call("GET", "health")
                return
            except requests.ConnectionError:
                if time.monotonic() >= until:
                    raise ControlError(f"nothing answers at {self.url}") from None
                time.sleep(0.05)

    def reset(self) -> None:
        """Forget everything."""
        self._call("POST", "reset")

    def settings(self, **changes: Any) -> Json:
        """Change settings (see ``state.Settings``); answers all of them."""
        return dict(self._call("POST", "settings", json=changes))

    # -- credentials and releases

    def add_token(
        self,
        token: str,
        *,
        scopes: Sequence[str] | None = None,
        permissions: Mapping[str, str] | None = None,
        expires_at: float | None = None,
        targets: Sequence[str] | None = None,
    ) -> str:
        """Know a token (classic with ``scopes``, fine-grained with ``permissions``, else all-powerful)."""
        given: Json = {"token": token, "scopes": scopes, "permissions": permissions}
        given |= {"expires_at": expires_at, "targets": targets}
        self._call("POST", "tokens", json={name: value for name, value in given.items() if value is not None})
        return token

    def expire_token(self, token: str) -> None:
        """Make a token (also an installation token) invalid."""
        self._call("DELETE", "tokens", json={"token": token})

    def add_app(
        self, app_id: int, *, public_key: str, installations: Sequence[Json] = (), client_id: str = ""
    ) -> None:
        """Know an App.

        An installation: ``{"id", "account", "type"?, "permissions", "repositories"?, "suspended"?}``.
        """
        given = {"app_id": app_id, "public_key": public_key, "client_id": client_id}
        self._call("POST", "apps", json={**given, "installations": list(installations)})

    def release(self, version: str, **fields: Any) -> Json:
        """Publish or change a runner release.

        Fields: sha256, download_url, architectures, digest, body_sha256, downloads, published_at,
        registration_deprecates_at, runtime_deprecates_at.
        """
        return dict(self._call("POST", "release", json={"version": version, **fields}))

    def document(self, path: str, body: Any, *, method: str = "GET", status: int = 200) -> None:
        """Give the answer for an operation of the description."""
        self._call("POST", "documents", json={"path": path, "body": body, "method": method, "status": status})

    # -- records

    def add_group(self, scope: str, name: str, **fields: Any) -> Json:
        """Create a runner group. ``repositories`` (owner/repo names) fills ``selected``."""
        return dict(self._call("POST", "groups", json={"scope": scope, "name": name, **fields}))

    def add_runner(self, scope: str, name: str, **fields: Any) -> Json:
        """Create one record: labels, default_labels, status, busy, version, group_id, ephemeral, os."""
        return dict(self._call("POST", "runners", json={"scope": scope, "name": name, **fields})[0])

    def add_runners(self, scope: str, count: int, **fields: Any) -> None:
        """Create many records, named ``runner-1`` ... or by ``name`` with ``{n}``."""
        self._call("POST", "runners", json={"scope": scope, "count": count, "quiet": True, **fields})

    def runners(self, scope: str | None = None) -> list[Json]:
        """All records of a scope, or all."""
        return list(self._call("GET", "runners", query={"scope": scope} if scope else None))

    def runner(self, scope: str, name: str) -> Json | None:
        """One record by its name."""
        return next((item for item in self.runners(scope) if item["name"] == name), None)

    def change_runner(self, runner_id: int, **fields: Any) -> Json:
        """Change a record behind everyone's back: labels, busy, status (None: truth), version."""
        return dict(self._call("PATCH", f"runners/{runner_id}", json=fields))

    def delete_runner(self, runner_id: int) -> None:
        """Remove a record, busy or not."""
        self._call("DELETE", f"runners/{runner_id}")

    def wait_runner(self, scope: str, name: str, *, status: str = "online", seconds: float = 30.0) -> Json:
        """Wait for a status. Raises ControlError with the last view when it does not come in time."""
        until = time.monotonic() + seconds
        while True:
            runner = self.runner(scope, name)
            if runner is not None and runner["status"] == status:
                return runner
            if time.monotonic() >= until:
                raise ControlError(f"{name} is not {status} after {seconds:g} s: {runner}")
            time.sleep(0.1)

    # -- jobs

    def add_job(self, *, labels: Sequence[str], run: str | None = None, **fields: Any) -> int:
        """Queue a job; ``run`` is a shorthand for one step. Answers its id."""
        if run is not None:
            fields["steps"] = [{"name": "run", "run": run}]
        return int(self._call("POST", "jobs", json={"labels": list(labels), **fields})["id"])

    def job(self, job_id: int) -> Json:
        """One job."""
        return dict(self._call("GET", f"jobs/{job_id}"))

    def jobs(self) -> list[Json]:
        """All jobs."""
        return list(self._call("GET", "jobs"))

    def cancel_job(self, job_id: int) -> None:
        """Cancel a job, queued or running."""
        self._call("POST", f"jobs/{job_id}/cancel")

    def wait_job(self, job_id: int, *, status: str = "completed", seconds: float = 60.0) -> Json:
        """Wait until a job has a status (or is over). Raises ControlError when it does not in time."""
        until = time.monotonic() + seconds
        while True:
            left = until - time.monotonic()
            query = {"status": status, "wait": max(min(left, 20.0), 0.0)}
            job = dict(self._call("GET", f"jobs/{job_id}", query=query))
            if job["status"] in (status, "completed"):
                return job
            if left <= 0:
                raise ControlError(f"job {job_id} is {job['status']} after {seconds:g} s")

    def job_log(self, job_id: int, *, offset: int = 0, wait: float = 0.0) -> str:
        """A job's log from an offset (characters); waits up to ``wait`` seconds for more."""
        return str(self.job_log_part(job_id, offset=offset, wait=wait)["text"])

    def job_log_part(self, job_id: int, *, offset: int = 0, wait: float = 0.0) -> Json:
        """``{"text", "offset", "status"}``: to stream, call with the new offset until completed and empty."""
        return dict(self._call("GET", f"jobs/{job_id}/log", query={"offset": offset, "wait": wait}))

    # -- faults and journal

    def fault(self, name: str, **fields: Any) -> Json:
        """Take a fault into force (see ``faults.Fault``; ``from`` of a rename as ``from_``)."""
        fields = {key.rstrip("_"): value for key, value in fields.items()}
        return dict(self._call("POST", "faults", json={"name": name, **fields}))

    def faults(self) -> list[Json]:
        """The faults in force."""
        return list(self._call("GET", "faults"))

    def clear_faults(self, name: str | None = None) -> None:
        """End all faults, or those of one name."""
        self._call("DELETE", "faults", query={"name": name} if name else None)

    def requests(self, **wanted: Any) -> list[Json]:
        """Requests by kind (api, runner, unknown), method, path (prefix), since (number)."""
        return list(self._call("GET", "requests", query=wanted)["requests"])

    def counts(self, **wanted: Any) -> tuple[int, int]:
        """How many requests and how many writes; of the API unless ``kind`` says otherwise."""
        answer = self._call("GET", "requests", query={"kind": "api", **wanted})
        return int(answer["total"]), int(answer["writes"])

    def clear_requests(self) -> None:
        """Forget the requests."""
        self._call("POST", "requests/clear")

    def violations(self) -> list[Json]:
        """Breaches of GitHub's description, by a client or by the stand-in."""
        return list(self._call("GET", "violations"))

    def clear_violations(self) -> None:
        """Forget the violations."""
        self._call("POST", "violations/clear")

    def secrets(self, *kinds: str) -> list[str]:
        """Every secret ever told or minted (of some kinds): look for them where they must not be."""
        found = self._call("GET", "secrets")
        return [item["value"] for item in found if not kinds or item["kind"] in kinds]
