"""The main job, shown: a bare host becomes a runner, and a job runs on it.

Everything is real (systemd, SSH, Ansible, the role, the CLI) but GitHub, the downloads and the GPU's driver,
which the stand-ins of ``tests/fakes`` play.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.fakes.github_api import Control
from tests.fakes.github_api.control import ControlError
from tests.hosts import demo_env, demo_fleet, demo_slots, gpu
from tests.hosts.console import INDENT, WIDTH, Console
from tests.hosts.controller import Controller, Outcome, Run
from tests.hosts.demo_gpu import VARIABLES, sick_and_back
from tests.hosts.engine import engine
from tests.hosts.host import Host, find
from tests.hosts.image import image
from tests.hosts.joblog import JobLog
from tests.hosts.lab import Lab
from tests.hosts.machine import CACHE, ROOT, HostsError, speak_through
from tests.hosts.standins import Standins
from tests.hosts.wheelhouse import wheelhouse
from tests.hosts.world import SCOPE

__all__ = ["main"]

LABELS = ("self-hosted", "linux", "x64", "gpu")
STEPS = (
    {"name": "Where does this run?", "run": 'echo "$(id -un) on $(hostname), runner $RUNNER_NAME"'},
    {"name": "Which GPU is mine?", "run": "ls -l /dev/nvidia0 && echo gpus=$CUDA_VISIBLE_DEVICES"},
    {"name": "Is conda there?", "run": '"$CONDA/bin/conda" --version'},
)
A_JOB = {"labels": LABELS, "steps": [{"name": "hello", "run": "echo hello"}]}
ONLINE_SECONDS = 30
JOB_SECONDS = 60
WORTH_A_LINE_SECONDS = 0.1
ENGINE_STAYS = "The Docker Engine stays for next time; `scripts/hosts down --engine` ends it.\n"


@dataclass(frozen=True)
class Stage:
    """What the demonstration plays on. ``facts`` are those of `tests.hosts.standins.serve`."""

    lab: Lab
    host: Host
    control: Control
    facts: dict[str, Any]


class Demo:
    """One demonstration, on the host ``name``; what belongs to it is in a directory of that name."""

    def __init__(self, name: str, console: Console) -> None:
        self.name = name
        self.home = CACHE / "demo" / name
        self.console = console
        self.standins = Standins(self.home)

    def show(self, *, keep: bool) -> int:
        """The whole of it; 0 when the host became a runner and the job succeeded."""
        begin = time.monotonic()
        self.console.title("runnerctl: from a bare host to a healthy, labelled runner")
        lab = self._set_up()
        kept = False
        try:
            stage = self._stage(lab, keep=keep)
            rc = self._play(stage)
            kept = keep
        finally:
            self.console.drop()
            if not kept:
                self.down()
        self.console.line()
        if keep:
            self._look_around(stage)
        ended = f"{'Done' if rc == 0 else 'NOT DONE'} in {time.monotonic() - begin:.0f} s"
        self.console.title(ended if keep else f"{ended}; the host and the stand-ins are gone again")
        if lab.engine.ours:
            sys.stdout.write(ENGINE_STAYS)
        return rc

    def down(self) -> bool:
        """Take host and stand-ins away; False when there were none."""
        lab = Lab.open(self.home / "ssh")
        host = find(lab.engine, lab.keys, self.name)
        if host:
            host.remove()
        self.standins.stop()
        return host is not None

    def _set_up(self) -> Lab:
        """Step 1: what is slow the first time. Raises HostsError when a kept demonstration is up."""
        self.console.step("Set-up: Docker Engine, host image, wheels")
        self.console.begin("what is not there yet is made")
        with ThreadPoolExecutor(2) as pool:
            others = [pool.submit(wheelhouse), pool.submit(gpu.library)]
            image(engine(), "bookworm")
            for other in others:
                other.result()
        self.console.end("ok")
        lab = Lab.open(self.home / "ssh")
        if find(lab.engine, lab.keys, self.name):
            raise HostsError(
                f"a demonstration with host {self.name} is up: `scripts/demo --down` takes it away"
            )
        return lab

    def _stage(self, lab: Lab, *, keep: bool) -> Stage:
        """Step 2: everything that a real site has already."""
        self.console.step("GitHub's stand-in and a bare Debian 12 host")
        self.console.begin("GitHub and the download mirror")
        facts = self.standins.start()
        self.console.end("ok")
        self.console.begin(f"host {self.name}: systemd, SSH, nothing else")
        host = lab.host(self.name, devices=gpu.devices(demo_slots.COUNT), owner="kept" if keep else None)
        gpu.install(host)
        self.console.end("ok" if host.state() == "running" else host.state())
        self.console.line(f"{host.ip}, one {gpu.NAME} with a driver that others look after")
        return Stage(lab, host, Control(facts["github"]), facts)

    def _play(self, stage: Stage) -> int:
        """Steps 3 to 8: what this project is about."""
        self.console.step("ansible-playbook provision.yml")
        if self._provision(stage).rc:
            return 1
        self.console.step("The runner, as GitHub sees it")
        runner = stage.control.wait_runner(SCOPE, f"{self.name}-main", seconds=ONLINE_SECONDS)
        names = [label["name"] for label in runner["labels"]]
        derived = [name for name in names if name.startswith("gpu-")]
        labels = " ".join(name for name in names if name not in derived)
        self.console.table(("NAME", "STATUS", "LABELS"), [(runner["name"], runner["status"], labels)])
        for line in textwrap.wrap(f"and of its GPU: {' '.join(derived)}", WIDTH - len(INDENT)):
            self.console.line(line)
        self.console.step(f"A job for [{', '.join(LABELS)}]")
        rc = self._job(stage.control)
        for command in ("runnerctl list", "runnerctl health"):
            self.console.step(f"{command}, on the host")
            done = stage.host.ssh(command, check=False)
            sys.stdout.write((done.stdout + done.stderr).rstrip() + "\n")
            if done.rc:
                self.console.line(f"(exit status {done.rc})")
        self.console.step("The GPU falls ill, is taken out, mended, and comes back")
        rc = rc or sick_and_back(stage.host, self.console)
        return rc or self._fleet(stage)

    def _fleet(self, stage: Stage) -> int:
        """Steps 9 and 10: what the controller does for a fleet."""
        desk = demo_fleet.Desk(self._controller(stage), stage.facts["token"], self.console)
        self.console.step("A new runner release while a job runs, on the controller")
        self.standins.publish()
        rc = demo_fleet.upgrade(desk, stage.control, f"{self.name}-main", LABELS)
        self.console.step("Which runner can take a job? On the controller")
        rc = rc or demo_fleet.fleet(desk, (self.home / "fleet.html").relative_to(ROOT))
        return rc or self._slots(stage)

    def _slots(self, stage: Stage) -> int:
        """Steps 11 to 14: one host, several GPUs, no neighbour within reach; and what its jobs run in."""
        with demo_env.channel(stage.lab.network.gateway) as store:
            self.console.step("A second GPU: two slots instead of one, and a store of environments")
            rc = demo_slots.split(
                stage.host, self.console, lambda more: self._provision(stage, {**more, **store})
            )
            self.console.step("Two jobs at once; each tries both GPUs")
            rc = rc or demo_slots.two_jobs(stage.host, self.console, stage.control, LABELS)
            self.console.step("The same conda environment for two jobs")
            rc = rc or demo_env.two_jobs(stage.host, self.console, stage.control, LABELS)
        self.console.step("The CI of a repository, written and checked")
        return rc or demo_env.repository(self.console, self.home)

    def _controller(self, stage: Stage) -> Controller:
        environment = {"GH_TOKEN": stage.facts["token"]}
        return Controller(self.home / "controller", stage.lab.keys, environment=environment)

    def _provision(self, stage: Stage, more: dict[str, Any] | None = None) -> Outcome:
        shutil.rmtree(self.home / "controller", ignore_errors=True)
        controller = self._controller(stage)
        slots = [{"name": "main", "gpus": [gpu.UUID]}]
        variables = {"github_runner_slots": slots, "nvidia_driver_gpu_count": 1, **VARIABLES}
        variables |= {**demo_fleet.VARIABLES, **(more or {})}
        controller.write_inventory([stage.host], {**stage.facts["variables"], **variables})
        run = controller.start("provision.yml")
        try:
            self._follow(run)
        except BaseException:
            run.kill()
            raise
        outcome = run.wait()
        if recap := outcome.recap.get(self.name):
            counts = f"{recap.ok} ok, {recap.changed} changed, {recap.failed} failed"
            self.console.line(f"{counts}, in {outcome.duration_seconds:.1f} s")
        if outcome.rc:
            reasons = [f"{result.task}: {result.msg}" for result in outcome.failures()]
            for reason in reasons or [line for line in outcome.output.splitlines() if "ERROR" in line]:
                self.console.line(reason)
            self.console.line(f"the whole output is in {run.output.relative_to(ROOT)}")
        return outcome

    def _follow(self, run: Run) -> None:
        """One line for each task that changes something or takes its time, under the name of its role."""
        role, began = "", 0.0
        for event in run.follow():
            if event["event"] == "task":
                self.console.drop()
                began = event["at"]
                owner, _, name = event["name"].rpartition(" : ")
                if owner != role:
                    role = owner
                    self.console.line(f"role {role.removeprefix('runnerctl.gpu_runner.')}")
                self.console.begin(name, depth=1 if role else 0)
            elif event["event"] == "result" and event["host"] == self.name:
                took = event["at"] - began
                if event["status"] in ("ok", "skipped") and took < WORTH_A_LINE_SECONDS:
                    self.console.drop()
                else:
                    self.console.end(event["status"], seconds=took)

    def _job(self, control: Control) -> int:
        begin = time.monotonic()
        job = control.add_job(
            labels=LABELS, repository="acme/widgets", workflow="gpu tests", name="gpu-tests", steps=STEPS
        )
        log = JobLog()
        offset = 0
        while time.monotonic() - begin < JOB_SECONDS:
            part = control.job_log_part(job, offset=offset, wait=1.0)
            for line in log.add(part["text"]):
                self.console.line(f"| {line}")
            offset = part["offset"]
            if part["status"] == "completed" and not part["text"]:
                break
        result = control.job(job)["result"] or f"not completed within {JOB_SECONDS} s"
        self.console.line(f"{result} {time.monotonic() - begin:.1f} s after it was queued")
        return 0 if result == "Succeeded" else 1

    def _look_around(self, stage: Stage) -> None:
        desk = f"{stage.facts['github']}/_control"
        inventory = (self.home / "controller/inventory.yml").relative_to(ROOT)
        playbook = f".venv/bin/ansible-playbook -i {inventory} provision.yml"
        self.console.title("Look around; it is all still up:")
        for what, command in (
            ("log in", f"ssh -F {self._ssh_config(stage.host).relative_to(ROOT)} {self.name}"),
            ("what GitHub knows: runners, jobs, requests", f"curl {desk}/runners"),
            ("queue a job", f"curl -d '{json.dumps(A_JOB)}' {desk}/jobs"),
            ("converge again", f"GH_TOKEN={stage.facts['token']} {playbook}"),
            ("take it away", "scripts/demo --down"),
        ):
            self.console.line(f"# {what}")
            self.console.line(command)

    def _ssh_config(self, host: Host) -> Path:
        """A configuration for people, who want to type less."""
        options = (option.removeprefix("-o").replace("=", " ", 1) for option in host.keys.options())
        lines = [f"HostName {host.ip}", "User root", f"IdentityFile {host.keys.private_key}", *options]
        file = self.home / "ssh_config"
        file.write_text("\n  ".join([f"Host {self.name}", *lines]) + "\n")
        return file


def main() -> int:
    """Run the demonstration; 0 when the host became a runner and the job succeeded."""
    parser = argparse.ArgumentParser(prog="scripts/demo", description="Shows the main job on a test host.")
    parser.add_argument("--keep", action="store_true", help="leave it up, and say how to look around")
    parser.add_argument("--down", action="store_true", help="take away what --keep left")
    parser.add_argument("--name", default="gpu-01", help="name of the host (default: %(default)s)")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    console = Console(14)
    speak_through(console.note)
    demo = Demo(arguments.name, console)
    try:
        if not arguments.down:
            return demo.show(keep=arguments.keep)
        console.title("removed the host and the stand-ins" if demo.down() else "nothing was up")
    except (HostsError, ControlError) as error:
        sys.stderr.write(f"demo: {error}\n")
        return 69
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
