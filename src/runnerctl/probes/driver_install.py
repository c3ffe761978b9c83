"""The driver as it is installed, from files: what the next boot will make of it.

No package manager is run. Only on the host itself are processes started, with short deadlines of their own:
``systemctl show`` where one of the driver's units exists, ``modinfo`` where a module is packed with zstd.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from runnerctl.core.driver_names import is_driver_package
from runnerctl.core.driver_readings import DriverInstall
from runnerctl.core.snapshot import Unavailable
from runnerctl.probes import boot_guard, cdi, driver_packages, kernels, modules_on_disk, pci_paths
from runnerctl.probes.bounded import Outcome, Report
from runnerctl.probes.files import under
from runnerctl.probes.machine import read_pci_gpus

__all__ = ["parse_driver_install", "read_driver_install"]

_UNITS = {"persistenced": "nvidia-persistenced.service", "fabric_manager": "nvidia-fabricmanager.service"}
_UNIT_PLACES = (
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
)
_LIBRARY_PLACES = ("/usr/lib/{triplet}", "/usr/lib64", "/usr/lib", "/usr/lib/{triplet}/nvidia/current")
_LIBRARY = re.compile(r"libnvidia-ml\.so\.(\d+\.\d+(?:\.\d+)?)")
_VERSION = re.compile(r"(?:\d+:)?(\d+\.\d+(?:\.\d+)?)")
_FABRIC_MANAGER = re.compile(r"nvidia-fabric-?manager(?:-\d+)?")
_UNITS_SECONDS = 3.0


def read_driver_install(report: Report, *, rootfs: Path, environ: Mapping[str, str]) -> dict[str, Any]:
    """Everything of `DriverInstall` as plain data. The root is the host's own where it is ``/``."""
    report.stage("kernels and modules on disk")
    machine = os.uname().machine
    found = _kernels(rootfs, machine, environ)
    report.stage("driver packages")
    found |= _packages(rootfs, machine)
    report.stage("boot configuration")
    kernel = found["next_kernel"] or found["kernel"]
    found |= boot_guard.nouveau(rootfs, kernel)
    found |= {
        "secure_boot": boot_guard.secure_boot(rootfs),
        "mok_key": boot_guard.mok_key(rootfs),
        "mok_enrolled": boot_guard.mok_enrolled(rootfs),
    }
    report.stage("PCI bus")
    found |= _bus(rootfs)
    report.stage("CDI specification")
    found |= cdi.read_cdi(rootfs)
    report.stage("systemctl show")
    return found | _units(rootfs, environ)


def parse_driver_install(outcome: Outcome) -> DriverInstall | Unavailable:
    """The reading, or why there is none."""
    if outcome.failure is not None:
        return outcome.failure
    return msgspec.convert({"reading": "taken", **outcome.value}, DriverInstall)


def _kernels(rootfs: Path, machine: str, environ: Mapping[str, str]) -> dict[str, Any]:
    running = kernels.running_kernel(rootfs)
    installed = kernels.installed_kernels(rootfs)
    modules = modules_on_disk.read_modules(rootfs, installed, machine=machine, environ=environ)
    return {
        "kernel": running,
        "next_kernel": kernels.next_kernel(rootfs),
        "modules": msgspec.to_builtins(modules),
        "dkms_sources": modules_on_disk.dkms_sources(rootfs),
    }


def _packages(rootfs: Path, machine: str) -> dict[str, Any]:
    packages, held = driver_packages.read_packages(rootfs)
    driver = [name for name in packages if is_driver_package(name)]
    manager = next((packages[name] for name in packages if _FABRIC_MANAGER.fullmatch(name)), "")
    version = _VERSION.match(manager)
    return {
        "packages": packages,
        "held": (*held, *driver_packages.held_packages(rootfs, packages)),
        "upgrades_blocked": driver_packages.upgrades_blocked(rootfs, driver),
        "fabric_manager_version": version[1] if version else None,
        "library_version": _library(rootfs, machine),
    }


def _library(rootfs: Path, machine: str) -> str | None:
    """The version in the name of the file that ``libnvidia-ml.so.1`` leads to."""
    for place in _LIBRARY_PLACES:
        directory = place.format(triplet=f"{machine}-linux-gnu")
        target = kernels.real_path(rootfs, f"{directory}/libnvidia-ml.so.1")
        if target and (found := _LIBRARY.fullmatch(os.path.basename(target))):
            return found[1]
    return None


def _bus(rootfs: Path) -> dict[str, Any]:
    gpus = read_pci_gpus(rootfs)
    addresses = () if isinstance(gpus, Unavailable) else tuple(gpu.address for gpu in gpus)
    return {
        "nvswitches": pci_paths.count_nvswitches(rootfs),
        "iommu_type": pci_paths.iommu_type(rootfs, addresses),
        "acs_redirect": pci_paths.acs_redirect(rootfs, addresses),
        "virtual_machine": pci_paths.virtual_machine(rootfs),
    }


def _units(rootfs: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """The state of each unit that exists; below another root, or without systemd, it is not known."""
    there = {
        field: unit
        for field, unit in _UNITS.items()
        if any(os.path.lexists(under(rootfs, f"{place}/{unit}")) for place in _UNIT_PLACES)
    }
    states = dict.fromkeys(there, "unknown")
    if not there or rootfs != Path("/") or not Path("/run/systemd/system").is_dir():
        return states
    command = ["systemctl", "show", "--no-pager", "--property=Id,ActiveState", *there.values()]
    try:
        done = subprocess.run(
            command,
            env={**environ, "LC_ALL": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_UNITS_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return states
    text = done.stdout.decode("utf-8", "replace")
    for field, unit in there.items():
        for block in re.split(r"\n\s*\n", text):
            state = re.search(r"^ActiveState=(\w+)", block, re.MULTILINE)
            if f"Id={unit}" in block.splitlines() and state:
                states[field] = state[1]
    return states
