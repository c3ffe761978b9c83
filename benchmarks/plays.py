"""Playbooks run against test hosts, with what each run cost."""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.hosts.controller import Controller, Outcome
from tests.hosts.host import Host
from tests.hosts.world import World

__all__ = ["Cost", "Fleet", "Spread", "cpu_seconds"]

CGROUPS = Path("/sys/fs/cgroup")
PING = """- hosts: runner_hosts
  gather_facts: false
  tasks:
    - ansible.builtin.ping:
"""


@dataclass(frozen=True)
class Spread:
    """Several measurements of one thing, in seconds."""

    values: tuple[float, ...]

    @property
    def least(self) -> float:
        """The best one: what is left when nothing else disturbs."""
        return min(self.values)

    @property
    def median(self) -> float:
        """The usual one."""
        return statistics.median(self.values)


@dataclass(frozen=True)
class Cost:
    """What one run of a playbook took. CPU is user and system time in seconds, hosts' all together."""

    wall_seconds: float
    controller_seconds: float
    hosts_seconds: float
    tasks: int  # that ran on a host of the fleet, or for it, and were not skipped; of one host
    changed: int  # of all hosts
    api_calls: int
    api_writes: int
    downloads: int


class Fleet:
    """Fresh hosts that one inventory names, and what they talk to."""

    def __init__(self, hosts: Sequence[Host], world: World, controller: Controller) -> None:
        self.hosts = list(hosts)
        self.world = world
        self.controller = controller

    def provision(self, **variables: Any) -> Cost:
        """Converge once. Raises RuntimeError when the play fails."""
        self.controller.write_inventory(self.hosts, self.world.variables(**variables))
        return self._cost("provision.yml")

    def ping(self) -> Cost:
        """The floor: one play with one task that does nothing."""
        playbook = self.controller.directory / "ping.yml"
        playbook.write_text(PING)
        return self._cost(playbook)

    def _cost(self, playbook: str | Path) -> Cost:
        self.world.control.clear_requests()
        self.world.mirror.forget_downloads()
        before = [cpu_seconds(host) for host in self.hosts]
        own = _children_seconds()
        begin = time.monotonic()
        run = self.controller.start(playbook, environment=self.world.environment())
        run.process.wait(timeout=900)
        wall = time.monotonic() - begin
        spent = _children_seconds() - own
        outcome = run.wait()
        if outcome.rc:
            raise RuntimeError(f"{playbook} failed:\n{outcome.output}")
        calls, writes = self.world.control.counts()
        return Cost(
            wall_seconds=wall,
            controller_seconds=spent,
            hosts_seconds=sum(map(cpu_seconds, self.hosts)) - sum(before),
            tasks=self._tasks(outcome),
            changed=sum(outcome.recap[host.name].changed for host in self.hosts),
            api_calls=calls,
            api_writes=writes,
            downloads=sum(self.world.mirror.downloads().values()),
        )

    def _tasks(self, outcome: Outcome) -> int:
        name = self.hosts[0].name
        return sum(result.host == name and result.status in ("ok", "changed") for result in outcome.results)


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def cpu_seconds(host: Host) -> float:
    """CPU time that a host has used since it was made, its systemd and services included (cgroup v1 or v2).

    Raises RuntimeError when its control group is nowhere to be found.
    """
    name = str(host.container.id)
    for parent in (CGROUPS / "cpuacct/docker", CGROUPS / "cpu,cpuacct/docker"):
        usage = parent / name / "cpuacct.usage"
        if usage.is_file():
            return int(usage.read_text()) / 1e9
    for parent in (CGROUPS / "docker" / name, CGROUPS / "system.slice" / f"docker-{name}.scope"):
        if (parent / "cpu.stat").is_file():
            lines = (parent / "cpu.stat").read_text().splitlines()
            return int(dict(line.split() for line in lines)["usage_usec"]) / 1e6
    raise RuntimeError(f"{host.name}: no control group of container {name[:12]} below {CGROUPS}")
