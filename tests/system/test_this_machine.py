"""A machine that is its own controller: built wheel, newest ansible-core, local connection."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.hosts.host import Done, Host
from tests.hosts.machine import ROOT
from tests.hosts.world import World

NAME = "work"  # in the inventory; the machine's own name is another one
PARTS = ("src", "plugins", "roles", "playbooks", "meta")
FILES = ("pyproject.toml", "hatch_build.py", "galaxy.yml", "README.md", "LICENSE")
NEXT_VERSION = "0.99.0"
INSTALL_SECONDS = 240
PLAY_SECONDS = 240


@dataclass(frozen=True)
class Machine:
    """The host, and the stand-ins it talks to."""

    host: Host
    world: World

    def ansible(self, *words: str, directory: str = "/root", check: bool = True) -> Done:
        """Run a program of the virtual environment; the credential is in its environment only."""
        command = f"export GH_TOKEN=$(cat); cd {directory}; /root/venv/bin/{' '.join(words)}"
        return self.host.ssh(command, stdin=self.world.token, seconds=PLAY_SECONDS, check=check)

    def provision(self, *options: str) -> dict[str, int]:
        """Provision as a person would; the counts of the recap."""
        done = self.ansible("ansible-playbook", "-i hosts.yml", "runnerctl.gpu_runner.provision", *options)
        assert "[DEPRECATION WARNING]" not in done.stdout + done.stderr
        recap = re.search(rf"^{NAME}\s*:(.*)$", done.stdout, re.MULTILINE)
        assert recap, done.stdout
        return {key: int(value) for key, value in re.findall(r"(\w+)=(\d+)", recap[1])}

    def pip(self, *words: str) -> None:
        """Run pip in the virtual environment."""
        self.host.ssh(f"/root/venv/bin/pip install -q {' '.join(words)}", seconds=INSTALL_SECONDS)


def build_wheel(directory: Path, *, version: str | None = None) -> Path:
    """The wheel of the checkout; with ``version``, as a later release of it would be."""
    source = directory / "source"
    for part in PARTS:
        shutil.copytree(ROOT / part, source / part, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy(ROOT / name, source / name)
    if version:
        for file in (source / "pyproject.toml", source / "src/runnerctl/__init__.py"):
            text = re.sub(
                r'^((?:__)?version(?:__)?) = ".*"$', rf'\1 = "{version}"', file.read_text(), flags=re.M
            )
            file.write_text(text)
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(directory)]
    subprocess.run(command, cwd=source, check=True, capture_output=True, timeout=120)
    shutil.rmtree(source)
    return next(directory.glob("*.whl"))


@pytest.fixture(scope="module")
def machine(
    module_world: World, module_hosts: Callable[..., Host], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Machine]:
    """A Debian 13 machine; runnerctl in an environment of root's, and an inventory beside it."""
    host = module_hosts(suite="trixie")
    wheel = build_wheel(tmp_path_factory.mktemp("wheel"))
    host.install(wheel, f"/root/{wheel.name}")
    host.ssh("apt-get update -qq && apt-get install -y -qq --no-install-recommends python3-venv", seconds=120)
    host.ssh("python3 -m venv /root/venv")
    made = Machine(host, module_world)
    made.pip(f"'/root/{wheel.name}[controller]'")
    variables = module_world.variables(github_runner_slots=[{"name": "main"}], github_runner_packages=[])
    del variables["runnerctl_wheelhouse"]  # this machine has an index
    entry = {"ansible_connection": "local", **variables}
    host.put("/root/hosts.yml", json.dumps({"runner_hosts": {"hosts": {NAME: entry}}}))
    yield made
    assert module_world.control.violations() == []


def test_the_wheel_brings_the_command_and_the_newest_ansible(machine: Machine) -> None:
    """Into an empty environment with the machine's own Python, outside any checkout."""
    assert machine.host.ssh("/root/venv/bin/runnerctl --version").stdout.startswith("runnerctl 0.")
    version = machine.ansible("ansible --version").stdout
    assert re.search(r"core 2\.(19|[2-9]\d)\.", version), version
    assert "python version = 3.13" in version


def test_check_mode_writes_nothing_and_the_first_run_follows_it(machine: Machine) -> None:
    """Neither on the machine nor on GitHub; as many changes as predicted, and the runner works."""
    predicted = machine.provision("--check", "--diff")
    for path in ("/opt/miniforge3", "/opt/runnerctl", "/etc/runnerctl", "/var/lib/runnerctl"):
        assert not machine.host.exists(path)
    github = machine.world.control
    assert github.counts()[1] == 0
    counts = machine.provision()
    assert counts["changed"] == predicted["changed"] > 0
    assert counts["failed"] == predicted["failed"] == 0
    github.wait_runner(machine.world.scope, f"{NAME}-main")
    job = github.add_job(labels=["self-hosted", "linux", "x64"], run="id -un; $CONDA/bin/conda --version")
    assert str(github.wait_job(job)["result"]).lower() == "succeeded", github.job_log(job)
    assert "gha-main" in github.job_log(job)


def test_the_second_run_changes_nothing(machine: Machine) -> None:
    """`changed=0`, no write to GitHub; the host is healthy."""
    machine.world.control.clear_requests()
    counts = machine.provision()
    assert counts["changed"] == counts["failed"] == 0
    assert machine.world.control.counts()[1] == 0
    done = machine.host.ssh("runnerctl health", check=False)
    assert done.rc == 0, done.stdout + done.stderr


def test_a_newer_wheel_upgrades_the_command_and_spares_the_job(
    machine: Machine, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """`pip install` of another release, provision again: the host has it, and nothing of the old one."""
    wheel = build_wheel(tmp_path_factory.mktemp("newer"), version=NEXT_VERSION)
    machine.host.install(wheel, f"/root/{wheel.name}")
    machine.pip("--no-deps", f"/root/{wheel.name}")
    github = machine.world.control
    job = github.add_job(labels=["self-hosted"], run="while [ ! -e ~/go ]; do sleep 0.1; done; echo survived")
    github.wait_job(job, status="in_progress")
    assert machine.provision()["changed"] == 1
    assert machine.host.ssh("runnerctl --version").stdout.strip() == f"runnerctl {NEXT_VERSION}"
    assert machine.host.ssh("ls -d /opt/runnerctl/venv-* | wc -l").stdout.strip() == "1"
    assert github.job(job)["status"] == "in_progress"
    machine.host.ssh("touch /var/lib/gha-runner/main/home/go")
    assert str(github.wait_job(job)["result"]).lower() == "succeeded"
    assert "survived" in github.job_log(job)
    assert machine.provision()["changed"] == 0
