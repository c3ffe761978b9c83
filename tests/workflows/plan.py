"""A workflow as a plan: its jobs in order, each as data that `steps` runs; and where jobs leave artifacts."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import yaml

from tests.workflows.expressions import Expressions

__all__ = ["PUSH", "Workflow", "artifacts"]

PUSH: dict[str, Any] = {
    "event_name": "push",
    "ref": "refs/heads/main",
    "repository": "acme/widgets",
    "workflow": "CI",
    "run_id": "1",
    "run_attempt": "1",
    "sha": "0" * 40,
    "event": {},
}


class Workflow:
    """A workflow of a repository. ``results``: what became of its jobs, for those that need them."""

    def __init__(self, repository: Path, *, name: str = "ci.yml", github: Mapping[str, Any] = PUSH) -> None:
        self.repository = repository
        self.data: dict[str, Any] = yaml.safe_load((repository / ".github/workflows" / name).read_text())
        self.github = dict(github)
        self.results: dict[str, str] = {}
        self.actions = {
            str(path.parent.relative_to(repository)): yaml.safe_load(path.read_text())
            for path in repository.glob(".github/actions/*/action.yml")
        }

    def order(self) -> list[str]:
        """The jobs so that each comes after those it needs."""
        left: dict[str, Any] = dict(self.data["jobs"])
        done: list[str] = []
        while left:
            ready = [job for job, body in left.items() if set(_needs(body)) <= set(done)]
            assert ready, f"jobs need each other: {sorted(left)}"
            for job in ready:
                done.append(job)
                del left[job]
        return done

    def is_due(self, job: str) -> bool:
        """Whether the job's ``if:`` lets it run, now that those it needs have ended."""
        body = self.data["jobs"][job]
        needed = [self.results[name] for name in _needs(body)]
        status = "success" if all(result == "success" for result in needed) else "failure"
        return Expressions(self._contexts(job), status=status).holds(body.get("if"))

    def plan(self, job: str, *, repository: str, artifacts: str, workspace: str | None = None) -> str:
        """The job as JSON for `steps`; ``repository`` is where the host has the repository."""
        body = self.data["jobs"][job]
        contexts = self._contexts(job)
        tell = Expressions(contexts)
        env = {**(self.data.get("env") or {}), **(body.get("env") or {})}
        shell = ((self.data.get("defaults") or {}).get("run") or {}).get("shell", "")
        return json.dumps(
            {
                "job": job,
                "steps": body["steps"],
                "shell": ((body.get("defaults") or {}).get("run") or {}).get("shell", shell),
                "env": {key: tell.fill(value) for key, value in env.items()},
                "contexts": contexts,
                "actions": self.actions,
                "repository": repository,
                "artifacts": artifacts,
                "workspace": workspace,
            }
        )

    def _contexts(self, job: str) -> dict[str, Any]:
        needs = {
            name: {"result": self.results.get(name, ""), "outputs": {}}
            for name in _needs(self.data["jobs"][job])
        }
        runner = {"os": "Linux", "arch": "X64", "environment": "self-hosted", "name": "here"}
        github = {**self.github, "job": job}
        return {"github": github, "needs": needs, "runner": runner, "env": {}, "steps": {}, "inputs": {}}


def _needs(body: Mapping[str, Any]) -> list[str]:
    needs = body.get("needs") or []
    return [needs] if isinstance(needs, str) else list(needs)


@contextmanager
def artifacts(address: str) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Where jobs put artifacts and find them: an address, and what lies there by now."""
    kept: dict[str, bytes] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            kept[unquote(self.path[1:])] = self.rfile.read(int(self.headers["Content-Length"]))
            self._answer(b"")

        def do_GET(self) -> None:
            name = unquote(self.path[1:])
            self._answer(kept[name] if name else json.dumps(sorted(kept)).encode())

        def _answer(self, data: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer((address, 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://{address}:{server.server_port}", kept
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
