"""The main job, shown: a bare host becomes a runner, and a job runs on it.

Everything is real (systemd, SSH, Ansible, the role, the CLI) but GitHub, the downloads and the GPU's driver,
which the stand-ins of ``tests/fakes`` play.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.fakes.github_api import Control
from tests.hosts import gpu
from tests.hosts.console import Console
from tests.hosts.controller import Controller, Outcome, Run
from tests.hosts.engine import engine
from tests.hosts.host import Host, find, process
from tests.hosts.image import image
from tests.hosts.joblog import JobLog
from tests.hosts.lab import Lab
from tests.hosts.machine import CACHE, ROOT, HostsError
from tests.hosts.wheelhouse import wheelhouse
from tests.hosts.world import SCOPE

__all__ = ["main"]

HOME = CACHE / "demo"
READY = HOME / "standins.json"
PID = HOME / "standins.pid"
HOST = "gpu-01"
RUNNER = f"{HOST}-main"
LABELS = ("self-hosted", "linux", "x64", "gpu")
STANDINS_SECONDS = 60
ONLINE_SECONDS = 30
JOB_SECONDS = 60
WORTH_A_LINE_SECONDS = 0.1
A_JOB = {"labels": LABELS, "steps": [{"name": "hello", "run": "echo hello"}]}
STEPS: list[dict[str, str]] = [
    {"name": "Where does this run?", "run": 'echo "$(id -un) on $(hostname), runner $RUNNER_NAME"'},
    {"name": "Which GPU is mine?", "run": "ls -l /dev/nvidia0 && echo gpus=${CUDA_VISIBLE_DEVICES:-all}"},
    {"name": "Is conda there?", "run": '"$CONDA/bin/conda" --version'},
]


@dataclass(frozen=True)
class Setting:
    """What the demonstration plays on."""

    lab: Lab
    host: Host
    control: Control
    facts: dict[str, Any]


def main() -> int:
    """Run the demonstration; 0 when the host became a runner and the job succeeded."""
    parser = argparse.ArgumentParser(prog="scripts/demo", description="Shows the main job on a test host.")
    parser.add_argument(
        "--keep", action="store_true", help="leave host and stand-ins up, and say how to look around"
    )
    parser.add_argument("--down", action="store_true", help="take away what --keep left")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        if arguments.down:
            return _down()
        return _show(keep=arguments.keep)
    except HostsError as error:
        sys.stderr.write(f"demo: {error}\n")
        return 69
    except KeyboardInterrupt:
        return 130


def _down() -> int:
    lab = Lab.open(HOME / "ssh")
    host = find(lab.engine, lab.keys, HOST)
    if host:
        host.remove()
    _stop_standins()
    sys.stdout.write("removed the host and the stand-ins\n" if host else "nothing was up\n")
    return 0


def _show(*, keep: bool) -> int:
    begin = time.monotonic()
    console = Console(7)
    console.title("runnerctl: from a bare host to a healthy, labelled runner")
    lab = _set_up(console)
    kept = False
    try:
        stage = _stage(console, lab, keep=keep)
        rc = _play(console, stage)
        kept = keep
    finally:
        console.drop()
        if not kept:
            _clear()
    took = time.monotonic() - begin
    console.line()
    if keep:
        _look_around(console, stage)
    sys.stdout.write(f"{'Done' if rc == 0 else 'Not done'} in {took:.0f} s")
    sys.stdout.write(".\n" if keep else "; the host and the stand-ins are gone again.\n")
    return rc


def _set_up(console: Console) -> Lab:
    """Step 1: what is slow the first time. Raises HostsError when a kept demonstration is up."""
    console.step("Set-up: Docker Engine, host image, wheels")
    console.begin("prepare")
    with ThreadPoolExecutor(2) as pool:
        wheels = pool.submit(wheelhouse)
        library = pool.submit(gpu.library)
        image(engine(), "bookworm")
        wheels.result()
        library.result()
    console.end("ok")
    lab = Lab.open(HOME / "ssh")
    if find(lab.engine, lab.keys, HOST):
        raise HostsError("a demonstration is up already: `scripts/demo --down` takes it away")
    return lab


def _stage(console: Console, lab: Lab, *, keep: bool) -> Setting:
    """Step 2: everything that a real site has already."""
    console.step("GitHub's stand-in and a bare Debian 12 host")
    console.begin("GitHub and the download mirror")
    facts = _start_standins()
    console.end("ok")
    console.begin(f"host {HOST}: systemd, SSH, nothing else")
    host = lab.host(HOST, devices=gpu.devices(), owner="kept" if keep else None)
    console.end(host.state().replace("running", "ok"))
    gpu.install(host, gpu.ONE_L4)
    console.line(f"{host.ip}, one {gpu.NAME} with a driver that others look after")
    return Setting(lab, host, Control(facts["github"]), facts)


def _play(console: Console, stage: Setting) -> int:
    """Steps 3 to 7: what this project is about."""
    console.step("ansible-playbook provision.yml")
    outcome = _provision(console, stage)
    if outcome.rc:
        for result in outcome.failures()[-3:]:
            console.line(f"{result.task}: {result.msg}")
        if not outcome.failures():
            console.line(
                next((line for line in outcome.output.splitlines() if "ERROR" in line), "no reason given")
            )
        console.line(f"the whole output is in {HOME.relative_to(ROOT)}/controller/play-1.log")
        return 1
    console.step("The runner, as GitHub sees it")
    runner = stage.control.wait_runner(SCOPE, RUNNER, seconds=ONLINE_SECONDS)
    labels = " ".join(label["name"] for label in runner["labels"])
    console.table(("NAME", "STATUS", "LABELS"), [(runner["name"], runner["status"], labels)])
    console.step(f"A job for [{', '.join(LABELS)}]")
    rc = _job(console, stage.control)
    for command in ("runnerctl list", "runnerctl health"):
        console.step(f"{command}, on the host")
        done = stage.host.ssh(command, check=False)
        sys.stdout.write((done.stdout + done.stderr).rstrip() + "\n")
        if done.rc:
            console.line(f"(exit status {done.rc})")
    return rc


def _provision(console: Console, stage: Setting) -> Outcome:
    shutil.rmtree(HOME / "controller", ignore_errors=True)
    controller = Controller(
        HOME / "controller", stage.lab.keys, environment={"GH_TOKEN": stage.facts["token"]}
    )
    more = {
        "github_runner_slots": [{"name": "main", "gpus": [gpu.UUID]}],
        "nvidia_driver_gpu_count": 1,
    }
    controller.write_inventory([stage.host], {**stage.facts["variables"], **more})
    run = controller.start("provision.yml")
    try:
        _follow(console, run)
    except BaseException:
        run.kill()
        raise
    outcome = run.wait()
    if recap := outcome.recap.get(HOST):
        counts = f"{recap.ok} ok, {recap.changed} changed, {recap.failed} failed"
        console.line(f"{counts}, in {outcome.duration_seconds:.1f} s")
    return outcome


def _follow(console: Console, run: Run) -> None:
    """One line for each task that changes something or takes its time, under the name of its role."""
    role, began = "", 0.0
    for event in run.follow():
        if event["event"] == "task":
            console.drop()
            began = event["at"]
            owner, _, name = event["name"].rpartition(" : ")
            owner = owner.removeprefix("runnerctl.gpu_runner.")
            if owner != role:
                role = owner
                console.line(f"role {role}")
            console.begin(name, depth=1 if role else 0)
        elif event["event"] == "result" and event["host"] == HOST:
            took = event["at"] - began
            if event["status"] in ("ok", "skipped") and took < WORTH_A_LINE_SECONDS:
                console.drop()
            else:
                console.end(event["status"], seconds=took)


def _job(console: Console, control: Control) -> int:
    begin = time.monotonic()
    job = control.add_job(
        labels=LABELS, repository="acme/widgets", workflow="gpu tests", name="gpu-tests", steps=STEPS
    )
    log = JobLog()
    offset, status = 0, "queued"
    while time.monotonic() - begin < JOB_SECONDS:
        part = control.job_log_part(job, offset=offset, wait=1.0)
        for line in log.add(part["text"]):
            console.line(f"| {line}")
        offset, status = part["offset"], part["status"]
        if status == "completed" and not part["text"]:
            break
    ended = control.job(job)
    result = ended.get("result") or ended.get("conclusion") or status
    console.line(f"{result} {time.monotonic() - begin:.1f} s after it was queued")
    return 0 if str(result).lower() in ("succeeded", "success") else 1


def _look_around(console: Console, stage: Setting) -> None:
    desk = f"{stage.facts['github']}/_control"
    console.title("Look around; it is all still up:")
    for what, command in (
        ("log in", f"ssh -F {_ssh_config(stage).relative_to(ROOT)} {HOST}"),
        ("what GitHub knows: runners, jobs, requests", f"curl {desk}/runners"),
        ("queue a job", f"curl -d '{json.dumps(A_JOB)}' {desk}/jobs"),
        ("converge again", _again(stage)),
        ("take it away", "scripts/demo --down"),
    ):
        console.line(f"# {what}")
        console.line(command)


def _ssh_config(stage: Setting) -> Path:
    """A configuration for people, who want to type less; made where `--keep` prints it."""
    options = (option.removeprefix("-o").replace("=", " ", 1) for option in stage.host.keys.options())
    lines = [
        f"HostName {stage.host.ip}",
        "User root",
        f"IdentityFile {stage.host.keys.private_key}",
        *options,
    ]
    file = HOME / "ssh_config"
    file.write_text("\n  ".join([f"Host {HOST}", *lines]) + "\n")
    return file


def _again(stage: Setting) -> str:
    inventory = (HOME / "controller/inventory.yml").relative_to(ROOT)
    return f"GH_TOKEN={stage.facts['token']} .venv/bin/ansible-playbook -i {inventory} provision.yml"


def _start_standins() -> dict[str, Any]:
    """GitHub and the mirror, in a process of their own so that --keep can leave them."""
    READY.unlink(missing_ok=True)
    command = [sys.executable, "-m", "tests.hosts", "standins", "--root", str(HOME / "mirror")]
    with (HOME / "standins.log").open("wb") as log:
        child = subprocess.Popen(
            [*command, "--ready-file", str(READY)],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    PID.write_text(process(child.pid))
    deadline = time.monotonic() + STANDINS_SECONDS
    while not READY.exists():
        if child.poll() is not None or time.monotonic() > deadline:
            raise HostsError(f"the stand-ins do not start: {(HOME / 'standins.log').read_text()[-600:]}")
        time.sleep(0.05)
    facts: dict[str, Any] = json.loads(READY.read_text())
    return facts


def _stop_standins() -> None:
    """End the process by its pid, if it is still the one we started."""
    if PID.exists() and (known := PID.read_text()):
        pid = int(known.partition(":")[0])
        if process(pid) == known:
            os.kill(pid, signal.SIGTERM)
    PID.unlink(missing_ok=True)
    READY.unlink(missing_ok=True)


def _clear() -> None:
    lab = Lab.open(HOME / "ssh")
    if host := find(lab.engine, lab.keys, HOST):
        host.remove()
    _stop_standins()


if __name__ == "__main__":
    sys.exit(main())
