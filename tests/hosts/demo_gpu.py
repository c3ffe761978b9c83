"""A part of the demonstration: the host takes a sick GPU out, mends it, and brings it back."""

from __future__ import annotations

import sys

from tests.hosts import gpu
from tests.hosts.console import Console
from tests.hosts.host import Host

__all__ = ["VARIABLES", "sick_and_back"]

SERVICE = "runnerctl-health.service"
CLEAN_PROBES = 2
# The timer comes round every minute; here its service is started by hand instead, so that nobody waits.
VARIABLES = {"runnerctl_health_interval_seconds": 36000, "runnerctl_health_clean_probes": CLEAN_PROBES}
RESET = 1  # field 230, the driver's own recovery action (nvml.h)


def sick_and_back(host: Host, console: Console) -> int:
    """Let the driver ask for a reset, and show what the host makes of it; 0 when the slot came back."""
    gpu.install_smi(host)
    console.line("the driver asks for a reset of GPU 0 (NVML field 230), while no job runs")
    gpu.change(host, f"{gpu.ONE_L4}gpu.0.field.230 {RESET}\n")
    _round(host, console, "first round of the health timer")
    _show(host, "runnerctl list")
    for number in range(CLEAN_PROBES + 1):
        _round(host, console, "the next round" if number else "second round")
    _show(host, "runnerctl list")
    state = host.exec("systemctl", "is-active", "gha-runner@main", check=False).stdout.strip()
    return 0 if state == "active" else 1


def _round(host: Host, console: Console, title: str) -> None:
    """What the timer starts, and what that did, from the journal."""
    mark = host.exec("journalctl", "-q", "-n", "1", "--show-cursor").stdout.splitlines()[-1]
    host.exec("systemctl", "start", SERVICE)
    cursor = mark.removeprefix("-- cursor: ")
    shown = host.exec("journalctl", "-q", "-o", "cat", f"--after-cursor={cursor}", "-t", "runnerctl").stdout
    done = [line.removeprefix("runnerctl: ") for line in shown.splitlines() if line.startswith("runnerctl: ")]
    console.line(f"{title}:")
    for line in done or ["nothing is to do"]:
        console.line(f"| {line}")


def _show(host: Host, command: str) -> None:
    done = host.ssh(command, check=False)
    sys.stdout.write((done.stdout + done.stderr).rstrip() + "\n")
