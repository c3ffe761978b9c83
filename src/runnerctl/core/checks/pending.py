"""Is there something that the running Docker Engine has still to take over?"""

from __future__ import annotations

from collections.abc import Iterable

from runnerctl.core.findings import Check, Verdict, ok, warning
from runnerctl.core.snapshot import DockerDue, Snapshot
from runnerctl.core.spec import HostSpec

__all__ = ["CHECKS"]

_PROVISION = "run the provision playbook with --tags container_toolkit when no job and no container runs"


def _noted(snapshot: Snapshot) -> bool:
    """Whether the role left a note."""
    return snapshot.docker_due is not None


def _judge_pending(docker_due: DockerDue | None, *, spec: HostSpec | None) -> Iterable[Verdict]:
    del spec
    if docker_due is None:
        return
    if docker_due.over:
        yield ok("the Engine was started after its settings were changed", reason=docker_due.reason)
        return
    act = docker_due.act if docker_due.act in ("reload", "restart") else "restart"
    summary = f"the running Docker Engine needs a {act}: {docker_due.reason}"
    yield warning(summary, f"{_PROVISION}, or `systemctl {act} docker`", act=act, reason=docker_due.reason)


CHECKS: tuple[Check, ...] = (
    Check(
        id="docker.pending",
        title="The running Docker Engine has its settings",
        docs=(
            "Only where a provision changed the Engine's settings and left the running Engine alone, because "
            "a job or a container would have suffered. The note names the process that owes the reload or "
            "restart: when another one runs, the note is over."
        ),
        remedy=f"{_PROVISION}, or `systemctl restart docker`",
        judge=_judge_pending,
        needs=("docker_due",),
        when=_noted,
    ),
)
