"""A part of the demonstration: a new runner release while a job runs, and the fleet as it is seen."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.fakes.github_api import Control
from tests.hosts.console import WIDTH, Console
from tests.hosts.controller import NOT_INHERITED, Controller
from tests.hosts.machine import ROOT
from tests.hosts.standins import NEXT_RELEASE

__all__ = ["VARIABLES", "Desk", "fleet", "upgrade"]

# A real fleet waits over a minute, so that a job on its way to a runner arrives; nobody wants to watch that.
VARIABLES = {"github_runner_drain_quiet_seconds": 3}
SECONDS = 180
LONG_JOB = "echo the job begins; sleep 12; echo the job ends by itself"


@dataclass(frozen=True)
class Desk:
    """The controller's command line, with its inventory and its credential."""

    controller: Controller
    token: str
    console: Console

    def run(self, *words: str) -> int:
        """Run `runnerctl` and show what it says, as it says it."""
        self.console.line(f"$ runnerctl {' '.join(words)}")
        program = Path(sys.executable).with_name("runnerctl")
        command = [str(program), *words, "-i", str(self.controller.inventory)]
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(NOT_INHERITED)}
        environment = {
            **inherited,
            "GH_TOKEN": self.token,
            "COLUMNS": str(WIDTH),
            "NO_COLOR": "1",
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_SSH_CONTROL_PATH_DIR": str(self.controller.keys.control_path),
            "RUNNERCTL_CACHE_DIR": str(self.controller.directory / "cache"),
        }
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        sys.stdout.write((done.stderr + done.stdout).rstrip() + "\n")
        return done.returncode


def upgrade(desk: Desk, control: Control, name: str, labels: tuple[str, ...]) -> int:
    """Upgrade under a running job; 0 when the job succeeded and the runner is online with the new release."""
    job = control.add_job(labels=labels, repository="acme/widgets", run=LONG_JOB)
    control.wait_job(job, status="in_progress", seconds=30)
    desk.console.line(f"release {NEXT_RELEASE} is out, and a job runs")
    rc = desk.run("upgrade")
    done = control.wait_job(job, seconds=60)
    log = [line for line in control.job_log(job).splitlines() if re.search(r"the job (begins|ends)", line)]
    runner = next(each for each in control.runners() if each["name"] == name)
    last = re.sub(r"^\S+Z ", "", log[-1]) if log else ""
    desk.console.line(f"the job: {done.get('result')} ({last}); the runner: {runner['status']}")
    good = done.get("result") == "Succeeded" and runner["version"] == NEXT_RELEASE
    return rc or (0 if good else 1)


def fleet(desk: Desk, page: Path) -> int:
    """The fleet's table and page (a path from the checkout); the verdict's exit code is shown."""
    rc = desk.run("fleet", "--html", str(page))
    desk.console.line(f"exit status {rc}; the page has {(ROOT / page).stat().st_size // 1024} KiB")
    return 0 if rc in (0, 1) else 1
