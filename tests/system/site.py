"""A runner host under test: the host, what it talks to, and the playbooks run against it."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass, field
from typing import Any

from tests.fakes.github_api import Control
from tests.hosts.controller import Controller, Outcome, Run
from tests.hosts.host import Host
from tests.hosts.world import World

__all__ = ["GPU", "LABELS", "Site"]

GPU = "GPU-6f1a0c3e-2d4b-4c5a-9e8f-0a1b2c3d4e5f"
LABELS = ["self-hosted", "linux", "x64", "gpu"]
# Enough for a runner, without what jobs of real projects want: the tests' hosts converge in seconds.
LEAN: dict[str, Any] = {"github_runner_packages": [], "github_runner_online_timeout_seconds": 30}


@dataclass
class Site:
    """One or more hosts, converged by the real playbooks."""

    hosts: list[Host]
    world: World
    controller: Controller
    variables: dict[str, Any] = field(default_factory=dict)
    per_host: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def host(self) -> Host:
        """The only host, or the first."""
        return self.hosts[0]

    @property
    def github(self) -> Control:
        """GitHub's control desk."""
        return self.world.control

    def start(self, playbook: str, *options: str, **settings: Any) -> Run:
        """Start a playbook with the inventory as it is now."""
        variables = {**self.world.variables(), **LEAN, **self.variables}
        self.controller.write_inventory(self.hosts, variables, per_host=self.per_host)
        environment = {**self.world.environment(), **settings.pop("environment", {})}
        return self.controller.start(playbook, *options, environment=environment, **settings)

    def play(self, playbook: str, *options: str, **settings: Any) -> Outcome:
        """Run a playbook to its end, whatever it is."""
        return self.start(playbook, *options, **settings).wait()

    def provision(self, *options: str, **settings: Any) -> Outcome:
        """Provision; the play must succeed."""
        outcome = self.play("provision.yml", *options, **settings)
        assert outcome.rc == 0, outcome.output
        return outcome

    def slots(self, *options: str, **settings: Any) -> Outcome:
        """Converge the runners alone; the play must succeed."""
        return self.provision("--tags", "github_runner", *options, **settings)

    def actions(self, outcome: Outcome) -> list[str]:
        """What the slots' task did, or in check mode would do."""
        actions: list[str] = outcome.result("Bring every slot to what inventory says").data["actions"]
        return actions

    def record(self, slot: str) -> dict[str, Any] | None:
        """GitHub's record of a slot of the first host."""
        return self.github.runner(self.world.scope, f"{self.host.name}-{slot}")

    def custom_labels(self, slot: str) -> set[str]:
        """The custom labels GitHub has for a slot."""
        record = self.record(slot)
        assert record is not None
        return {label["name"] for label in record["labels"] if label["type"] == "custom"}

    def job(self, run: str, *, labels: list[str] | None = None, **fields: Any) -> int:
        """Queue a job."""
        return self.github.add_job(labels=labels or LABELS, run=run, repository="acme/widgets", **fields)

    def result(self, job: int, *, seconds: float = 60.0) -> tuple[str, str]:
        """Wait for a job: its result and its log."""
        done = self.github.wait_job(job, seconds=seconds)
        return str(done.get("conclusion") or done.get("result")).lower(), self.github.job_log(job)

    def shell(self, command: str) -> str:
        """Run a command on the first host as its user's login would; returns its output."""
        return self.host.exec("sh", "-c", command).stdout

    def write(self, path: str, text: str) -> None:
        """Write a file on the first host, keeping its mode and owner."""
        self.shell(f"printf %s {shlex.quote(text)} > {shlex.quote(path)}")

    def state(self, slot: str) -> dict[str, Any]:
        """The state file of a slot."""
        data: dict[str, Any] = json.loads(self.host.read(f"/var/lib/runnerctl/slots/{slot}.json"))
        return data
