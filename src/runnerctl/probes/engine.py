"""The Docker Engine, through its own SDK, in a bounded child."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from runnerctl.core.snapshot import Docker, Unavailable
from runnerctl.probes.bounded import Outcome, Report

__all__ = ["engine_client", "parse_docker", "plain_reason", "read_docker"]


def read_docker(report: Report, *, environ: Mapping[str, str], timeout_seconds: float) -> dict[str, Any]:
    """Ping, version and runtimes of the Engine that ``DOCKER_HOST`` names, or of the local one."""
    client = engine_client(report, environ=environ, timeout_seconds=timeout_seconds)
    report.stage("version")
    version = client.version()
    report.stage("info")
    runtimes = sorted(client.info().get("Runtimes") or {})
    return {"version": version.get("Version"), "api_version": version.get("ApiVersion"), "runtimes": runtimes}


def engine_client(report: Report, *, environ: Mapping[str, str], timeout_seconds: float) -> Any:
    """A client of the Engine, which has answered a ping. Raises what the SDK raises."""
    report.stage("import of the docker SDK")
    import docker

    report.stage("ping")
    client = docker.from_env(environment=dict(environ), timeout=max(1, int(timeout_seconds)))
    client.ping()
    return client


def parse_docker(outcome: Outcome) -> Docker | Unavailable:
    """An Engine that does not answer is a reading as well; only our own SDK missing is none."""
    failure = outcome.failure
    if failure is None:
        return msgspec.convert({"reading": "taken", **outcome.value}, Docker)
    if failure.call.startswith("import"):
        return failure
    return Docker(failure=f"{failure.call}: {plain_reason(failure.reason)}")


def plain_reason(reason: str) -> str:
    """The SDK wraps the cause in layers; the innermost tells it."""
    for cause in ("No such file or directory", "Permission denied", "Connection refused"):
        if cause in reason:
            return f"{cause.lower()} at its socket"
    return reason
