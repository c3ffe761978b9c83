"""The machine: its name and system, its spec, the NVIDIA module, the GPUs on its bus, conda."""

from __future__ import annotations

import os
import re
import socket
import stat
from pathlib import Path
from typing import Any

from runnerctl.core.snapshot import (
    Conda,
    Host,
    NvidiaModule,
    PciGpu,
    SpecFile,
    Unavailable,
    UnavailableKind,
)
from runnerctl.errors import AccessError, RunnerctlError
from runnerctl.hostfile import HOST_FILE, load_host_spec
from runnerctl.probes.bounded import Outcome, Report
from runnerctl.probes.files import read_bytes, read_line, under

__all__ = [
    "CONDA_PREFIX",
    "has_nvml",
    "parse_conda",
    "parse_nvidia_version",
    "parse_os_release",
    "read_conda",
    "read_host",
    "read_nvidia_module",
    "read_pci_gpus",
    "read_spec",
]

CONDA_PREFIX = "/opt/miniforge3"
_NVIDIA = "0x10de"
_DISPLAY = "0x03"
_CONDA_RECORD = re.compile(r"conda-(\d[^-]*)-[^-]+\.json")


def read_host(rootfs: Path) -> Host:
    """Name, system and kind of the machine. What cannot be read is empty."""
    here = rootfs == Path("/")
    release = parse_os_release(read_bytes(under(rootfs, "/etc/os-release")) or b"")
    name = socket.gethostname() if here else read_line(under(rootfs, "/etc/hostname")) or ""
    return Host(
        name=name,
        os_id=release.get("ID", ""),
        os_version=release.get("VERSION_ID", ""),
        os_name=release.get("PRETTY_NAME", ""),
        kernel=os.uname().release,
        machine=os.uname().machine,
        container=_container(rootfs),
        root=os.geteuid() == 0,
        systemd=under(rootfs, "/run/systemd/system").is_dir(),
    )


def parse_os_release(data: bytes | Unavailable) -> dict[str, str]:
    """The fields of an os-release file (os-release(5))."""
    if isinstance(data, Unavailable):
        return {}
    fields = {}
    for line in data.decode("utf-8", "replace").splitlines():
        name, separator, value = line.partition("=")
        if separator and not line.startswith("#"):
            fields[name.strip()] = value.strip().strip("\"'")
    return fields


def _container(rootfs: Path) -> str | None:
    """The kind of container this is; systemd and the engines each leave their mark."""
    if kind := read_line(under(rootfs, "/run/systemd/container")):
        return kind
    for mark, kind in (("/.dockerenv", "docker"), ("/run/.containerenv", "podman")):
        if under(rootfs, mark).exists():
            return kind
    return None


def read_spec(rootfs: Path) -> SpecFile | Unavailable:
    """The spec in host.json; one that cannot be used is `Unavailable`, none at all an empty `SpecFile`."""
    path = under(rootfs, str(HOST_FILE))
    try:
        return SpecFile(str(path), load_host_spec(path))
    except RunnerctlError as error:
        kind: UnavailableKind = "denied" if isinstance(error, AccessError) else "error"
        return Unavailable(f"{path} {error.what}", kind=kind, remedy=error.remedy)


def read_nvidia_module(rootfs: Path) -> NvidiaModule:
    """The loaded kernel module's version, from both places that tell, and the GPUs that it runs."""
    text = read_bytes(under(rootfs, "/proc/driver/nvidia/version"))
    version, is_open = parse_nvidia_version(text if isinstance(text, bytes) else b"")
    try:
        gpus = tuple(sorted(os.listdir(under(rootfs, "/proc/driver/nvidia/gpus"))))
    except OSError:
        gpus = None
    return NvidiaModule(read_line(under(rootfs, "/sys/module/nvidia/version")), version, is_open, gpus)


def parse_nvidia_version(data: bytes) -> tuple[str | None, bool | None]:
    """Version and flavour in /proc/driver/nvidia/version: ``NVRM version: NVIDIA UNIX ... 575.57.08 ...``."""
    text = data.decode("utf-8", "replace")
    found = re.search(r"^NVRM version:.*?\s(\d+\.\d+(?:\.\d+)?)\s", text, re.MULTILINE)
    return (found[1], "Open Kernel Module" in text) if found else (None, None)


def has_nvml(rootfs: Path) -> bool:
    """Whether the driver's library is installed where distributions put it."""
    places = (f"/usr/lib/{os.uname().machine}-linux-gnu", "/usr/lib64", "/usr/lib")
    return any(under(rootfs, f"{place}/libnvidia-ml.so.1").exists() for place in places)


def read_pci_gpus(rootfs: Path) -> tuple[PciGpu, ...] | Unavailable:
    """NVIDIA's display-class functions on the PCI bus; none where there is no such bus."""
    try:
        devices = sorted(under(rootfs, "/sys/bus/pci/devices").iterdir())
    except FileNotFoundError:
        return ()
    except OSError as error:
        return Unavailable(f"the PCI bus cannot be read: {error.strerror}")
    found = []
    for device in devices:
        if read_line(device / "vendor") != _NVIDIA:
            continue
        if (read_line(device / "class") or "").startswith(_DISPLAY):
            driver = device / "driver"
            name = driver.resolve().name if driver.exists() else None
            found.append(PciGpu(device.name, read_line(device / "device") or "", name))
    return tuple(found)


def read_conda(report: Report, *, rootfs: Path, prefix: str = CONDA_PREFIX) -> dict[str, Any]:
    """What `parse_conda` reads: conda's version from the prefix's package records, and who may change it.

    Raises OSError when the prefix cannot be read.
    """
    path = under(rootfs, prefix)
    report.stage(f"stat {prefix}")
    try:
        mode = path.stat()
        names = os.listdir(path / "conda-meta")
    except (FileNotFoundError, NotADirectoryError):
        return {"prefix": prefix}
    versions = [found[1] for name in names if (found := _CONDA_RECORD.fullmatch(name))]
    others = bool(mode.st_mode & (stat.S_IWGRP | stat.S_IWOTH))
    version = versions[0] if versions else None
    return {"prefix": prefix, "version": version, "owner_uid": mode.st_uid, "writable_by_others": others}


def parse_conda(outcome: Outcome) -> Conda | Unavailable:
    """The reading, or why the prefix could not be read."""
    return outcome.failure or Conda(**outcome.value)
