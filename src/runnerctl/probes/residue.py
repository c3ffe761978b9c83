"""Who holds the driver's devices open: every process's open files, read from /proc.

Runs in a bounded child: reading the files of a process that is stuck in the kernel can take its time.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from runnerctl.core.driver_readings import Residue, ResidueProcess
from runnerctl.core.snapshot import Unavailable
from runnerctl.probes.bounded import Outcome, Report
from runnerctl.probes.files import read_bytes, read_line, under
from runnerctl.probes.slots import parse_stat

__all__ = ["parse_residue", "read_residue"]

_DEVICE = re.compile(r"(/dev/nvidia[^ ]*)(?: \(deleted\))?")
_SLOT = re.compile(r"/gha-(?:runner|ephemeral)@([a-z0-9-]+)\.service(?:/|$)", re.MULTILINE)
# How Docker, Podman, containerd, CRI-O, Kubernetes, LXC and systemd-nspawn name their control groups.
_CONTAINER = re.compile(
    r"/(?:docker[/-]|libpod[-_]|cri-containerd-|crio-|kubepods|lxc[./]|machine\.slice/|containerd/|nerdctl-)"
)


def read_residue(report: Report, *, rootfs: Path) -> dict[str, Any]:
    """The processes that hold /dev/nvidia* open. Without such devices there is nothing to look for."""
    report.stage("open files of all processes")
    if not any(under(rootfs, "/dev").glob("nvidia*")):
        return {"processes": [], "complete": True}
    pids = _pids(under(rootfs, "/proc"))
    found, complete = [], bool(pids)
    for pid in pids:
        folder = under(rootfs, f"/proc/{pid}")
        try:
            devices = sorted(set(_devices(folder / "fd")))
        except PermissionError:
            complete = False
            continue
        except OSError:  # it ended meanwhile
            continue
        if devices:
            found.append(msgspec.to_builtins(_process(pid, folder, devices)))
    return {"processes": found, "complete": complete}


def _pids(proc: Path) -> list[int]:
    try:
        return sorted(int(name) for name in os.listdir(proc) if name.isdigit())
    except OSError:
        return []


def _devices(folder: Path) -> Iterator[str]:
    """The driver's devices among a process's open files."""
    for name in os.listdir(folder):
        try:
            target = os.readlink(folder / name)
        except FileNotFoundError:  # closed meanwhile
            continue
        if found := _DEVICE.fullmatch(target):
            yield found[1]


def _process(pid: int, folder: Path, devices: list[str]) -> ResidueProcess:
    groups = read_bytes(folder / "cgroup")
    text = groups.decode("utf-8", "replace") if isinstance(groups, bytes) else ""
    slot = _SLOT.search(text)
    return ResidueProcess(
        pid=pid,
        comm=read_line(folder / "comm") or "",
        devices=tuple(devices),
        slot=slot[1] if slot else None,
        container=bool(_CONTAINER.search(text)),
        state=parse_stat(read_bytes(folder / "stat", 4096))[0],
    )


def parse_residue(outcome: Outcome) -> Residue | Unavailable:
    """The reading, or why there is none."""
    if outcome.failure:
        return outcome.failure
    return msgspec.convert({"reading": "taken", **outcome.value}, Residue)
