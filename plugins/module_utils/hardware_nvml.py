"""What NVML says of a host's GPUs, MIG devices and NVLinks, read through ctypes. Standard library only.

Runs in a child process only (`hardware.read_hardware`): any call can hang in the kernel or end the process.
Names, numbers and layouts are those of ``nvml.h``. What a GPU or a driver does not support is left out.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from typing import Any

__all__ = ["LIBRARY", "ask_hardware"]

LIBRARY = "libnvidia-ml.so.1"
MISSING, NO_FUNCTION = 12, 13
TEXT_BYTES = 96
MOST_GPUS, MOST_LINKS, MOST_PARTS = 1024, 36, 64  # of broken answers no more is believed; NVML has 18 links
P2P_NVLINK = 2  # NVML_P2P_CAPS_INDEX_NVLINK
MIB = 1 << 20

Announce = Callable[[str], None]


class _PciInfo(ctypes.Structure):
    """nvmlPciInfo_t"""

    _fields_ = (
        ("legacy", ctypes.c_char * 16),
        ("domain", ctypes.c_uint),
        ("bus", ctypes.c_uint),
        ("device", ctypes.c_uint),
        ("id", ctypes.c_uint),
        ("subsystem", ctypes.c_uint),
        ("bus_id", ctypes.c_char * 32),
    )


class _Memory(ctypes.Structure):
    """nvmlMemory_t, in bytes"""

    _fields_ = (
        ("total", ctypes.c_ulonglong),
        ("free", ctypes.c_ulonglong),
        ("used", ctypes.c_ulonglong),
    )


class _Attributes(ctypes.Structure):
    """nvmlDeviceAttributes_t"""

    _fields_ = (("counts", ctypes.c_uint * 8), ("memory_mib", ctypes.c_ulonglong))


class _Nvml:
    """Single calls; each is announced before it is made."""

    def __init__(self, library: Any, announce: Announce) -> None:
        self.library = library
        self.announce = announce

    def code(self, name: str, *arguments: Any) -> int:
        """What a call returns; NO_FUNCTION where the library is older than the call."""
        self.announce(name)
        function = getattr(self.library, name, None)
        return int(function(*arguments)) if function is not None else NO_FUNCTION

    def text(self, name: str, *handle: Any) -> str | None:
        """A call that fills a buffer."""
        buffer = ctypes.create_string_buffer(TEXT_BYTES)
        if self.code(name, *handle, buffer, ctypes.c_uint(TEXT_BYTES)):
            return None
        return buffer.value.decode("utf-8", "replace")

    def number(self, name: str, *arguments: Any) -> int | None:
        """A call that tells one number."""
        value = ctypes.c_uint()
        return None if self.code(name, *arguments, ctypes.byref(value)) else value.value

    def pair(self, name: str, handle: Any) -> tuple[int, int] | None:
        """A call that tells two numbers."""
        one, two = ctypes.c_uint(), ctypes.c_uint()
        failed = self.code(name, handle, ctypes.byref(one), ctypes.byref(two))
        return None if failed else (one.value, two.value)


def ask_hardware(announce: Announce) -> dict[str, Any]:
    """All that is asked: ``code`` and ``stage`` of what failed, or versions and GPUs."""
    announce("loading the library")
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError as error:
        absent = str(error).startswith(f"{LIBRARY}: ") and "No such file" in str(error)
        return {"code": MISSING if absent else -1, "stage": f"loading the library: {error}"}
    nvml = _Nvml(library, announce)
    if code := nvml.code("nvmlInit_v2"):
        return {"code": code, "stage": "nvmlInit_v2"}
    count = ctypes.c_uint()
    if code := nvml.code("nvmlDeviceGetCount_v2", ctypes.byref(count)):
        return {"code": code, "stage": "nvmlDeviceGetCount_v2"}
    if count.value > MOST_GPUS:
        return {"code": -1, "stage": f"nvmlDeviceGetCount_v2: an impossible number of GPUs ({count.value})"}
    gpus, unread, handles = [], [], {}
    for index in range(count.value):
        found = _gpu(nvml, index)
        if isinstance(found, str):
            unread.append({"index": index, "reason": found})
        else:
            handles[found[0]["uuid"]] = found[1]
            gpus.append(found[0])
    _topology(nvml, gpus, handles)
    return {**_versions(nvml), "gpus": gpus, "unread": unread}


def _versions(nvml: _Nvml) -> dict[str, Any]:
    cuda = nvml.number("nvmlSystemGetCudaDriverVersion_v2")
    return {
        "driver_version": nvml.text("nvmlSystemGetDriverVersion"),
        "cuda_version": f"{cuda // 1000}.{cuda % 1000 // 10}" if cuda else None,
    }


def _gpu(nvml: _Nvml, index: int) -> tuple[dict[str, Any], ctypes.c_void_p] | str:
    """What is known of a GPU, and its handle; or why nothing is."""
    handle = ctypes.c_void_p()
    if code := nvml.code("nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(index), ctypes.byref(handle)):
        return f"nvmlDeviceGetHandleByIndex_v2 answers {code}"
    uuid = nvml.text("nvmlDeviceGetUUID", handle)
    if not uuid:
        return "nvmlDeviceGetUUID does not tell its UUID"
    pci, memory = _PciInfo(), _Memory()
    placed = not nvml.code("nvmlDeviceGetPciInfo_v3", handle, ctypes.byref(pci))
    sized = not nvml.code("nvmlDeviceGetMemoryInfo", handle, ctypes.byref(memory))
    capability = nvml.pair("nvmlDeviceGetCudaComputeCapability", handle)
    mig = nvml.pair("nvmlDeviceGetMigMode", handle)
    known = {
        "uuid": uuid,
        "index": index,
        "minor": nvml.number("nvmlDeviceGetMinorNumber", handle),
        "name": nvml.text("nvmlDeviceGetName", handle),
        "pci_bus_id": _bus(pci) if placed else None,
        "memory_bytes": memory.total if sized else None,
        "compute_capability": f"{capability[0]}.{capability[1]}" if capability else None,
        "mig": bool(mig[0]) if mig else None,
        "mig_devices": _parts(nvml, handle) if mig and mig[0] else [],
    }
    return known, handle


def _bus(pci: _PciInfo) -> str:
    """The address as sysfs writes it: NVML has eight digits of domain, the kernel four."""
    text = pci.bus_id.decode("ascii", "replace").lower()
    domain, _, rest = text.partition(":")
    return f"{domain[-4:]}:{rest}" if len(domain) == 8 and domain.startswith("0000") else text


def _parts(nvml: _Nvml, handle: ctypes.c_void_p) -> list[dict[str, Any]]:
    found = []
    most = nvml.number("nvmlDeviceGetMaxMigDeviceCount", handle) or 0
    for index in range(min(most, MOST_PARTS)):
        part, attributes = ctypes.c_void_p(), _Attributes()
        place = ctypes.c_uint(index)
        if nvml.code("nvmlDeviceGetMigDeviceHandleByIndex", handle, place, ctypes.byref(part)):
            continue  # instances need not be numbered without gaps
        uuid = nvml.text("nvmlDeviceGetUUID", part)
        if not uuid:
            continue
        sized = not nvml.code("nvmlDeviceGetAttributes_v2", part, ctypes.byref(attributes))
        profile = re.search(r"\bMIG (\S+)$", nvml.text("nvmlDeviceGetName", part) or "")
        memory = attributes.memory_mib * MIB if sized and attributes.memory_mib else None
        found.append({"uuid": uuid, "profile": profile[1] if profile else None, "memory_bytes": memory})
    return found


def _topology(nvml: _Nvml, gpus: list[dict[str, Any]], handles: dict[str, ctypes.c_void_p]) -> None:
    """How GPUs are connected; asked only where there are several."""
    if len(gpus) < 2:
        return
    for gpu in gpus:
        handle = handles[gpu["uuid"]]
        gpu["links"] = _links(nvml, handle)
        others = [other["uuid"] for other in gpus if other is not gpu]
        gpu["levels"], gpu["nvlink_peers"], kind = {}, [], ctypes.c_uint(P2P_NVLINK)
        for uuid in others:
            level = nvml.number("nvmlDeviceGetTopologyCommonAncestor", handle, handles[uuid])
            if level is not None:
                gpu["levels"][uuid] = level
            if nvml.number("nvmlDeviceGetP2PStatus", handle, handles[uuid], kind) == 0:  # NVML_P2P_STATUS_OK
                gpu["nvlink_peers"].append(uuid)


def _links(nvml: _Nvml, handle: ctypes.c_void_p) -> dict[str, int]:
    """Active links by the PCI address at their other end."""
    found: dict[str, int] = {}
    for number in range(MOST_LINKS):
        link = ctypes.c_uint(number)
        active = nvml.number("nvmlDeviceGetNvLinkState", handle, link)
        if active is None:  # no such link, and none behind it
            break
        pci = _PciInfo()
        if active and not nvml.code("nvmlDeviceGetNvLinkRemotePciInfo_v2", handle, link, ctypes.byref(pci)):
            place = _bus(pci)
            found[place] = found.get(place, 0) + 1
    return found
