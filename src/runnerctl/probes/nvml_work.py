"""What NVML tells of the work on a GPU: its MIG devices and its processes."""

from __future__ import annotations

import math
from typing import Any

from runnerctl.core.gpu_readings import GpuProcess, MigDevice
from runnerctl.probes.nvml_calls import (
    INSUFFICIENT_SIZE,
    INVALID_ARGUMENT,
    NO_PERMISSION,
    NOT_FOUND,
    Device,
    text,
)

__all__ = ["mig", "processes", "profile"]

_NO_LIST = (NO_PERMISSION, INSUFFICIENT_SIZE)
_LISTS = {
    "compute": "nvmlDeviceGetComputeRunningProcesses",
    "graphics": "nvmlDeviceGetGraphicsRunningProcesses",
    "mps": "nvmlDeviceGetMPSComputeRunningProcesses",
}


def processes(device: Device) -> tuple[GpuProcess, ...] | None:
    """The processes of all kinds; None when none of the lists can be had.

    With MIG on only the administrator may ask (nvml.h); a list that grew while it was read is left out.
    """
    found: list[GpuProcess] = []
    told = False
    for kind, call in _LISTS.items():
        # Without a version in its name the binding complains of older drivers instead of saying "not found".
        listed = device.ask(f"{call}_v3", absent=_NO_LIST)
        if listed is None:
            listed = device.ask(f"{call}_v2", absent=_NO_LIST)
        told = told or listed is not None
        found.extend(GpuProcess(each.pid, kind, each.usedGpuMemory) for each in listed or ())
    return tuple(found) if told else None


def mig(device: Device, total_bytes: int | None) -> dict[str, Any]:
    """The MIG devices of a GPU with so much memory, which is in MIG mode."""
    devices = []
    for number in range(device.ask("nvmlDeviceGetMaxMigDeviceCount") or 0):
        # NOT_FOUND: a place in the layout that is not taken
        handle = device.ask(
            "nvmlDeviceGetMigDeviceHandleByIndex", number, absent=(NOT_FOUND, INVALID_ARGUMENT)
        )
        if handle is not None and (found := _mig_device(device.other(handle), total_bytes)):
            devices.append(found)
    return {"mig_devices": tuple(devices), "mig_uuids": tuple(each.uuid for each in devices)}


def _mig_device(device: Device, total_bytes: int | None) -> MigDevice | None:
    uuid = text(device.ask("nvmlDeviceGetUUID"))
    if not uuid:
        return None
    name = text(device.ask("nvmlDeviceGetName")) or ""
    attributes = device.ask("nvmlDeviceGetAttributes")
    named = name.rpartition(" MIG ")[2] if " MIG " in name else None
    return MigDevice(
        uuid=uuid,
        profile=named or (profile(attributes, total_bytes) if attributes and total_bytes else None),
        gpu_instance=device.ask("nvmlDeviceGetGpuInstanceId"),
        compute_instance=device.ask("nvmlDeviceGetComputeInstanceId"),
        memory_bytes=attributes.memorySizeMB * 2**20 if attributes else None,
    )


def profile(attributes: Any, total_bytes: int) -> str | None:
    """The profile's name, like ``1g.10gb`` or ``1c.2g.20gb``, as NVIDIA's tools make it.

    Its memory is the GPU's in eighths, rounded up, in whole gibibytes of the GPU's rounded-up size.
    """
    slices, compute = attributes.gpuInstanceSliceCount, attributes.computeInstanceSliceCount
    if not slices:
        return None
    eighths = math.ceil(attributes.memorySizeMB * 2**20 / total_bytes * 8) / 8
    size = round(eighths * math.ceil(total_bytes / 2**30))
    return f"{f'{compute}c.' if compute and compute != slices else ''}{slices}g.{size}gb"
