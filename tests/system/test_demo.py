"""What a newcomer does first."""

from __future__ import annotations

import os
import re
import subprocess
import sys

from tests.hosts.controller import NOT_INHERITED
from tests.hosts.host import names
from tests.hosts.lab import Lab
from tests.hosts.machine import ROOT

WARM_SECONDS = 360  # 100 on a quiet machine; the suite runs several hosts on the same cores


def test_the_demonstration_shows_the_whole_path(lab: Lab) -> None:
    """A bare host becomes a runner: online with its labels, running a job, healthy; then nothing stays."""
    name = f"demo-{os.getpid()}"
    done = subprocess.run(
        [sys.executable, "-m", "tests.hosts.demo", "--name", name],
        cwd=ROOT,
        env={key: value for key, value in os.environ.items() if not key.startswith(NOT_INHERITED)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=WARM_SECONDS,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    shown = done.stdout
    assert f"{name}-main  online  self-hosted Linux X64 gpu" in shown
    assert f"| gha-main on {name}, runner {name}-main" in shown
    assert "Succeeded" in shown
    assert f"{name}: OK" in shown, shown
    assert "main: held: GPU 0: the driver asks for a reset of the GPU" in shown
    assert shown.index("GPU 0 was reset") < shown.index("slot main is released")
    assert "slot main: upgraded" in shown
    assert "the job: Succeeded (the job ends by itself); the runner: online" in shown
    assert "1 of 1 runner can take a job" in shown
    assert (
        f"| {name}-gpu0: /dev/nvidia0 let through; /dev/nvidia1 Operation not permitted: Succeeded" in shown
    )
    assert (
        f"| {name}-gpu1: /dev/nvidia0 Operation not permitted; /dev/nvidia1 let through: Succeeded" in shown
    )
    assert "isolation.devices gpu0" in shown
    assert re.search(r"job 1: environment: \w+ \(built; ", shown), shown
    assert re.search(r"job 2: environment: \w+ \(was there; ", shown), shown
    assert "no problem found in" in shown
    assert "Traceback" not in shown + done.stderr
    assert "\x1b" not in shown, "no colour where there is no terminal"
    assert all(len(line) <= 80 for line in shown.splitlines() if not line.startswith("      |"))
    assert name not in names(lab.engine)
