"""A runner that a test unpacks, registers, starts and watches, against the GitHub stand-in."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import requests

from tests.fakes.github_api import GithubApi

# A token that the GitHub stand-in must have been told of.
TOKEN = "ghp_admin"
FAST = {"GHA_STAND_IN_TIME_SCALE": "100"}


class RunnerBox:
    """One runner's root directory and what can be done in it."""

    def __init__(self, tarball: Path, root: Path, github: GithubApi, *, scope: str) -> None:
        root.mkdir()
        subprocess.run(["tar", "-xzf", str(tarball), "-C", str(root)], check=True, timeout=120)
        self.root = root
        self.scope = scope
        self.url = f"{github.url}/{scope.removeprefix('/repos/').removeprefix('/orgs/').lstrip('/')}"
        self.github = github
        self.output = root.parent / f"{root.name}.out"
        self.process: subprocess.Popen[bytes] | None = None
        self.env_file({})

    def env_file(self, lines: dict[str, str]) -> None:
        """Write ``.env``; waits are always short."""
        text = "".join(f"{name}={value}\n" for name, value in {**FAST, **lines}.items())
        (self.root / ".env").write_text(text)

    def token(self, kind: str = "registration") -> str:
        """A token of the kind asked for."""
        answer = requests.post(
            f"{self.github.url}{self.scope}/actions/runners/{kind}-token",
            headers={"Authorization": f"Bearer {TOKEN}", "User-Agent": "tests"},
            timeout=10,
        )
        return str(answer.json()["token"])

    def listener(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run ``Runner.Listener`` to its end."""
        return subprocess.run(
            [str(self.root / "bin" / "Runner.Listener"), *words],
            env={"PATH": os.environ["PATH"], **environment},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    def configure(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Register; the token goes through the environment."""
        return self.listener(
            *["configure", "--unattended", "--disableupdate", "--url", self.url, *words],
            ACTIONS_RUNNER_INPUT_TOKEN=self.token(),
        )

    def start(self, *words: str, user: int | None = None, **environment: str) -> None:
        """Start the listener, as another user if asked to, and wait until it listens."""
        with open(self.output, "wb") as output:
            self.process = subprocess.Popen(
                [str(self.root / "bin" / "Runner.Listener"), "run", "--startuptype", "service", *words],
                user=user,
                group=user,
                extra_groups=None if user is None else [],
                env={"PATH": os.environ["PATH"], **environment},
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self.wait_for("Listening for Jobs")

    def wait_for(self, text: str) -> str:
        """Wait for a line of output that contains ``text``."""
        eventually(lambda: text in self.output.read_text(), f"{text!r} in {self.output.read_text()!r}")
        return next(line for line in self.output.read_text().splitlines() if text in line)

    def wait(self) -> int:
        """The listener's exit code."""
        assert self.process is not None
        return self.process.wait(timeout=15)

    def run_job(self, *steps: dict[str, Any], labels: Sequence[str], **fields: Any) -> dict[str, Any]:
        """Queue a job, wait for its end, return it with its log."""
        control = self.github.control
        job = control.add_job(labels=labels, name="build", steps=list(steps), **fields)
        return {**control.wait_job(job, seconds=15), "log": control.job_log(job)}

    def stop(self) -> None:
        """End what still runs."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(timeout=5)


def eventually(check: Callable[[], bool], what: str, *, seconds: float = 10) -> None:
    """Wait for a condition."""
    until = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < until, what
        time.sleep(0.02)
