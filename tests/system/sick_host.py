"""A host with two GPUs that fall ill on command, a slot for each and one without, driven by hand."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.hosts import gpu
from tests.hosts.controller import Controller
from tests.hosts.host import Host
from tests.hosts.lab import Lab
from tests.hosts.world import World
from tests.system.site import Site

UUIDS = (gpu.UUID, "GPU-0c2d9a51-7b44-4f0e-8a6d-2f3b5c7d9e11")
SLOTS: list[dict[str, Any]] = [
    {"name": "a", "gpus": [UUIDS[0]], "labels": ["first"]},
    {"name": "b", "gpus": [UUIDS[1]], "labels": ["second"]},
    {"name": "c", "labels": ["plain"]},
]
NAMES = tuple(slot["name"] for slot in SLOTS)
HEALTHY = "count 2\n" + "".join(
    f"gpu.{index}.name {gpu.NAME}\ngpu.{index}.uuid {uuid}\ngpu.{index}.minor {index}\n"
    f"gpu.{index}.serial 132022{index}\ngpu.{index}.pci 00000000:{index + 1}1:00.0\n"
    for index, uuid in enumerate(UUIDS)
)
RESET, REBOOT = 1, 2  # what field 230 says (nvmlDeviceGpuRecoveryAction_t)
CLEAN = 2
SCENARIO = "/root/nvml/scenario"
RESETS = "/root/nvml/resets"
NOTES = "/var/lib/runnerctl/gpus.json"
SERVICE = "runnerctl-health.service"
# What nvidia-smi leaves behind when a reset goes well: a GPU that asks for nothing; or one that still does.
NVIDIA_SMI = """#!/bin/sh
echo "$@" >>{resets}
if [ -e /root/nvml/cures ]; then cp /root/nvml/healthy {scenario}; fi
"""


def sick_host(lab: Lab, world: World, hosts: Callable[..., Host], folder: Path) -> Iterator[Site]:
    """That host, provisioned once for a module."""
    host = hosts(devices=gpu.devices(2))
    gpu.install(host, HEALTHY)
    host.put(SCENARIO, HEALTHY)
    host.put("/root/nvml/healthy", HEALTHY)
    host.exec("ln", "-sf", SCENARIO, gpu.SCENARIO_IN_HOST)
    host.put("/usr/bin/nvidia-smi", NVIDIA_SMI.format(resets=RESETS, scenario=SCENARIO), mode=0o755)
    variables = {
        "conda_manage": False,
        "nvidia_driver_manage": False,
        "nvidia_driver_gpu_count": 2,
        "github_runner_slots": SLOTS,
        "runnerctl_health_interval_seconds": 36000,
        "runnerctl_health_clean_probes": CLEAN,
    }
    site = Site([host], world, Controller(folder, lab.keys), variables)
    site.provision()
    yield site
    assert world.control.violations() == []


def fresh(site: Site) -> Site:
    """That host, healthy, with nothing on hold and nothing noted."""
    heal(site)
    site.shell(f"rm -rf {NOTES} {RESETS} /root/nvml/cures /var/lib/runnerctl/hold")
    site.shell("systemctl start " + " ".join(f"gha-runner@{name}" for name in NAMES))
    for name in NAMES:
        site.github.wait_runner(site.world.scope, f"{site.host.name}-{name}")
    return site


def heal(site: Site) -> None:
    """All GPUs are well."""
    site.shell(f"cp /root/nvml/healthy {SCENARIO}")


def ail(site: Site, index: int, action: int) -> None:
    """The driver asks for a reset or a reboot of a GPU."""
    site.shell(f"echo 'gpu.{index}.field.230 {action}' >>{SCENARIO}")


def act(site: Site, times: int = 1) -> str:
    """What the timer does; returns what it said."""
    cursor = site.shell("journalctl -q -n 1 --show-cursor").splitlines()[-1].removeprefix("-- cursor: ")
    for _ in range(times):
        site.shell(f"systemctl start {SERVICE}")
    return site.shell(f"journalctl --no-pager -o cat -u {SERVICE} --after-cursor '{cursor}'")


def active(site: Site) -> set[str]:
    """The slots whose listeners run."""
    states = site.shell(
        "systemctl is-active " + " ".join(f"gha-runner@{name}" for name in NAMES) + " || true"
    )
    return {name for name, state in zip(NAMES, states.split(), strict=True) if state == "active"}


def held(site: Site) -> dict[str, str]:
    """Slot -> reason, as `runnerctl list` says."""
    slots = json.loads(site.host.ssh("runnerctl list -o json").stdout)["slots"]
    return {slot["slot"]: slot["hold_reason"] for slot in slots if slot["hold_reason"]}


def resets(site: Site) -> list[str]:
    """What nvidia-smi was called with."""
    return site.shell(f"cat {RESETS} 2>/dev/null || true").splitlines()


def events(site: Site) -> list[str]:
    """What the host noted, in order."""
    return [event["kind"] for event in json.loads(site.host.read(NOTES))["events"]]


def eventually(site: Site, wanted: set[str], *, seconds: float = 20) -> None:
    """Wait until exactly these slots run."""
    deadline = time.monotonic() + seconds
    while active(site) != wanted:
        assert time.monotonic() < deadline, (active(site), site.host.journal("gha-hold@*"))
        time.sleep(0.2)
