"""A part of the demonstration: two GPUs become two slots, and neither's job reaches the other's GPU."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable
from typing import Any

from tests.fakes.github_api import Control
from tests.hosts import gpu
from tests.hosts.console import Console
from tests.hosts.controller import Outcome
from tests.hosts.host import Host

__all__ = ["COUNT", "split", "two_jobs"]

COUNT = 2
SECOND = "GPU-0c2d9a51-7b44-4f0e-8a6d-2f3b5c7d9e11"
TWO_L4 = (
    "count 2\n"
    f"gpu.0.name {gpu.NAME}\ngpu.0.uuid {gpu.UUID}\ngpu.0.minor 0\n"
    f"gpu.1.name {gpu.NAME}\ngpu.1.uuid {SECOND}\ngpu.1.minor 1\n"
)
SLOTS = ("gpu0", "gpu1")
SECONDS = 60
SETTLE_SECONDS = 3  # the guard cleans up behind a job before it closes its record
# There is nothing behind the device files: with ENXIO the kernel let the job through, with EPERM it did not.
TRY = """python3 - <<'EOF'
import os
for node in ("/dev/nvidia0", "/dev/nvidia1"):
    try:
        os.close(os.open(node, os.O_RDWR))
        print("TRIED", node, "opened")
    except OSError as error:
        print("TRIED", node, "let through" if error.errno == 6 else error.strerror)
EOF
sleep 2 & setsid sleep 3600 & sleep 2.5"""


def split(host: Host, console: Console, provision: Callable[[dict[str, Any]], Outcome]) -> int:
    """Put a second GPU in, and have one slot made of each; 0 when that went well."""
    gpu.change(host, TWO_L4)
    console.line("a second GPU is put in; inventory says github_runner_gpus_per_slot: 1")
    more = {"github_runner_slots": [{"name": "main"}], "github_runner_gpus_per_slot": 1}
    rc = provision({**more, "nvidia_driver_gpu_count": COUNT}).rc
    _show(host, console, "runnerctl slots plan")
    return rc


def two_jobs(host: Host, console: Console, control: Control, labels: tuple[str, ...]) -> int:
    """Two jobs at once, each of which tries both GPUs; 0 when each reached its own alone."""
    jobs = [
        control.add_job(
            labels=labels,
            repository="acme/widgets",
            workflow="gpu tests",
            name=f"try-{number}",
            steps=[{"name": "Which GPU can I open?", "run": TRY}],
        )
        for number in range(COUNT)
    ]
    seen = []
    for job in jobs:
        done = control.wait_job(job, seconds=SECONDS)
        log = [re.sub(r"^\S+Z ", "", line) for line in control.job_log(job).splitlines()]
        runner = done.get("runner_name") or "a runner"
        tried = [line.removeprefix("TRIED ") for line in log if line.startswith("TRIED ")]
        seen.append(tuple(sorted(line.partition(" ")[2] for line in tried)))
        console.line(f"| {runner}: {'; '.join(tried)}: {done.get('result')}")
    _show(host, console, f"runnerctl isolation verify {SLOTS[0]}")
    time.sleep(SETTLE_SECONDS)
    _show(host, console, "runnerctl jobs --limit 3")
    return 0 if seen == [("Operation not permitted", "let through")] * COUNT else 1


def _show(host: Host, console: Console, command: str) -> None:
    console.line(f"$ {command}")
    done = host.ssh(command, check=False)
    sys.stdout.write((done.stdout + done.stderr).rstrip() + "\n")
