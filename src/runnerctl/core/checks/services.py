"""What jobs count on besides the runner: Docker and conda, where the spec wants them."""

from __future__ import annotations

from collections.abc import Iterable

from runnerctl.core.findings import Check, Verdict, critical, ok, warning
from runnerctl.core.snapshot import Conda, Docker, Snapshot
from runnerctl.core.spec import HostSpec

__all__ = ["CONDA_INSTALLED", "DOCKER_ENGINE"]


def _docker_wanted(snapshot: Snapshot) -> bool:
    """Whether the spec wants a Docker Engine."""
    spec = snapshot.host_spec
    return spec is not None and spec.container_toolkit.docker


def _conda_wanted(snapshot: Snapshot) -> bool:
    """Whether the spec has Miniforge installed."""
    spec = snapshot.host_spec
    return spec is not None and spec.conda.manage


def _judge_docker(docker: Docker | None, *, spec: HostSpec | None) -> Iterable[Verdict]:
    del spec
    if docker is None:
        return
    if docker.failure:
        yield critical(f"the Docker Engine does not answer: {docker.failure}")
        return
    runtimes = ", ".join(docker.runtimes) or "none"
    summary = f"Docker Engine {docker.version} answers (API {docker.api_version}; runtimes: {runtimes})"
    yield ok(summary, version=docker.version, api_version=docker.api_version, runtimes=list(docker.runtimes))


def _judge_conda(conda: Conda, *, spec: HostSpec | None) -> Iterable[Verdict]:
    wanted = spec.conda.version if spec else None
    data = {"prefix": conda.prefix, "version": conda.version, "wanted": wanted}
    if conda.version is None:
        yield critical(f"there is no conda at {conda.prefix}", **data)
    elif conda.owner_uid != 0 or conda.writable_by_others:
        remedy = f"`chown -R root:root {conda.prefix} && chmod -R go-w {conda.prefix}`, or provision again"
        yield warning(f"{conda.prefix} is not root's alone: a job could change it", remedy, **data)
    else:
        yield ok(f"conda {conda.version} at {conda.prefix}", **data)


DOCKER_ENGINE = Check(
    id="docker.engine",
    title="The Docker Engine answers",
    docs=(
        "Only where container_toolkit_docker is true. Asks the Engine for a ping, its version and its "
        "runtimes, in a child process with a deadline."
    ),
    remedy="look at `systemctl status docker` and `journalctl -u docker`",
    judge=_judge_docker,
    needs=("docker",),
    when=_docker_wanted,
)

CONDA_INSTALLED = Check(
    id="conda.installed",
    title="Miniforge is installed and root's",
    docs=(
        "Only where conda_manage is true. Reads conda's version from the prefix's own package records "
        "and looks at the owner and mode of the prefix: what a job can write, the next job runs."
    ),
    remedy="run the provision playbook with --tags conda",
    judge=_judge_conda,
    needs=("conda",),
    when=_conda_wanted,
)
