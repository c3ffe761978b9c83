"""GPUs of a test host: device files, and NVIDIA's library as a driver that others look after leaves it."""

from __future__ import annotations

from pathlib import Path

from tests.fakes.nvml import SONAME, build
from tests.hosts.host import Device, Host
from tests.hosts.machine import CACHE, ensure_programs, locked

__all__ = [
    "NAME",
    "ONE_L4",
    "SCENARIO_IN_HOST",
    "UUID",
    "change",
    "devices",
    "install",
    "install_smi",
    "library",
]

NAME = "NVIDIA L4"
UUID = "GPU-4b1d2c6e-0f3a-4c58-9d27-6f1a8e5b3c90"
ONE_L4 = f"count 1\ngpu.0.name {NAME}\ngpu.0.uuid {UUID}\ngpu.0.minor 0\n"
LIBRARY_IN_HOST = f"/usr/lib/x86_64-linux-gnu/{SONAME}"
SCENARIO_IN_HOST = "/etc/nvml-scenario"
MAJOR = 195  # NVIDIA's, in the kernel's list of devices
CONTROL_MINOR = 255


_WRITABLE_SCENARIO = "/root/nvml-scenario"  # what the health service may change; /etc is read-only to it
# A reset that goes well: the GPU asks for nothing any more.
_SMI = f"#!/bin/sh\nsed -i '/field\\.230/d' {_WRITABLE_SCENARIO}\n"


def devices(count: int = 1) -> tuple[Device, ...]:
    """The device files of so many GPUs. Nothing is behind them: to open one gives ENXIO."""
    nodes = [Device(f"/dev/nvidia{number}", MAJOR, number) for number in range(count)]
    return (Device("/dev/nvidiactl", MAJOR, CONTROL_MINOR), *nodes)


def library() -> Path:
    """NVIDIA's management library, played by ``tests/fakes/nvml``; compiled on first use."""
    ensure_programs({"gcc": "gcc libc6-dev"})
    with locked("nvml"):
        return build(CACHE / "nvml")


def install(host: Host, scenario: str = ONE_L4) -> None:
    """Put library and scenario (see ``tests/fakes/nvml/README.md``) onto a host."""
    host.install(library(), LIBRARY_IN_HOST, mode=0o755)
    host.put(SCENARIO_IN_HOST, scenario)
    host.exec("ldconfig")


def install_smi(host: Host) -> None:
    """Put an ``nvidia-smi`` onto a host that resets GPUs, as far as the scenario goes, and nothing else."""
    host.exec("mv", SCENARIO_IN_HOST, _WRITABLE_SCENARIO)
    host.exec("ln", "-s", _WRITABLE_SCENARIO, SCENARIO_IN_HOST)
    host.put("/usr/bin/nvidia-smi", _SMI, mode=0o755)


def change(host: Host, scenario: str) -> None:
    """Another scenario on a host that has `install_smi`."""
    host.put(_WRITABLE_SCENARIO, scenario)
