"""The way between GPUs over PCI Express: the IOMMU, access control on switches, NVSwitches. From sysfs."""

from __future__ import annotations

from pathlib import Path

from runnerctl.probes.files import read_bytes, read_line, under

__all__ = ["acs_redirect", "count_nvswitches", "iommu_type", "virtual_machine"]

_DEVICES = "/sys/bus/pci/devices"
_NVIDIA = "0x10de"
_SWITCH = "0x0680"  # "other bridge": what an NVSwitch calls itself
_LEGACY_BYTES = 256  # of configuration space; the extended part is root's only
_PCI_EXPRESS = 0x10
_DOWNSTREAM_PORT = 6
_ACS = 0x000D
_REDIRECTS = 0x04 | 0x08  # P2P Request Redirect, P2P Completion Redirect (PCI Express, ACS Control)
_MOST_CAPABILITIES = 64


def count_nvswitches(rootfs: Path) -> int:
    """NVIDIA's bridges of class 0680."""
    try:
        devices = list(under(rootfs, _DEVICES).iterdir())
    except OSError:
        return 0
    ours = (device for device in devices if read_line(device / "vendor") == _NVIDIA)
    return sum((read_line(device / "class") or "").startswith(_SWITCH) for device in ours)


def iommu_type(rootfs: Path, addresses: tuple[str, ...]) -> str | None:
    """The kind of the GPUs' IOMMU group: DMA, DMA-FQ, identity; None without an IOMMU."""
    places = (under(rootfs, f"{_DEVICES}/{address}/iommu_group/type") for address in addresses)
    return next((found for place in places if (found := read_line(place))), None)


def virtual_machine(rootfs: Path) -> bool:
    """Whether this is a guest: the processor says so (x86), or the firmware's maker is a hypervisor's."""
    data = read_bytes(under(rootfs, "/proc/cpuinfo"), 16384)
    flags = data.decode("ascii", "replace") if isinstance(data, bytes) else ""
    maker = read_line(under(rootfs, "/sys/class/dmi/id/sys_vendor")) or ""
    return " hypervisor" in flags or maker in (
        "QEMU",
        "Amazon EC2",
        "Google",
        "Xen",
        "Red Hat",
        "VMware, Inc.",
    )


def acs_redirect(rootfs: Path, addresses: tuple[str, ...]) -> tuple[str, ...]:
    """Downstream ports of PCIe switches above GPUs that send peer-to-peer traffic up to the root complex.

    Root ports are left out: traffic between two of them passes the root complex anyway.
    """
    found = []
    for address in addresses:
        try:
            place = under(rootfs, f"{_DEVICES}/{address}").resolve(strict=True)
        except OSError:
            continue
        for bridge in place.parents:
            if not (bridge / "config").exists():
                break
            if bridge.name not in found and _redirects(bridge / "config"):
                found.append(bridge.name)
    return tuple(found)


def _redirects(path: Path) -> bool:
    space = read_bytes(path, 4096)
    if not isinstance(space, bytes) or len(space) <= _LEGACY_BYTES:
        return False
    return _port_type(space) == _DOWNSTREAM_PORT and bool(_acs_control(space) & _REDIRECTS)


def _port_type(space: bytes) -> int | None:
    """The device/port type in the PCI Express capability."""
    at = space[0x34] & 0xFC
    for _ in range(_MOST_CAPABILITIES):
        if not at:
            break
        if space[at] == _PCI_EXPRESS:
            return space[at + 2] >> 4
        at = space[at + 1] & 0xFC
    return None


def _acs_control(space: bytes) -> int:
    """The control register of the ACS extended capability; 0 without one."""
    at = _LEGACY_BYTES
    for _ in range(_MOST_CAPABILITIES):
        head = int.from_bytes(space[at : at + 4], "little")
        if head & 0xFFFF == _ACS:
            return int.from_bytes(space[at + 6 : at + 8], "little")
        at = head >> 20
        if at < _LEGACY_BYTES:
            break
    return 0
