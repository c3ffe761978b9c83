"""Two small clients for tests: one of the REST API, one that speaks the runner's side."""

from __future__ import annotations

from typing import Any

import requests

__all__ = ["Caller", "Listener", "registration_url"]

_TIMEOUT = 10


class Caller:
    """A client of the REST API with one token; follows no redirect."""

    def __init__(self, url: str, token: str | None) -> None:
        self.url = url
        self.session = requests.Session()
        self.session.trust_env = False
        if token is not None:
            self.session.headers["Authorization"] = f"Bearer {token}"

    def __call__(self, method: str, path: str, body: Any = None, **options: Any) -> requests.Response:
        return self.session.request(
            method, self.url + path, json=body, timeout=_TIMEOUT, allow_redirects=False, **options
        )


def registration_url(base: str, scope: str) -> str:
    """The URL that a runner registers with, from a scope's API base."""
    return base + scope.removeprefix("/repos").removeprefix("/orgs")


class Listener:
    """Registers a runner and does what its listener does on the wire. ``fields`` describe the agent."""

    def __init__(self, api: Caller, scope: str, name: str, **fields: Any) -> None:
        self.url = api.url
        self.session_id = ""
        token = api("POST", f"{scope}/actions/runners/registration-token").json()["token"]
        body = {"name": name, "labels": ["gpu"], "version": "2.336.0", **fields}
        setup = self.setup(scope, token, event="register").json()["token"]
        self.answer = self.call("POST", "/_runner/agents", body, authorization=f"Bearer {setup}")
        self.agent: dict[str, Any] = self.answer.json()

    def setup(self, scope: str, token: str, *, event: str) -> requests.Response:
        """Exchange a registration or remove token for a setup token."""
        body = {"url": registration_url(self.url, scope), "runner_event": event}
        path = "/api/v3/actions/runner-registration"
        return self.call("POST", path, body, authorization=f"RemoteAuth {token}")

    def call(self, method: str, path: str, body: Any = None, *, authorization: str) -> requests.Response:
        """One request with a credential of the runner's side."""
        headers = {"Authorization": authorization, "User-Agent": "listener"}
        return requests.request(method, self.url + path, json=body, headers=headers, timeout=_TIMEOUT)

    def mine(self, method: str, path: str, body: Any = None) -> requests.Response:
        """One request with the agent's secret."""
        return self.call(method, "/_runner" + path, body, authorization=f"Bearer {self.agent['secret']}")

    def open(self, version: str = "2.336.0") -> requests.Response:
        """Open a session."""
        response = self.mine("POST", "/sessions", {"agent_id": self.agent["id"], "version": version})
        self.session_id = response.json().get("session_id", "")
        return response

    def poll(self, wait: float = 5) -> requests.Response:
        """One long poll of at most ``wait`` seconds."""
        return self.mine("GET", f"/messages?session_id={self.session_id}&wait={wait}")
