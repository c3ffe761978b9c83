"""A part of the demonstration: an environment that is built once, and the CI of a repository."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.fakes.conda_channel import build_channel, serve
from tests.fakes.github_api import Control
from tests.hosts.console import Console
from tests.hosts.host import Host
from tests.hosts.machine import ROOT

__all__ = ["channel", "repository", "two_jobs"]

SECONDS = 120
FILE = """name: widgets
channels: [conda-forge, nodefaults]
dependencies: [python, pip, pytest]
"""
STEPS = (
    {
        "name": "Get the environment",
        "run": f"printf '%s' '{FILE}' >environment.yml\nrunnerctl env ensure --github",
    },
    {"name": "Use it", "run": "python -m pytest --version"},
)


@contextmanager
def channel(address: str) -> Iterator[dict[str, Any]]:
    """A conda channel on this machine, and the variables that make it the host's conda-forge."""
    with tempfile.TemporaryDirectory(prefix="demo-channel-") as folder:
        build_channel(Path(folder, "channel"), ("pip", "pytest"))
        with serve(Path(folder, "channel"), address=address) as served:
            yield {"conda_store": True, "conda_store_aliases": {"conda-forge": served.url}}


def two_jobs(host: Host, console: Console, control: Control, labels: tuple[str, ...]) -> int:
    """One job after the other asks for the same environment; 0 when both had it."""
    results = []
    for number in (1, 2):
        job = control.add_job(
            labels=labels, repository="acme/widgets", name=f"env-{number}", steps=list(STEPS)
        )
        done = control.wait_job(job, seconds=SECONDS)
        results.append(str(done.get("result")).lower())
        log = [re.sub(r"^\S+Z ", "", line) for line in control.job_log(job).splitlines()]
        told = [line for line in log if re.match(r"(environment|layer)\b.*\(|pytest \d", line)]
        for line in told or log[-5:]:
            console.line(f"| job {number}: {re.sub('/var/lib/.*/', '', line)}")
    console.line("$ runnerctl env list")
    sys.stdout.write(host.ssh("runnerctl env list", check=False).stdout.rstrip() + "\n")
    return 0 if results == ["succeeded"] * 2 else 1


def repository(console: Console, home: Path) -> int:
    """The example project gets its workflow, which is then checked; 0 when nothing is found."""
    place = home / "gpubuffers"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(ROOT / "examples" / "gpubuffers", place, ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run(["git", "init", "-q", str(place)], check=True, timeout=SECONDS)
    codes = []
    for words in (("init", "--no-diff"), ("check",)):
        console.line(f"$ runnerctl ci {' '.join(words)}")
        command = [str(Path(sys.executable).with_name("runnerctl")), "ci", *words]
        done = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=SECONDS)
        sys.stdout.write((done.stdout + done.stderr).rstrip() + "\n")
        codes.append(done.returncode)
    return max(codes)
