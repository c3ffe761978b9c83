"""What every job's log says first ("Set up job"): slot, GPUs, driver, CUDA, and the version of runnerctl.

The runner reads ``.setup_info`` in its root while it sets a job up, before any hook (actions/runner,
JobExtension): so it is written when the guard starts and when something of it has changed, not per job.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from runnerctl import __version__
from runnerctl.core.snapshot import Gpu, Nvml
from runnerctl.guard.ports import SlotPlace
from runnerctl.probes import nvml
from runnerctl.probes.bounded import Report, run_all
from runnerctl.probes.files import read_line, under
from runnerctl.replace import replace_file

__all__ = ["driver_mark", "setup_info", "write_all"]

FILE = ".setup_info"


def driver_mark(root: Path) -> str:
    """What changes when another driver is loaded; empty without one."""
    return read_line(under(root, "/proc/driver/nvidia/version")) or ""


def setup_info(host: str, place: SlotPlace, found: Nvml | None) -> bytes:
    """The file's content. ``found``: what NVML says of the host; None when it said nothing."""
    groups = [("Runner", f"host {host}, slot {place.name} ({place.mode}), runnerctl {__version__}")]
    if place.gpus:
        groups.append(("GPU", "\n".join(_gpu_lines(place.gpus, found))))
    entries = [{"group": group, "detail": detail} for group, detail in groups]
    return msgspec.json.format(msgspec.json.encode(entries), indent=2) + b"\n"


def _gpu_lines(gpus: Sequence[str], found: Nvml | None) -> list[str]:
    if found is None or not found.gpus:
        return [f"{len(gpus)} GPU{'' if len(gpus) == 1 else 's'}; the driver does not tell of them"]
    names = Counter(_name(uuid, found.gpus) for uuid in gpus)
    lines = [f"{count} x {name}" for name, count in names.items()]
    return [*lines, f"driver {found.driver_version or 'unknown'}, CUDA {found.cuda_version or 'unknown'}"]


def _name(uuid: str, gpus: Sequence[Gpu]) -> str:
    for gpu in gpus:
        if gpu.uuid and gpu.uuid.lower() == uuid.lower():
            size = f", {gpu.memory_total_bytes / 2**30:.0f} GiB" if gpu.memory_total_bytes else ""
            return f"{gpu.name or 'unknown GPU'}{size}"
        for device in gpu.mig_devices or ():
            if device.uuid.lower() == uuid.lower():
                return f"{gpu.name or 'unknown GPU'} MIG {device.profile or ''}".strip()
    return "a GPU that the driver does not list"


def write_all(report: Report, *, host: str, places: Sequence[SlotPlace], root: str) -> dict[str, Any]:
    """Ask NVML where a slot has GPUs, and write every slot's file. Runs in a child, which may be ended.

    Returns ``known``: whether NVML told what was asked, ``absent``: slots whose directory is not there, and
    ``pci``: UUID -> PCI address.
    """
    report.stage("NVML")
    found = _asked(Path(root)) if any(place.gpus for place in places) else None
    report.stage("the files of the slots")
    absent = []
    for place in places:
        content = setup_info(host, place, found)
        try:
            _write(under(Path(root), str(place.root)), content)
        except OSError:  # no such slot yet: its converge comes later, and so do we
            absent.append(place.name)
    missing = found is None and any(place.gpus for place in places)
    return {"known": not missing, "absent": absent, "pci": _addresses(found.gpus if found else ())}


def _asked(root: Path) -> Nvml | None:
    answer = nvml.parse(run_all({"nvml": nvml.task(None, rootfs=root)})["nvml"])
    return answer if isinstance(answer, Nvml) and answer.gpus else None


def _addresses(gpus: Sequence[Gpu]) -> dict[str, str]:
    found: dict[str, str] = {}
    for gpu in gpus:
        if gpu.pci_bus_id:
            found |= {uuid: gpu.pci_bus_id for uuid in (gpu.uuid, *gpu.mig_uuids) if uuid}
    return found


def _write(folder: Path, content: bytes) -> None:
    path = folder / FILE
    with contextlib.suppress(OSError):
        if not path.is_symlink() and path.read_bytes() == content and path.stat().st_uid == os.geteuid():
            return
    replace_file(path, content, mode=0o644)
