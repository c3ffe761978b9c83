"""Debian's own driver, for real: packages from contrib and non-free, and DKMS builds the kernel module."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.hosts.controller import Controller
from tests.hosts.host import Host
from tests.hosts.world import World
from tests.system.site import Site

TASK = "Install the driver the spec asks for"
V100 = "1db6"  # the newest generation that still needs the proprietary modules
VARIABLES = {
    "nvidia_driver_manage": True,
    "nvidia_driver_device_ids": [V100],
    "nvidia_driver_source": "distribution",
    "nvidia_driver_gpu_count": 1,
    "nvidia_driver_require_loaded": False,
    "github_runner_slots": [],
}


def _driver_findings(host: Host) -> dict[str, dict[str, Any]]:
    """What `runnerctl health` says of the driver on the host, by check."""
    done = host.exec("runnerctl", "health", "-o", "json", check=False)
    findings = json.loads(done.stdout)["findings"]
    return {each["id"]: each for each in findings if each["id"].startswith("driver.")}


@pytest.mark.dkms
@pytest.mark.timeout(900)
def test_debians_driver_is_built_and_said_to_be_not_loaded(
    host: Host, world: World, controller: Controller
) -> None:
    """The module is there for the kernel whose headers are; nothing pretends that it is loaded."""
    site = Site([host], world, controller, VARIABLES)
    first = site.start("provision.yml", "--tags", "nvidia_driver,conda,runnerctl").wait(seconds=800)
    assert first.rc == 0, first.output
    (module,) = site.shell("ls /lib/modules/*/updates/dkms/nvidia-current.ko*").split()
    kernel = module.split("/")[3]
    assert f"{kernel}, x86_64: installed" in site.shell("dkms status")
    said = host.exec("nvidia-smi", check=False)
    assert said.rc == 9
    assert "couldn't communicate with the NVIDIA driver" in said.stdout
    findings = _driver_findings(host)
    assert findings["driver.nvml"]["status"] == "CRITICAL"
    assert "the driver is not loaded" in findings["driver.nvml"]["summary"]
    bad = {name: each for name, each in findings.items() if each["status"] != "OK"}
    assert set(bad) == {"driver.nvml"}, bad
    assert host.state() == "running"
    assert "nvidia-kernel-dkms" in site.shell("apt-mark showhold")
    again = site.provision("--tags", "nvidia_driver")
    assert again.recap[host.name].changed == 0, again.changed()
